"""Tuning by chance instead of by the clock: whatever is chosen, the result has to be the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from convsurgeon.timing import Timing

Seconds = Callable[[Any], float]


@contextmanager
def clock(seconds: Seconds) -> Iterator[None]:
    """Where operators seem to take the seconds that are told for their names, and what is decided half of before."""

    def timed(calls: Mapping[Any, Callable[[], Any]], *_: Any, **__: Any) -> dict[Any, Timing]:
        for call in calls.values():
            call()
        return {name: Timing((seconds(name),) * 4) for name in calls}

    def whole(calls: Mapping[Any, Callable[[], Any]], *_: Any, **__: Any) -> dict[Any, Timing]:
        return {name: Timing((1.0 if name == "decided" else 2.0,) * 4) for name in calls}

    with (
        mock.patch("convsurgeon.tuning.survey.timed_in_turn", timed),
        mock.patch("convsurgeon.tuning.tuner.timed_in_turn", whole),
    ):
        yield


def by_chance(seed: int) -> Seconds:
    """Seconds drawn anew for every operator, layout and rewrite; copies are cheap."""
    drawn = random.Random(seed)
    return lambda name: drawn.uniform(0.1, 1.0) if isinstance(name, tuple) else drawn.uniform(0.0, 0.1)


def for_last(name: Any) -> float:
    """Everything is faster in channels_last, and as it is written."""
    return {"last": 1.0, "plain": 3.0}[name[1]] + bool(name[0]) if isinstance(name, tuple) else 0.01


def for_rewrites(name: Any) -> float:
    """Every exact rewrite is faster, and channels_last as well."""
    return {"last": 1.0, "plain": 3.0}[name[1]] / (1 + 3 * bool(name[0])) if isinstance(name, tuple) else 0.01
