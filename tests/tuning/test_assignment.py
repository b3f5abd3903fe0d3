"""The assignment is the cheapest there is: against every choice of layouts, on random graphs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from convsurgeon.tuning.assignment import assign
from convsurgeon.tuning.layouts import LAYOUTS, Layout, other
from convsurgeon.tuning.survey import Surveyed
from convsurgeon.tuning.traits import Traits


@dataclass(frozen=True)
class Case:
    graph: fx.Graph
    traits: dict[fx.Node, Traits]
    surveyed: dict[fx.Node, Surveyed]
    copies: dict[fx.Node, float]
    free_output: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A small graph of operators that keep layouts, turn them or make one of their own; some insist on theirs."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    traits = {x: _traits({}, "plain")}
    surveyed: dict[fx.Node, Surveyed] = {}
    nodes = [x]
    for _ in range(draw(st.integers(1, 6))):
        operands = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=2, unique=True))
        node = graph.call_function(max, tuple(operands))
        kind = draw(st.sampled_from(["keeps", "keeps", "keeps", "turns", "plain", "strict"]))
        makes = {"turns": other, "plain": lambda _: "plain"}.get(kind, lambda layout: layout)
        traits[node] = _traits(dict.fromkeys(operands, "plain"), "plain", strict=kind == "strict")
        seconds: dict[Layout, float] = {layout: draw(st.integers(0, 9)) * 1e-3 for layout in LAYOUTS}
        surveyed[node] = Surveyed(
            seconds,
            None if kind == "strict" else {layout: makes(layout) for layout in LAYOUTS},
            dict.fromkeys(LAYOUTS, ""),
            {},
        )
        nodes.append(node)
    end = graph.output(nodes[-1])
    traits[end] = _traits({nodes[-1]: "plain"}, None)
    return Case(graph, traits, surveyed, {node: draw(st.integers(1, 5)) * 1e-3 for node in nodes}, draw(st.booleans()))


def _traits(operands: dict[fx.Node, Layout], made: Layout | None, *, strict: bool = False) -> Traits:
    return Traits(operands, made, False, strict, False, False, False, None)


def cost(case: Case, takes: dict[fx.Node, Layout]) -> float:
    """The seconds of operators, and of one copy for each value that is needed in the other layout."""
    made: dict[fx.Node, Layout] = {}
    needed: set[tuple[fx.Node, Layout]] = set()
    total = 0.0
    for node in case.graph.nodes:
        of = case.surveyed.get(node)
        for operand in case.traits[node].operands:
            wanted: Layout | None = takes.get(node, "plain")
            if node.op == "output" and case.free_output:
                wanted = None
            if wanted is not None and wanted != made[operand]:
                needed.add((operand, wanted))
        if node in takes and of is not None and of.makes is not None:
            total += of.seconds[takes[node]]
            made[node] = of.makes[takes[node]] or "plain"
        else:
            made[node] = "plain"
    return total + sum(case.copies[operand] for operand, _ in needed)


def _given(case: Case) -> list[fx.Node]:
    """The values whose layout nothing chooses."""
    return [node for node in case.copies if (of := case.surveyed.get(node)) is None or _makes_one(of)]


def _makes_one(of: Surveyed) -> bool:
    return of.makes is None or len(set(of.makes.values())) == 1


@settings(max_examples=1500)
@given(cases())
def test_it_is_as_cheap_as_the_best_of_all_choices(case: Case) -> None:
    found = assign(case.graph, case.traits, case.surveyed, case.copies, [], free_output=case.free_output)
    best = min(
        cost(case, dict(zip(found.takes, layouts, strict=True)))
        for layouts in itertools.product(LAYOUTS, repeat=len(found.takes))
    )
    slack = sum(0.01 * max(one.seconds.values()) + 2e-9 for one in case.surveyed.values())  # for what stays as it was
    slack += sum(case.copies[one] for one in _given(case) if len(one.users) > 1)  # shared by readers that count alike
    assert best - 1e-12 <= cost(case, dict(found.takes)) <= best + slack


def test_what_is_as_fast_stays_as_it_was() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_function(max, (x,))
    end = graph.output(node)
    same = Surveyed({"plain": 1.0, "last": 1.0}, {"plain": "plain", "last": "last"}, dict.fromkeys(LAYOUTS, ""), {})
    traits = {x: _traits({}, "plain"), node: _traits({x: "plain"}, "plain"), end: _traits({node: "plain"}, None)}
    assert assign(graph, traits, {node: same}, {x: 0.0, node: 0.0}, [], free_output=True).takes == {node: "plain"}


def test_operators_that_read_one_weight_are_laid_out_alike() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    one, two = graph.call_function(max, (x,)), graph.call_function(min, (x,))
    end = graph.output((one, two))
    makes: dict[Layout, Layout | None] = {"plain": "plain", "last": "last"}
    ways = dict.fromkeys(LAYOUTS, "")
    surveyed = {
        one: Surveyed({"plain": 5.0, "last": 1.0}, makes, ways, {}),
        two: Surveyed({"plain": 1.0, "last": 2.0}, makes, ways, {}),
    }
    traits = {x: _traits({}, "plain"), end: _traits({one: "plain", two: "plain"}, None)}
    traits |= {node: _traits({x: "plain"}, "plain") for node in (one, two)}
    copies = dict.fromkeys((x, one, two), 0.1)
    apart = assign(graph, traits, surveyed, copies, [], free_output=True).takes
    tied = assign(graph, traits, surveyed, copies, [(one, two)], free_output=True).takes
    assert apart == {one: "last", two: "plain"}
    assert tied == {one: "last", two: "last"}
