"""An accelerator's profile: what it takes, and where that is written. It knows no graph and no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from convsurgeon.targets.quantities import FAMILIES, Family

Kind = Literal["documented", "inferred", "printed", "measured", "reported", "convention"]
Measure = Callable[[str], Sequence[Any]]
"""Gives an operator's values of a quantity by its name; nothing where the operator has no such quantity."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a limit is written.

    `kind`: documented by the vendor, inferred from what is documented, printed by a tool, measured (which shows what
    was tried and nothing more), reported by users, or a convention of this package. `date`: when it was read or
    measured.
    """

    document: str
    kind: Kind
    date: date
    section: str = ""
    address: str = ""

    def __str__(self) -> str:
        section = f", {self.section}" if self.section else ""
        return f"{self.kind}: {self.document}{section}, {self.date}"

    def to_json(self) -> dict[str, Any]:
        """The source as plain data."""
        return {**asdict(self), "date": str(self.date)}


@dataclass(frozen=True, slots=True)
class Bound:
    """What values are taken: `equal` ones (the same on every axis), within `least` and `most`, or `one_of` some."""

    least: float | None = None
    most: float | None = None
    one_of: tuple[Any, ...] | None = None
    equal: bool = False

    def takes(self, value: Any) -> bool:
        """Whether one value is within the bound."""
        if self.one_of is not None:
            return value in self.one_of
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def takes_all(self, values: Sequence[Any]) -> bool:
        """Whether every value is, and all are the same where they have to be."""
        return len(set(values)) <= 1 if self.equal else all(map(self.takes, values))

    def __str__(self) -> str:
        if self.equal:
            return "equal on every axis"
        if self.one_of is not None:
            return " or ".join(_shown(one) for one in self.one_of)
        if self.least is not None and self.most is not None:
            return _shown(self.most) if self.least == self.most else f"{_shown(self.least)} to {_shown(self.most)}"
        return f"at least {_shown(self.least)}" if self.most is None else f"at most {_shown(self.most)}"


def _shown(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


@dataclass(frozen=True, slots=True)
class Condition:
    """Where a limit applies: where any value of the quantity is within the bound."""

    quantity: str
    bound: Bound

    def holds(self, measure: Measure) -> bool:
        """Whether it does for an operator."""
        return any(map(self.bound.takes, measure(self.quantity)))

    def __str__(self) -> str:
        return f"{self.quantity} is {self.bound}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What an accelerator asks of a family of operators, and what happens beyond (`effect`, "" where unknown).

    `confirmed`: where its compiler was seen to do so with an operator on each side of the limit; None where it wasn't.
    """

    families: tuple[Family, ...]
    quantity: str
    bound: Bound
    source: Source
    when: tuple[Condition, ...] = ()
    effect: str = ""
    confirmed: Source | None = None

    def broken_by(self, measure: Measure) -> tuple[Any, ...]:
        """The values with which an operator breaks it; nothing if it doesn't, or has no such quantity."""
        values = tuple(measure(self.quantity))
        if self.bound.takes_all(values) or not all(one.holds(measure) for one in self.when):
            return ()
        return values

    @property
    def accepted(self) -> str:
        """What is accepted, and where, in words."""
        where = " and ".join(map(str, self.when))
        return f"{self.bound}" + (f", where {where}" if where else "")


@dataclass(frozen=True, slots=True)
class Target:
    """An accelerator with its compiler: what it takes.

    `static_shapes`: every size has to be known when it is compiled. `ranks`: those of every value; None is any.
    `source` says where these two are written. Beyond a limit of `preferences` an operator is taken as well, and costs
    more. `channels_last`: where it is written that values lie in memory as (N, H, W, C), None where nothing says so.
    """

    name: str
    title: str
    static_shapes: bool
    ranks: tuple[int, ...] | None
    source: Source
    limits: tuple[Limit, ...]
    preferences: tuple[Limit, ...] = ()
    channels_last: Source | None = None
    notes: str = ""

    def limits_of(self, family: Family) -> tuple[Limit, ...]:
        """The limits that apply to a family of operators, that on ranks among them."""
        every = () if self.ranks is None else (Limit(FAMILIES, "rank", Bound(one_of=self.ranks), self.source),)
        return every + tuple(limit for limit in self.limits if family in limit.families)

    def preferences_of(self, family: Family) -> tuple[Limit, ...]:
        """The preferences that apply to a family of operators."""
        return tuple(limit for limit in self.preferences if family in limit.families)
