from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest

from convsurgeon.timing import Ratio, Timing, timed_in_turn


def test_every_call_is_timed_once_a_round_in_another_order_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    calls: list[str] = []
    timed = timed_in_turn({name: lambda name=name: calls.append(name) for name in "abc"}, range(4))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "cba"
    assert {name: len(one.seconds) for name, one in timed.items()} == {"a": 4, "b": 4, "c": 4}
    assert timed["a"].median == timed["a"].least == timed["a"].most == 1.0


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_each_call_follows_every_other_as_often(count: int) -> None:
    calls: list[int] = []
    rounds = 2 * count
    timed_in_turn({one: lambda one=one: calls.append(one) for one in range(count)}, range(rounds))
    orders = [calls[at : at + count] for at in range(count, len(calls), count)]
    pairs = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert set(pairs.values()) == {2}
    assert len(pairs) == count * (count - 1)


def test_rounds_end_with_the_budget_but_there_are_enough_for_a_median() -> None:
    timed = timed_in_turn({"nap": lambda: time.sleep(0.001)}, itertools.count(), budget_s=0.0)
    assert len(timed["nap"].seconds) == 3


def test_a_gain_is_more_than_the_noise() -> None:
    slow = Timing((2.0, 2.1, 1.9, 2.0))
    assert Ratio.of(slow, Timing((1.0, 1.0, 1.0, 1.0))).is_gain
    assert not Ratio.of(slow, slow).is_gain
    assert not Ratio.of(Timing((1.0, 3.0, 1.0, 3.0)), Timing((2.0, 1.0, 1.0, 3.1))).is_gain
    assert Ratio.of(slow, Timing((1.0, 1.0, 1.0, 1.0))).median == 2.0
    assert not Ratio.of(Timing((1.005,) * 4), Timing((1.0,) * 4)).is_gain  # sure, and not worth a change
    assert Ratio.of(Timing((1.02,) * 4), Timing((1.0,) * 4)).is_gain
