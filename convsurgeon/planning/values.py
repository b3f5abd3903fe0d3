"""The values of a graph, and the form of each: the cut's view of what was learnt about the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Capture, fetch
from convsurgeon.lifting import Candidate, detaches
from convsurgeon.planning.cut import Problem, solve
from convsurgeon.planning.ownership import Ownership
from convsurgeon.rules import Lifted, Lowered, Raised
from convsurgeon.runs.observe import Facts, has_form


@dataclass(slots=True)
class Survey:
    """What is known of each node before the forms are chosen."""

    candidates: dict[fx.Node, Candidate] = field(default_factory=dict)
    refusals: dict[fx.Node, str] = field(default_factory=dict)

    def refuse(self, node: fx.Node, reason: str) -> None:
        self.candidates.pop(node, None)
        self.refusals[node] = reason


@dataclass(frozen=True, slots=True)
class Forms:
    """The decision: the operators that run lifted, each with the way it does, and the values that are held in 2-D."""

    lifted: dict[fx.Node, Candidate]
    two_d: set[fx.Node]


class ValueGraph:
    """The cut's view of the graph: an id for each value, one for all reads of a tensor.

    With `open_ends`, inputs and outputs of the graph may be 2-D too.
    """

    def __init__(
        self,
        capture: Capture,
        facts: Facts | None,
        axis: UnitAxis,
        survey: Survey,
        ownership: Ownership,
        *,
        open_ends: bool,
    ) -> None:
        self._graph = capture.graph
        self._modules = capture.modules
        self._facts = facts
        self._axis = axis
        self._candidates = survey.candidates
        self._ownership = ownership
        self._open_ends = open_ends
        self._tensors = {
            node: ownership.tensor(str(node.target))
            for node in capture.graph.find_nodes(op="get_attr")
            if isinstance(fetch(capture.root, str(node.target)), torch.Tensor)
        }
        self._required = {
            id(ownership.tensor(name))
            for candidate in survey.candidates.values()
            if candidate.rule.must
            for name in candidate.state
        }
        self._lifted_modules = {
            id(capture.modules[str(node.target)])
            for node, candidate in survey.candidates.items()
            if node.op == "call_module" and candidate.rule.must and candidate.state
        }

    def _id(self, node: fx.Node) -> Any:
        return ("state", id(self._tensors[node])) if node in self._tensors else node

    def _operator_id(self, node: fx.Node) -> Any:
        """The id of the form that the operator takes its operands in: its result's, unless that may be another."""
        candidate = self._candidates.get(node)
        apart = candidate is not None and {type(way) for way in candidate.ways} != {Lifted}
        return ("operator", node) if apart else self._id(node)

    def alone(self) -> Forms:
        """Each convolution by itself; a tensor moves if nothing but lifted convolutions reads it."""
        must = {node: candidate for node, candidate in self._candidates.items() if candidate.rule.must}
        fixed = {id(tensor) for tensor in self._tensors.values() if self._is_pinned(tensor)}
        for node, tensor in self._tensors.items():
            if any(user not in must or node not in self._candidates[user].operands for user in node.users):
                fixed.add(id(tensor))
        moved = {node for node, tensor in self._tensors.items() if id(tensor) not in fixed - self._required}
        return Forms(must, moved)

    def in_regions(self) -> Forms:
        """The cheapest forms: as few borders as the graph allows, then as few bytes across them."""
        two_d = solve(self._problem())
        held = {node for node in self._graph.nodes if self._id(node) in two_d}
        lifted = {}
        for node, candidate in self._candidates.items():
            kind = _KINDS[bool(candidate.operands) and self._operator_id(node) in two_d, node in held]
            if kind is not None:
                lifted[node] = candidate.taking(kind)
        return Forms(lifted, held)

    def _problem(self) -> Problem:
        assert self._facts is not None
        sizes = {node: fact.value.nbytes for node, fact in self._facts.items() if fact.value is not None}
        one_border = 1 + sum(sizes.values()) + len(sizes)
        problem = Problem(fixed={_ONE_D: False})
        for node in self._graph.nodes:
            key = self._id(node)
            form = self._given_form(node)
            if form is not None:
                problem.fixed[key] = form
            elif self._costs(node):
                problem.costs[key] = 1
            if node in sizes:
                problem.weights[key] = one_border + sizes[node]
            candidate = self._candidates.get(node)
            lifted = () if candidate is None else candidate.operands
            if node.op == "output" and self._open_ends:
                continue
            for operand in node.all_input_nodes:
                if operand in sizes and has_form(operand, self._facts, self._axis):
                    consumers = problem.consumers.setdefault(self._id(operand), [])
                    consumers.append(self._operator_id(node) if operand in lifted else _ONE_D)
        problem.ties = list(self._ties())
        problem.implied = list(self._implied())
        return problem

    def _costs(self, node: fx.Node) -> bool:
        """Whether 1-D is better if no border is spared: hardware holds four axes, and an input had better have them."""
        seen = None if self._facts is None else self._facts[node].value
        return seen is not None and (seen.rank > 3 or (node.op == "placeholder" and seen.rank != 3))

    def _implied(self) -> Iterator[tuple[Any, Any]]:
        """Of operators whose operands and result may differ in form, which of the two follows from the other."""
        for node, candidate in self._candidates.items():
            operands, result = self._operator_id(node), self._id(node)
            if operands != result:
                if candidate.way(Lowered) is None:
                    yield operands, result
                if candidate.way(Raised) is None:
                    yield result, operands

    def _ties(self) -> Iterator[tuple[Any, Any]]:
        """What has one form: calls of one module that is replaced; a tuple and its items; what is detached in place."""
        first: dict[Any, fx.Node] = {}
        for node, candidate in self._candidates.items():
            if detaches(node):
                yield from ((self._id(operand), node) for operand in candidate.operands)
            if self._facts is not None and self._facts[node].items:
                yield from ((node, user) for user in node.users)
            if candidate.replaces_module:
                called = id(self._modules[str(node.target)])
                if first.setdefault(called, node) is not node:
                    yield self._operator_id(first[called]), self._operator_id(node)

    def _given_form(self, node: fx.Node) -> bool | None:
        candidate = self._candidates.get(node)
        if candidate is not None:
            if candidate.rule.must:
                return True
            return None if candidate.way(Lifted) or candidate.way(Raised) else False
        if node.op == "placeholder" and self._open_ends and has_form(node, self._facts, self._axis):
            return None
        tensor = self._tensors.get(node)
        if tensor is not None and id(tensor) in self._required:
            return True
        return (
            False if tensor is None or not has_form(node, self._facts, self._axis) or self._is_pinned(tensor) else None
        )

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return self._ownership.pinned_by(tensor, self._lifted_modules, self._required) is not None

    def moved(self, forms: Forms) -> tuple[str, ...]:
        """The qualified names of the tensors that gain the unit axis."""
        held = [self._ownership.tensor(name) for step in forms.lifted.values() for name in step.state]
        read = [tensor for node, tensor in self._tensors.items() if node in forms.two_d]
        names = {name for tensor in (*held, *read) for name in self._ownership.names(tensor)}
        return tuple(sorted(names))


_ONE_D = "always 1-D"

_KINDS: dict[tuple[bool, bool], type[Lifted] | None] = {
    (True, True): Lifted,
    (True, False): Lowered,
    (False, True): Raised,
    (False, False): None,
}
"""How an operator is computed, by whether its operands and its result are 2-D."""
