"""Which layout every operator computes in: the exact minimum of operators and copies together, by a minimum cut.

An operator brings its operands into its own layout, and so pays for a copy wherever one lies otherwise; readers share
it. Transposes turn one layout into the other without a copy: what is chosen for each operator is whether it lies as the
operators before it do, so that a turned value is a turned choice, and not a border. (Where readers of a value whose
layout is given count it both ways, its copy is paid for twice: together they would be no cut.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from convsurgeon.planning.cut import Problem, solve
from convsurgeon.tuning.layouts import Layout, other
from convsurgeon.tuning.survey import Surveyed
from convsurgeon.tuning.traits import Traits

_NEVER = 10**15
"""Nanoseconds that no operator takes: two weeks."""

_PLAIN, _LAST = ("fixed", False), ("fixed", True)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The layout in which each operator that may choose takes its operands, and that of each value, as it is made."""

    takes: Mapping[fx.Node, Layout]
    makes: Mapping[fx.Node, Layout]


def assign(
    graph: fx.Graph,
    traits: Mapping[fx.Node, Traits],
    surveyed: Mapping[fx.Node, Surveyed],
    copies: Mapping[fx.Node, float],
    shared: Iterable[tuple[fx.Node, fx.Node]],
    *,
    free_output: bool,
) -> Assignment:
    """The cheapest assignment.

    Args:
        graph: the converted graph.
        traits: of every node.
        surveyed: of the nodes that take a value with a layout.
        copies: the seconds to copy each value into the other layout.
        shared: pairs of nodes that read one weight, which has one layout.
        free_output: whether what is returned may have another layout than it had.
    """
    turned = _Turned.of(graph, traits, surveyed)
    problem = Problem(fixed={_PLAIN: False, _LAST: True})
    for node in graph.nodes:
        if traits[node].made is not None:
            problem.weights[node.name, "value"] = max(1, _nanoseconds(copies.get(node, 0.0)))
            problem.consumers[node.name, "value"] = []
    for node in graph.nodes:
        _enter(problem, node, traits[node], turned, free=free_output)
        if node in turned.free:
            seconds = surveyed[node].seconds
            extra = _nanoseconds(seconds["last"] - seconds["plain"])
            extra += _nanoseconds(0.01 * seconds["plain"]) + 1  # as it was, where nothing speaks for another layout
            problem.costs[node.name] = -extra if turned.operator[node] else extra
    for one, two in shared:
        if turned.operator.get(one) == turned.operator.get(two):
            problem.ties.append((one.name, two.name))
        else:
            problem.ties += [(each.name, _LAST if way else _PLAIN) for each in (one, two) for way in turned.ways(each)]
    last = solve(problem)
    return turned.assignment(graph, traits, surveyed, {name for name in last if isinstance(name, str)})


def _enter(problem: Problem, node: fx.Node, traits: Traits, turned: _Turned, *, free: bool) -> None:
    """Enter the operands that a node takes, and what it makes, into the problem."""
    for operand, seen in traits.operands.items():
        source = _source(problem, operand, turned, turned.operator.get(node, False))
        if node in turned.free:
            problem.consumers[source].append(node.name)
            if traits.bound:
                problem.ties.append((source, node.name))
        elif node.op != "output" or not free:
            wanted = _LAST if (seen == "last") != turned.value[operand] else _PLAIN
            problem.consumers[source].append(wanted)
            if traits.bound:
                problem.ties.append((source, wanted))
    if traits.made is not None:
        value = (node.name, "value")
        if node in turned.makes:
            problem.fixed[value] = turned.makes[node] == "last"
        else:
            problem.ties.append((value, node.name))


def _source(problem: Problem, operand: fx.Node, turned: _Turned, way: bool) -> Any:
    """The value as its reader counts: one whose layout is given is another value to those that count it turned."""
    if operand not in turned.makes or not way:
        return (operand.name, "value")
    source = (operand.name, "turned")
    problem.fixed[source] = turned.makes[operand] != "last"
    problem.weights[source] = problem.weights[operand.name, "value"]
    problem.consumers.setdefault(source, [])
    return source


@dataclass(frozen=True, slots=True)
class _Turned:
    """Which operators, and which values, count their layouts the other way round.

    `free`: the operators that may compute in either. `makes`: the values of one layout whatever is chosen.
    """

    free: set[fx.Node]
    operator: dict[fx.Node, bool]
    value: dict[fx.Node, bool]
    makes: dict[fx.Node, Layout]

    @classmethod
    def of(cls, graph: fx.Graph, traits: Mapping[fx.Node, Traits], surveyed: Mapping[fx.Node, Surveyed]) -> _Turned:
        found, groups = cls(set(), {}, {}, {}), _Parity()
        turns: dict[fx.Node, bool] = {}
        for node in graph.nodes:
            makes = surveyed[node].makes if node in surveyed else None
            before = [(one, turns[one]) for one in traits[node].operands if one in turns]
            if makes is not None and groups.join(node, before):
                found.free.add(node)
            made = traits[node].made if node not in found.free or makes is None else makes["plain"]
            if node in found.free and makes is not None and makes["plain"] != makes["last"]:
                turns[node] = makes["plain"] == "last"
            elif made is not None:
                found.makes[node] = made
        for node in found.free:
            found.operator[node] = groups.of(node)
        for node in graph.nodes:
            found.value[node] = node in turns and found.operator[node] != turns[node]
        return found

    def ways(self, node: fx.Node) -> list[bool]:
        """Whether an operator counts the other way round; [] if it isn't free."""
        return [self.operator[node]] if node in self.free else []

    def assignment(
        self, graph: fx.Graph, traits: Mapping[fx.Node, Traits], surveyed: Mapping[fx.Node, Surveyed], last: set[Any]
    ) -> Assignment:
        """What the cut says, in layouts."""
        takes: dict[fx.Node, Layout] = {}
        made: dict[fx.Node, Layout] = {}
        for node in graph.nodes:
            if node in self.free:
                takes[node] = "last" if (node.name in last) != self.operator[node] else "plain"
            if node in self.makes:
                made[node] = self.makes[node]
            elif node in takes and traits[node].made is not None:
                makes = surveyed[node].makes
                assert makes is not None  # a free operator was surveyed in both
                made[node] = makes[takes[node]] or other(takes[node])
        return Assignment(takes, made)


class _Parity:
    """Nodes that are the same as others, or the opposite: a union-find with parity."""

    def __init__(self) -> None:
        self._root: dict[fx.Node, tuple[fx.Node, bool]] = {}

    def _find(self, node: fx.Node) -> tuple[fx.Node, bool]:
        root, way = self._root.setdefault(node, (node, False))
        if root is node:
            return node, way
        above, more = self._find(root)
        self._root[node] = above, way != more
        return self._root[node]

    def of(self, node: fx.Node) -> bool:
        """Whether a node is the opposite of the one that its group goes by."""
        return self._find(node)[1]

    def join(self, node: fx.Node, others: Iterable[tuple[fx.Node, bool]]) -> bool:
        """Say that a node is the same as each of the others, or the opposite; False, and nothing said, if it can't."""
        wanted: dict[fx.Node, bool] = {}
        for one, opposite in others:
            root, way = self._find(one)
            if wanted.setdefault(root, way != opposite) != (way != opposite):
                return False
        for root, way in wanted.items():
            top, more = self._find(node)
            if top is not root:
                self._root[top] = root, more != way
        return True


def _nanoseconds(seconds: float) -> int:
    return round(min(seconds * 1e9, _NEVER))
