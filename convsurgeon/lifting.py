"""Asks the tables about one node: which rule lifts it, which operands go along, or why it stays 1-D."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Modules
from convsurgeon.rules import (
    RULES,
    Arguments,
    Computed,
    Deferred,
    Lifted,
    Lowered,
    Raised,
    Refusal,
    Rule,
    Ways,
    keeps_length,
    makes_one_long,
)
from convsurgeon.rules.pointwise import broadcasts, is_elementwise
from convsurgeon.runs.observe import Facts, NodeFacts, Value, has_form
from convsurgeon.spellings import Call, ModuleSpelling, Spelling, State, has_state, is_torchs_own, operator_name, read


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that can run in 2-D: by which rule, in which ways, and which of its operands are 2-D then.

    `state` names the tensors that the called module holds and that move with it. `spelling` is None where the node
    stays as it is but for its operands. In a plan, one way is left.
    """

    rule: Rule
    ways: Ways
    operands: tuple[fx.Node, ...]
    state: tuple[str, ...] = ()
    spelling: Spelling | None = None

    @property
    def lifted(self) -> Lifted:
        """The way that is taken, or the first."""
        return self.ways[0]

    def way(self, kind: type[Lifted]) -> Lifted | None:
        """The way of exactly this kind, if there is one."""
        return next((way for way in self.ways if type(way) is kind), None)

    def taking(self, kind: type[Lifted]) -> Candidate:
        """This candidate with one way left; a raised one takes its operands in 1-D."""
        way = self.way(kind)
        assert way is not None, f"{self.rule.operator} can't be {kind.__name__}"
        return replace(self, ways=(way,), operands=() if kind is Raised else self.operands)

    @property
    def replaces_module(self) -> bool:
        """Whether the called module becomes one of another class, for all who call it."""
        spelling = self.spelling
        return isinstance(spelling, ModuleSpelling) and (
            spelling.lifted is not spelling.layer or not set(self.lifted.changes).isdisjoint(spelling.settings)
        )


def consider(node: fx.Node, facts: Facts | None, modules: Modules, axis: UnitAxis) -> Candidate | Refusal:
    """What becomes of `node`: by its rule if it has one, else as a pointwise operator if it was observed to be one."""
    seen = None if facts is None else facts[node]
    if isinstance(node.target, HigherOrderOperator):
        return Refusal(_of_region(node, modules))
    call = read(node, modules)
    if isinstance(call, Refusal):
        return call
    if seen is not None and seen.value is None and not _may_answer(seen, call):
        return Refusal(f"no rule covers it, and its result is {_words(seen)}, not a tensor")
    if call is not None:
        return _by_rule(node, call, facts, modules, axis)
    if seen is None:
        return Refusal("without samples only convolutions are known")
    return _as_pointwise(node, seen, facts or {}, modules, axis)


def marks_a_value(node: fx.Node) -> bool:
    """Whether a node says of a value, in place, that it needs a gradient, or has none.

    Views that were taken of it before don't follow.
    """
    return detaches(node) or marks_an_input(node)


def detaches(node: fx.Node) -> bool:
    """Whether the node detaches a value in place, which of a view torch refuses to do."""
    return node.target in _DETACHING


def marks_an_input(node: fx.Node) -> bool:
    """Whether the node says that an input needs a gradient."""
    marks = node.op == "call_method" and node.target == "requires_grad_"
    return marks and isinstance(node.args[0], fx.Node) and node.args[0].op == "placeholder"


_DETACHING = ("detach_", torch.detach_, torch.ops.aten.detach_.default)


def _of_region(node: fx.Node, modules: Modules) -> str:
    """Why what an exported program has in a region of its own (without gradient, a branch, a loop) stays as it is."""
    inner = [one for name in node.all_input_nodes for one in modules.get(str(name.target), nn.Module()).modules()]
    nodes = [one for graph in inner if isinstance(graph, fx.GraphModule) for one in graph.graph.nodes]
    count = sum(read(one, modules) is not None and "conv" in operator_name(one, modules) for one in nodes)
    return f"it is a region of its own, which stays as it is, with {count} convolution{'s' * (count != 1)} in it"


def _may_answer(seen: NodeFacts, call: Call | None) -> bool:
    """Whether a rule may cover an operator whose result is no tensor: a tuple of them, or a plain answer."""
    return call is not None and (bool(seen.items) or RULES[call.operator].query)


def _by_rule(node: fx.Node, call: Call, facts: Facts | None, modules: Modules, axis: UnitAxis) -> Candidate | Refusal:
    rule = RULES[call.operator]
    known = _known(call, facts)
    if facts is None and rule.must:
        known |= {name: _unseen(value) for name, value in call.arguments.items() if name not in rule.lifts}
    taken_first = known.get("input")
    if isinstance(taken_first, Value) and taken_first.rank == 0:
        return Refusal("what it takes is one number")
    one_long = rule.asks_length and facts is not None and _is_one_long(call.arguments.get("input"), facts, modules)
    answer = rule.lift(Arguments({**known, "result": _facts_of(node, facts), "one_long": one_long}), axis)
    if isinstance(answer, Refusal):
        return answer
    if call.arguments.get("out") is not None:
        return Refusal("it writes to an out= argument")
    ways = answer if isinstance(answer, tuple) else (answer,)
    operands = [value for name in rule.lifts for value in _flat(call.arguments.get(name))]
    if not rule.unpacks and any(_is_tuple(value, facts) for value in operands):
        return Refusal("it takes a tuple of values as a whole")
    taken = tuple(value for value in operands if isinstance(value, fx.Node) and has_form(value, facts, axis))
    beside = [value for name, given in call.arguments.items() if name not in rule.lifts for value in _flat(given)]
    if not set(taken).isdisjoint(value for value in beside if isinstance(value, fx.Node)):
        return Refusal("it takes one value twice, of which one would be 2-D")
    state = tuple(value.name for value in operands if isinstance(value, State) and axis.has_form(value.value.rank))
    if any(one not in operands for one in node.all_input_nodes):  # an argument may be computed in the graph
        ways = tuple(map(_in_nodes, ways))
        computed = _computed_otherwise(ways, call, facts)
        if computed is not None:
            return computed
    if not rule.query and not has_form(node, facts, axis):
        ways = tuple(way for way in ways if isinstance(way, Lowered))
    if facts is not None and not taken:
        ways = tuple(way for way in ways if isinstance(way, Raised))
    if all(isinstance(way, Raised) for way in ways):
        taken = ()
    if not ways:
        return Refusal("the rank of what it takes or returns is too low to have a 2-D form")
    return Candidate(rule, ways, taken, state, call.spelling)


