"""Decides the form of every value: asks the tables about each node, then cuts. Knows the graph and no operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Capture, fetch
from convsurgeon.lifting import Candidate, consider
from convsurgeon.observe import Facts, Value
from convsurgeon.planning.cut import Problem, solve
from convsurgeon.planning.ownership import Ownership
from convsurgeon.planning.plan import Border, CaptureNote, Kept, LiftedOperator, Plan
from convsurgeon.planning.selection import Selection
from convsurgeon.rules import Refusal
from convsurgeon.spellings import operator_name


@dataclass(slots=True)
class _Survey:
    """What is known of each node before the forms are chosen."""

    candidates: dict[fx.Node, Candidate] = field(default_factory=dict)
    refusals: dict[fx.Node, str] = field(default_factory=dict)

    def refuse(self, node: fx.Node, reason: str) -> None:
        self.candidates.pop(node, None)
        self.refusals[node] = reason


def make_plan(
    capture: Capture,
    facts: Facts | None,
    *,
    lift: Literal["regions", "ops"],
    unit_axis: Literal[-2, -1],
    include: Sequence[str],
    exclude: Sequence[str],
) -> Plan:
    """Plan the conversion of a captured graph from the `facts` of one run; without them, each convolution alone."""
    axis = UnitAxis(unit_axis)
    ownership = Ownership(capture.root, capture.graph)
    survey = _survey(capture, facts, axis, Selection.of(capture.root, include, exclude))
    _refuse_pinned(survey, ownership, capture)
    graph = _ValueGraph(capture, facts, axis, survey, ownership)
    regions = lift == "regions" and facts is not None
    forms = graph.in_regions() if regions else graph.alone()
    steps = {node.name: survey.candidates[node] for node in capture.graph.nodes if node in forms.lifted}
    return Plan(
        capture=CaptureNote(capture.how, capture.mode, capture.reason),
        lift="regions" if regions else "ops",
        unit_axis=unit_axis,
        lifted=tuple(
            _lifted(node, survey.candidates[node], capture) for node in capture.graph.nodes if node.name in steps
        ),
        borders=tuple(graph.borders(forms)),
        kept=tuple(_kept(survey, forms, capture, facts, axis, regions=regions)),
        moved=graph.moved(forms),
        graph=capture.graph,
        steps=steps,
        two_d=frozenset(node.name for node in forms.two_d),
        restored=frozenset(_restored(steps, capture.graph, facts, axis)),
    )


def _survey(capture: Capture, facts: Facts | None, axis: UnitAxis, selection: Selection) -> _Survey:
    survey = _Survey()
    resized = set() if facts is None else {operand for fact in facts.values() for operand in fact.resized}
    for node in capture.graph.nodes:
        if not node.op.startswith("call"):
            continue
        candidate = consider(node, facts, capture.modules, axis)
        if isinstance(candidate, Refusal):
            survey.refusals[node] = candidate.reason
            continue
        survey.candidates[node] = candidate
        reason = selection.refuses(node, convolution=candidate.rule.must)
        if reason is None and node in resized:
            reason = "an in-place operator changes the shape of its result"
        if reason is not None:
            survey.refuse(node, reason)
    return survey


def _refuse_pinned(survey: _Survey, ownership: Ownership, capture: Capture) -> None:
    """Keep a module 1-D whose weight is also the weight of one that stays; which may keep others, in turn."""
    calls: dict[str, list[fx.Node]] = {}
    for node in capture.graph.find_nodes(op="call_module"):
        calls.setdefault(str(node.target), []).append(node)
    while True:
        lifted = {
            id(capture.modules[path])
            for path, nodes in calls.items()
            if all(node in survey.candidates for node in nodes)
        }
        refused = [
            (node, path)
            for path, nodes in calls.items()
            for node in nodes
            if node in survey.candidates
            and survey.candidates[node].replaces_module
            and id(capture.modules[path]) not in lifted
        ]
        for node, path in refused:
            other = next(one for one in calls[path] if one not in survey.candidates)
            survey.refuse(node, f"another call of {path} stays 1-D: {survey.refusals[other]}")
        for node, candidate in list(survey.candidates.items()):
            for name in candidate.state:
                holder = ownership.pinned_by(ownership.tensor(name), lifted)
                if holder is not None and node in survey.candidates:
                    survey.refuse(node, f"its {name.rpartition('.')[2]} is also that of {holder}, which stays 1-D")
                    refused.append((node, name))
        if not refused:
            return


@dataclass(frozen=True, slots=True)
class _Forms:
    """The decision: the operators that run lifted, and the values that are held in 2-D."""

    lifted: set[fx.Node]
    two_d: set[fx.Node]


class _ValueGraph:
    """The cut's view of the graph: an id for each value, one for all reads of a tensor."""

    def __init__(
        self, capture: Capture, facts: Facts | None, axis: UnitAxis, survey: _Survey, ownership: Ownership
    ) -> None:
        self._graph = capture.graph
        self._facts = facts
        self._axis = axis
        self._candidates = survey.candidates
        self._ownership = ownership
        self._tensors = {
            node: ownership.tensor(str(node.target))
            for node in capture.graph.find_nodes(op="get_attr")
            if isinstance(fetch(capture.root, str(node.target)), torch.Tensor)
        }
        self._required = {
            id(ownership.tensor(name)) for candidate in survey.candidates.values() for name in candidate.state
        }
        self._lifted_modules = {
            id(capture.modules[str(node.target)])
            for node, candidate in survey.candidates.items()
            if node.op == "call_module" and candidate.state
        }

    def _id(self, node: fx.Node) -> Any:
        return ("state", id(self._tensors[node])) if node in self._tensors else node

    def alone(self) -> _Forms:
        """Each convolution by itself; a tensor moves if nothing but lifted convolutions reads it."""
        must = {node for node, candidate in self._candidates.items() if candidate.rule.must}
        fixed = {id(tensor) for tensor in self._tensors.values() if self._is_pinned(tensor)}
        for node, tensor in self._tensors.items():
            if any(user not in must or node not in self._candidates[user].operands for user in node.users):
                fixed.add(id(tensor))
        moved = {node for node, tensor in self._tensors.items() if id(tensor) not in fixed - self._required}
        return _Forms(must, moved)

    def in_regions(self) -> _Forms:
        """The cheapest forms: as few borders as the graph allows, then as few bytes across them."""
        two_d = solve(self._problem())
        held = {node for node in self._graph.nodes if self._id(node) in two_d}
        return _Forms(held & set(self._candidates), held)

    def _problem(self) -> Problem:
        assert self._facts is not None
        sizes = {node: fact.value.nbytes for node, fact in self._facts.items() if fact.value is not None}
        one_border = 1 + sum(sizes.values())
        problem = Problem(fixed={_ONE_D: False})
        for node in self._graph.nodes:
            key = self._id(node)
            form = self._given_form(node)
            if form is not None:
                problem.fixed[key] = form
            if node in sizes:
                problem.weights[key] = one_border + sizes[node]
            candidate = self._candidates.get(node)
            lifted = () if candidate is None else candidate.operands
            for operand in node.all_input_nodes:
                if self._has_form(operand):
                    consumers = problem.consumers.setdefault(self._id(operand), [])
                    consumers.append(key if operand in lifted else _ONE_D)
        problem.ties = [tie for tie in self._ties() if not any(key in problem.fixed for key in tie)]
        return problem

    def _ties(self) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Calls of one module that is replaced: converted once, it serves them all."""
        first: dict[Any, fx.Node] = {}
        for node, candidate in self._candidates.items():
            if candidate.replaces_module and first.setdefault(node.target, node) is not node:
                yield first[node.target], node

    def _given_form(self, node: fx.Node) -> bool | None:
        candidate = self._candidates.get(node)
        if candidate is not None:
            return True if candidate.rule.must else None
        tensor = self._tensors.get(node)
        if tensor is not None and id(tensor) in self._required:
            return True
        return False if tensor is None or not self._has_form(node) or self._is_pinned(tensor) else None

    def _has_form(self, node: fx.Node) -> bool:
        """Whether the value takes part; without facts, every value that is asked about does."""
        if self._facts is None:
            return True
        value = self._facts[node].value
        return value is not None and self._axis.has_form(value.rank)

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return self._ownership.pinned_by(tensor, self._lifted_modules) is not None

    def borders(self, forms: _Forms) -> Iterator[Border]:
        """The borders between these forms, in the order of the graph."""
        flowing: set[fx.Node] = set()
        for value in self._graph.nodes:
            if value.op == "placeholder" or any(operand in flowing for operand in value.all_input_nodes):
                flowing.add(value)
            two_d = value in forms.two_d
            changes = [
                user.name
                for user in value.users
                if (user in forms.lifted and value in self._candidates[user].operands) is not two_d
            ]
            facts = None if self._facts is None else self._facts[value].value
            shape, nbytes = (None, None) if facts is None else (facts.shape, facts.nbytes)
            if value in forms.lifted and not two_d:
                yield Border(value.name, "lower", shape, nbytes, (value.name,), value not in flowing)
            if changes and self._has_form(value):
                yield Border(
                    value.name, "lower" if two_d else "lift", shape, nbytes, tuple(changes), value not in flowing
                )

    def moved(self, forms: _Forms) -> tuple[str, ...]:
        """The qualified names of the tensors that gain the unit axis."""
        held = [self._ownership.tensor(name) for node in forms.lifted for name in self._candidates[node].state]
        read = [tensor for node, tensor in self._tensors.items() if node in forms.two_d]
        names = {name for tensor in (*held, *read) for name in self._ownership.names(tensor)}
        return tuple(sorted(names))


_ONE_D = "always 1-D"


def _restored(
    steps: Mapping[str, Candidate], graph: fx.Graph, facts: Facts | None, axis: UnitAxis
) -> Iterator[tuple[str, str]]:
    """(node, operand) where the 1-D operator would return contiguous strides and the 2-D one channels_last."""
    for node in graph.nodes:
        step = steps.get(node.name)
        if step is None or not step.rule.contiguous or not _is_contiguous(node, facts):
            continue
        for operand in step.operands:
            if facts is None:
                unsure = operand.op in ("call_method", "call_function")
            else:
                value = facts[operand].value
                unsure = value is not None and not (value.is_contiguous and _stays_contiguous(value, axis))
            if unsure:
                yield node.name, operand.name


def _is_contiguous(node: fx.Node, facts: Facts | None) -> bool:
    value = None if facts is None else facts[node].value
    return value is None or value.is_contiguous


def _stays_contiguous(value: Value, axis: UnitAxis) -> bool:
    """Whether a contiguous value is taken for contiguous in 2-D as well.

    With one channel, (N, L, 1).transpose(1, 2) is contiguous, and channels_last too once the unit axis is in: operators
    tell from the strides alone (c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4).
    """
    shape, stride = axis.lifted_shape(value.shape), axis.lifted_stride(value.shape, value.stride)
    if len(shape) == 3:  # unbatched: operators put the batch in front
        shape, stride = (1, *shape), (shape[0] * stride[0], *stride)
    if len(shape) != 4 or stride[1] == 0:
        return True
    least = 0
    for at in (1, 3, 2, 0):
        if shape[at] == 0 or stride[at] < least or (at == 0 and least == stride[1]):
            return True
        least = stride[at] * max(shape[at], 1)
    return False


def _lifted(node: fx.Node, candidate: Candidate, capture: Capture) -> LiftedOperator:
    name = operator_name(node, capture.modules)
    becomes = name if candidate.spelling is None else candidate.spelling.lifted_name or name
    return LiftedOperator(node.name, _module_of(node), name, becomes, candidate.rule.operator)


def _kept(
    survey: _Survey, forms: _Forms, capture: Capture, facts: Facts | None, axis: UnitAxis, *, regions: bool
) -> list[Kept]:
    """The operators that could be expected in 2-D and aren't; without regions only convolutions could be."""
    kept = []
    for node in capture.graph.nodes:
        if not node.op.startswith("call") or node in forms.lifted:
            continue
        reason = survey.refusals.get(node, "lifting it would add borders, or no convolution is near")
        operator = operator_name(node, capture.modules)
        touches = facts is None or any(
            (value := facts[one].value) is not None and axis.has_form(value.rank)
            for one in (node, *node.all_input_nodes)
        )
        if touches and (regions or "conv" in operator.lower()):
            kept.append(Kept(_module_of(node) or node.name, operator, reason, _source(node)))
    return kept


def _module_of(node: fx.Node) -> str:
    """The qualified name of the called module, or of the one whose forward calls."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _source(node: fx.Node) -> str:
    """The user's innermost line, as file:line."""
    if not node.stack_trace:
        return ""
    lines = [line.strip() for line in node.stack_trace.splitlines() if line.strip().startswith("File ")]
    if not lines:
        return ""
    file, line, *_ = lines[-1].removeprefix("File ").split(", ")
    return f"{file.strip(chr(34))}:{line.removeprefix('line ')}"
