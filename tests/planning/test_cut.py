"""The planner's cut is the cheapest there is: against every choice of forms, on random graphs."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from convsurgeon.planning.cut import Problem, cost, solve


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small graph of values: each consumed by later ones, some with a given form, some tied, some with a price.

    Some operators take their operands in a form of their own, -v: those of views, and of what ends a region.
    """
    count = draw(st.integers(2, 7))
    problem = Problem()
    for value in range(count):
        problem.weights[value] = draw(st.integers(1, 6))
        form = draw(st.sampled_from([None, None, True, False]))
        if form is not None:
            problem.fixed[value] = form
        operands = draw(st.lists(st.integers(0, value - 1), max_size=3)) if value else []
        kind = draw(st.sampled_from(["as its result", "as its result", "free", "if its result", "its result if"]))
        operator = value if kind == "as its result" or not operands else -value
        if kind == "if its result" and operator != value:
            problem.implied.append((operator, value))
        if kind == "its result if" and operator != value:
            problem.implied.append((value, operator))
        if form is None and draw(st.integers(0, 3)) == 0:
            problem.costs[value] = draw(st.sampled_from([-2, -1, 1, 2]))
        for operand in operands:
            problem.consumers.setdefault(operand, []).append(operator)
    free = [value for value in range(count) if value not in problem.fixed]
    if len(free) > 1 and draw(st.booleans()):
        problem.ties.append((free[0], free[-1]))
    return problem


def allowed(problem: Problem, lifted: set[int]) -> bool:
    return (
        all((value in lifted) is form for value, form in problem.fixed.items())
        and all((one in lifted) == (other in lifted) for one, other in problem.ties)
        and all(one not in lifted or other in lifted for one, other in problem.implied)
    )


def ids(problem: Problem) -> list[int]:
    """Every value, and every operator that is not as its result."""
    return sorted({*problem.weights, *(one for consumers in problem.consumers.values() for one in consumers)})


@settings(max_examples=1500)
@given(problems())
def test_the_cut_is_as_cheap_as_the_best_of_all_choices(problem: Problem) -> None:
    values = ids(problem)
    choices = (set(itertools.compress(values, bits)) for bits in itertools.product([False, True], repeat=len(values)))
    best = min(cost(problem, lifted) for lifted in choices if allowed(problem, lifted))
    found = solve(problem)
    assert allowed(problem, found)
    assert cost(problem, found) == best


@settings(max_examples=500)
@given(problems())
def test_among_the_cheapest_the_one_that_lifts_most_where_something_must(problem: Problem) -> None:
    values = ids(problem)
    found = solve(problem)
    price = cost(problem, found)
    for bits in itertools.product([False, True], repeat=len(values)):
        lifted = set(itertools.compress(values, bits))
        if allowed(problem, lifted) and cost(problem, lifted) == price:
            assert all(reaches_no_must(problem, value) or is_dead(problem, value) for value in lifted - found)


def reaches_no_must(problem: Problem, start: int) -> bool:
    """Whether no value that must be 2-D is connected to `start` through values that are free."""
    neighbours: dict[int, set[int]] = {}
    for value, consumers in problem.consumers.items():
        family = {value, *consumers}
        for one in family:
            neighbours.setdefault(one, set()).update(family)
    for one, other in problem.ties + problem.implied:
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    seen, todo = set(), [start]
    while todo:
        value = todo.pop()
        if value not in seen:
            seen.add(value)
            if problem.fixed.get(value) is True:
                return False
            if value not in problem.fixed:
                todo += neighbours.get(value, ())
    return True


def is_dead(problem: Problem, value: int) -> bool:
    """Whether nothing with a given form is ever computed from `value`: its form is nobody's concern."""
    return value not in problem.fixed and all(is_dead(problem, one) for one in problem.consumers.get(value, ()))


def test_several_consumers_share_one_border() -> None:
    problem = Problem({"x": 1, "a": 1, "b": 1, "c": 1}, {"x": ["a", "b", "c"]})
    problem.fixed = {"x": False, "a": True, "b": True, "c": True}
    assert cost(problem, solve(problem)) == 1


def test_fewer_borders_come_before_fewer_bytes() -> None:
    """relu between two walls and a convolution: one border after it, not two before."""
    problem = Problem({"wall": 10, "relu": 30, "conv": 10}, {"wall": ["relu"], "relu": ["conv"]})
    problem.fixed = {"wall": False, "conv": True}
    assert solve(problem) == {"relu", "conv"}


def test_what_no_convolution_reaches_stays() -> None:
    problem = Problem({"a": 1, "b": 1}, {"a": ["b"]})
    assert solve(problem) == set()