def _is_one_long(value: Any, facts: Facts, modules: Modules) -> bool:
    """Whether the last axis of a value has one element at every size of the inputs, by what made the value."""
    while isinstance(value, fx.Node):
        call = read(value, modules)
        if isinstance(call, Call):
            known = Arguments(_known(call, facts))
            if makes_one_long(call.operator, known):
                return True
            value = call.arguments.get("input") if keeps_length(call.operator, known) else None
        else:
            alone = len(value.all_input_nodes) == 1 and not isinstance(call, Refusal) and is_torchs_own(value)
            elementwise = alone and is_elementwise(facts[value].overloads) and not has_state(value, modules)
            value = value.all_input_nodes[0] if elementwise else None
    return False


def _in_nodes(way: Lifted) -> Lifted:
    """A rule's answer with the nodes themselves, where it passed on what the graph computes."""

    def node_of(leaf: Any) -> Any:
        if isinstance(leaf, Deferred):
            return Deferred(leaf.function, fx.node.map_aggregate(leaf.args, node_of))
        return leaf.node if isinstance(leaf, Computed) else leaf

    return type(way)(way.operator, **fx.node.map_aggregate(way.changes, node_of))


def _computed_otherwise(ways: Ways, call: Call, facts: Facts | None) -> Refusal | None:
    """Why an argument that changes can't be computed in the graph: only numbers can, and a slice's end as a tensor."""
    for way in ways:
        for name, value in way.changes.items():
            if facts is None and isinstance(call.arguments.get(name), fx.Node) and not isinstance(value, Deferred):
                return Refusal(f"its {name} is computed in the graph, and may be several numbers: a sample would tell")
            if any(isinstance(leaf, Value) for leaf in _leaves(value)):
                return Refusal(f"its {name} is computed in the graph, as a tensor")
            for node in () if isinstance(value, Deferred) else _nodes(value):
                if facts is not None and facts[node].result not in (int, float) and not _is_one_number(facts[node]):
                    return Refusal(f"its {name} is computed in the graph, as {_words(facts[node])}")
    return None


def _is_one_number(seen: NodeFacts) -> bool:
    return seen.value is not None and seen.value.rank == 0


def _as_pointwise(
    node: fx.Node, seen: NodeFacts, facts: Facts, modules: Modules, axis: UnitAxis
) -> Candidate | Refusal:
    operands = [operand for operand in node.all_input_nodes if facts[operand].value is not None]
    observed = [value for operand in operands if (value := facts[operand].value) is not None]
    assert seen.value is not None
    if not is_torchs_own(node):
        return Refusal("what it does with other shapes can't be seen from one sample")
    elementwise = is_elementwise(seen.overloads) and bool(observed) and broadcasts(observed, seen.value)
    if not elementwise or has_state(node, modules):
        return Refusal("no rule covers it, and it isn't pointwise")
    if "out" in node.kwargs:
        return Refusal("it writes to an out= argument")
    layout = node.kwargs.get("memory_format")
    if layout not in (None, torch.contiguous_format, torch.preserve_format):
        return Refusal(f"memory_format={layout} means another layout in 2-D")
    lifted = tuple(operand for operand in operands if has_form(operand, facts, axis))
    return Candidate(RULES["pointwise"], (Lifted("pointwise"),), lifted)


def _known(call: Call, facts: Facts | None) -> dict[str, Any]:
    return {name: _facts_of(value, facts) for name, value in call.arguments.items()}


def _facts_of(value: Any, facts: Facts | None) -> Any:
    """An argument as a rule sees it: tensors as `Value`, or None where they were not observed."""
    if isinstance(value, State):
        return value.value
    if isinstance(value, (tuple, list)):
        return type(value)(_facts_of(one, facts) for one in value)
    if isinstance(value, fx.Node):
        if facts is None:
            return None
        seen = facts[value]
        return seen.value or seen.items or Computed(value, seen.result)
    return value


def _unseen(value: Any) -> Any:
    """An argument that is no operand, as a rule sees it without samples: what the graph computes may be anything."""

    def seen(leaf: Any) -> Any:
        return Computed(leaf, object) if isinstance(leaf, fx.Node) else leaf

    return fx.node.map_aggregate(value, seen)


def _is_tuple(value: Any, facts: Facts | None) -> bool:
    return isinstance(value, fx.Node) and facts is not None and facts[value].value is None


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    fx.node.map_aggregate(value.args if isinstance(value, Deferred) else value, found.append)
    return found


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda node: found.append(node))
    return found


def _words(seen: NodeFacts) -> str:
    return "nothing" if seen.result is type(None) else f"a {seen.result.__name__}"
