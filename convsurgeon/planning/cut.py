"""Which values are held in 2-D: the exact minimum cut. Knows neither operators nor torch.

Every value is held in one of two forms. A consumer takes a value in the consumer's own form; where the value has the
other one, a border converts it, once for all consumers that need it so. The forms with the least total weight of
borders are a minimum s-t cut: 2-D on the source's side, 1-D on the sink's. With an auxiliary node for each value and
direction, a shared border is paid for once. Boykov & Kolmogorov, "An experimental comparison of min-cut/max-flow
algorithms" (2004), is the fast algorithm on these graphs; networkx has it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

import networkx as nx

Id = Hashable


@dataclass(slots=True)
class Problem:
    """Values with what their borders weigh, who consumes them, and the forms that are given.

    `weights`: per value, in order. `consumers`: per value, the values whose operators take it. `fixed`: True for 2-D,
    False for 1-D; a fixed id need not be a value (an operator whose result has no form is one that is fixed).
    `implied`: pairs of ids, of which the second is 2-D if the first is. `ties`: pairs that have the same form (calls of
    one module). `costs`: what it costs beside borders to hold an id in 2-D; less than nothing is what it costs in 1-D.
    """

    weights: dict[Id, int] = field(default_factory=dict)
    consumers: dict[Id, list[Id]] = field(default_factory=dict)
    fixed: dict[Id, bool] = field(default_factory=dict)
    implied: list[tuple[Id, Id]] = field(default_factory=list)
    ties: list[tuple[Id, Id]] = field(default_factory=list)
    costs: dict[Id, int] = field(default_factory=dict)


def cost(problem: Problem, lifted: Iterable[Id]) -> int:
    """The total weight of the borders if exactly `lifted` are 2-D: one for each value and direction that is needed."""
    two_d = set(lifted)
    total = sum(price for name, price in problem.costs.items() if name in two_d)
    for value, consumers in problem.consumers.items():
        if any((consumer in two_d) != (value in two_d) for consumer in consumers):
            total += problem.weights[value]
    return total


def solve(problem: Problem) -> set[Id]:
    """The ids to hold in 2-D, at the least cost.

    Among equally cheap answers the one that lifts most; but what no 2-D value reaches stays 1-D.
    """
    network = _Network(problem)
    lifted = {name for name, two_d in problem.fixed.items() if two_d}
    for component in network.components():
        lifted |= network.cut(component)
    return {name for name in lifted if not isinstance(name, _Border)}


@dataclass(frozen=True, slots=True)
class _Border:
    """The auxiliary node of one value and one direction."""

    value: Id
    lifts: bool


class _Network:
    """The flow network with everything fixed folded into source and sink.

    `capacity[a][b]`: weight to pay if a is 2-D and b is 1-D; None is infinite. `pays_if_1d` and `pays_if_2d`: edges
    from the source and to the sink.
    """

    def __init__(self, problem: Problem) -> None:
        self.capacity: dict[Id, dict[Id, int | None]] = {}
        self.pays_if_1d: dict[Id, int | None] = {}
        self.pays_if_2d: dict[Id, int | None] = {}
        self._fixed = problem.fixed
        for value in problem.weights:
            if value not in problem.fixed:
                self.capacity.setdefault(value, {})
        for value, consumers in problem.consumers.items():
            unique = dict.fromkeys(consumers)
            self._price(value, unique, problem.weights[value], lifts=True)
            self._price(value, unique, problem.weights[value], lifts=False)
        for one, other in problem.ties:
            self._imply(one, other)
            self._imply(other, one)
        for one, other in problem.implied:
            self._imply(one, other)
        for name, price in problem.costs.items():
            if name not in problem.fixed:
                self._alone(name, abs(price), two_d=price > 0)

    def _price(self, value: Id, consumers: Mapping[Id, None], weight: int, *, lifts: bool) -> None:
        """Charge `weight` if `value` has one form and any of `consumers` the other.

        `lifts`: the value 1-D and a consumer 2-D; else the other way round. All edges are drawn for `lifts`, and
        turned.
        """
        if self._fixed.get(value) is lifts:
            return
        if any(self._fixed.get(consumer) is lifts for consumer in consumers):
            self._edge(None, value, weight, turned=not lifts)
            return
        free = [consumer for consumer in consumers if consumer not in self._fixed]
        if len(free) == 1:
            self._edge(free[0], value, weight, turned=not lifts)
        elif free:
            border = _Border(value, lifts)
            self._edge(border, value, weight, turned=not lifts)
            for consumer in free:
                self._edge(consumer, border, None, turned=not lifts)

    def _imply(self, one: Id, other: Id) -> None:
        """Let `other` be 2-D if `one` is; between two that are fixed there is nothing to choose."""
        if self._fixed.get(one) is not False and self._fixed.get(other) is not True:
            if one not in self._fixed:
                self._edge(one, other, None, turned=False)
            elif other not in self._fixed:
                self._edge(None, other, None, turned=False)

    def _edge(self, tail: Id | None, head: Id, weight: int | None, *, turned: bool) -> None:
        """Pay `weight` if `tail` is 2-D and `head` 1-D, or `turned`; a tail of None is fixed in the form that pays."""
        if tail is None:
            if head not in self._fixed:
                self._alone(head, weight, two_d=turned)
        elif head in self._fixed:
            self._alone(tail, weight, two_d=not turned)
        else:
            a, b = (head, tail) if turned else (tail, head)
            _add(self.capacity.setdefault(a, {}), b, weight)
            self.capacity.setdefault(b, {})

    def _alone(self, name: Id, weight: int | None, *, two_d: bool) -> None:
        """Pay `weight` if `name` is 2-D, or 1-D, whatever the others are."""
        _add(self.pays_if_2d if two_d else self.pays_if_1d, name, weight)
        self.capacity.setdefault(name, {})

    def components(self) -> list[list[Id]]:
        """The parts that only source and sink connect; each can be cut alone."""
        graph = nx.Graph()
        graph.add_nodes_from(self.capacity)
        graph.add_edges_from((a, b) for a, edges in self.capacity.items() for b in edges)
        return [list(component) for component in nx.connected_components(graph)]

    def cut(self, component: list[Id]) -> set[Id]:
        """The ids of `component` that are 2-D in the minimum cut with the most of them."""
        if not any(name in self.pays_if_1d for name in component):
            return set()
        if not any(name in self.pays_if_2d for name in component):
            return set(component)
        source, sink = object(), object()
        graph = nx.DiGraph()
        for name in component:
            for head, weight in self.capacity[name].items():
                _connect(graph, name, head, weight)
            if name in self.pays_if_1d:
                _connect(graph, source, name, self.pays_if_1d[name])
            if name in self.pays_if_2d:
                _connect(graph, name, sink, self.pays_if_2d[name])
        residual = nx.algorithms.flow.boykov_kolmogorov(graph, source, sink)
        open_edges = nx.DiGraph()
        open_edges.add_nodes_from(residual)
        open_edges.add_edges_from((b, a) for a, b, edge in residual.edges(data=True) if edge["flow"] < edge["capacity"])
        reach_the_sink: set[Id] = nx.descendants(open_edges, sink)
        return set(component) - reach_the_sink


def _add(edges: dict[Id, int | None], name: Id, weight: int | None) -> None:
    known = edges.get(name, 0)
    edges[name] = None if weight is None or known is None else known + weight


def _connect(graph: nx.DiGraph, tail: Id, head: Id, weight: int | None) -> None:
    if weight is None:
        graph.add_edge(tail, head)
    else:
        graph.add_edge(tail, head, capacity=weight)
