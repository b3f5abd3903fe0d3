"""Times calls in turn, so that all of them meet the same machine. Knows nothing of models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

K = TypeVar("K", bound=Hashable)
Calls = Mapping[K, Callable[[], Any]]

LEAST_ROUNDS = 3
"""As few as a median can be taken of."""

MOST_ROUNDS = 200
"""As many as tell a median to a fourteenth of the rounds' spread; what is short leaves its time to the rest."""

_WORTH = 0.01
"""A gain that is less isn't worth a change, however surely it was measured."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of one call in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster one call is than another: the median over the rounds, and how far off it may be.

    `noise`: half the interquartile range of the rounds' ratios, by the root of their number: the standard error of a
    median is about as much.
    """

    median: float
    noise: float

    @property
    def is_gain(self) -> bool:
        """Whether it is faster by more than the noise, and by enough to be worth a change."""
        return self.median - 1 > max(3 * self.noise, _WORTH)

    @classmethod
    def of(cls, slow: Timing, fast: Timing) -> Ratio:
        """The seconds of `slow` by those of `fast`, which were timed in the same rounds."""
        ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(statistics.median(ratios), (high - low) / 2 / len(ratios) ** 0.5)


def timed_in_turn(
    calls: Calls[K], rounds: Iterable[Any] = range(MOST_ROUNDS), *, budget_s: float = float("inf")
) -> dict[K, Timing]:
    """Time every call once a round, in another order each round; `rounds` is left off after `budget_s`.

    Over the rounds each call follows every other as often, for what ran just before leaves its mark: caches, threads
    that still wait. Each call is made once before, which isn't timed: it may compile, and fills caches. At least three
    rounds are made.
    """
    started = time.perf_counter()
    for call in calls.values():
        call()
        finish()
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for at, _ in enumerate(rounds):
        if at >= LEAST_ROUNDS and time.perf_counter() - started > budget_s:
            break
        for name in _ordered(names, at):
            start = time.perf_counter()
            calls[name]()
            finish()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def _ordered(names: list[K], at: int) -> list[K]:
    """The order in a round: a row of a square in which each follows every other as often (E. J. Williams, 1949)."""
    count = len(names)
    steps = [(place + 1) // 2 * (-1) ** (place + 1) for place in range(count)]
    order = [names[(at + step) % count] for step in steps]
    return order[::-1] if at // count % 2 else order


def finish() -> None:
    """Wait until what was started on an accelerator is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
