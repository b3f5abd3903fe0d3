"""What an exact rewrite is: one equation between 2-D operators. It knows no models, and not how graphs are walked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import fx

from convsurgeon.rules.base import Refusal

if TYPE_CHECKING:
    from convsurgeon.exact.sites import Site
    from convsurgeon.exact.writer import Writer

Apply = Callable[[Any, "Writer"], "fx.Node | Refusal | None"]
"""Writes what computes the same as the site that it is given, and returns that node; or says why it doesn't.

None: there is nothing to do here. Whatever a rewrite refuses, it refuses before it writes.
"""

A = TypeVar("A", bound=Apply)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite: its name, the kind of operator that it reads, and the number it keeps to if none is given."""

    name: str
    apply: Apply
    reads: type[Site]
    limit: int | None

    @property
    def equation(self) -> str:
        """The first line of the docstring."""
        return inspect.getdoc(self.apply).splitlines()[0]  # type: ignore[union-attr]

    @property
    def limits(self) -> str:
        """What the docstring names as limits, "" if there are none."""
        _, _, limits = (inspect.getdoc(self.apply) or "").partition("Limits: ")
        return " ".join(limits.split())


REWRITES: dict[str, Rewrite] = {}
"""Every rewrite by its name."""


def rewrite(name: str, reads: type[Site], *, limit: int | None = None) -> Callable[[A], A]:
    """Register the decorated function as the rewrite of this name."""

    def register(apply: A) -> A:
        REWRITES[name] = Rewrite(name, apply, reads, limit)
        return apply

    return register


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rewrite that is asked for, with its number: ``"split_kernel:7"``."""

    rewrite: Rewrite
    limit: int | None

    @classmethod
    def of(cls, text: Any) -> Wanted:
        """What a name asks for.

        Raises:
            ValueError: there is no such rewrite, or it takes no such number.
        """
        name, colon, number = str(text).partition(":")
        found = REWRITES.get(name)
        if found is None:
            raise ValueError(f"exact names {text!r}; known: {', '.join(sorted(REWRITES))}")
        if not colon:
            return cls(found, found.limit)
        if found.limit is None:
            raise ValueError(f"exact names {text!r}, but {name} takes no number; say {name!r}")
        if not number.isdecimal() or int(number) < 2:
            raise ValueError(f"exact names {text!r}; the number is 2 or more, as in '{name}:{found.limit}'")
        return cls(found, int(number))


@dataclass(frozen=True, slots=True)
class Cost:
    """What operators cost on the sample: multiply-accumulates, and bytes of weights and values read and written."""

    macs: int
    nbytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.nbytes + other.nbytes)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A place that was rewritten: its node, the module that it is or whose forward calls it, what it was and became.

    `baked` names the state_dict entries that hold other numbers, or have another shape, than a conversion gives them.
    """

    rewrite: str
    node: str
    name: str
    was: str
    became: str
    baked: tuple[str, ...]
    before: Cost
    after: Cost

    def __str__(self) -> str:
        macs = (
            f"{self.before.macs:,} -> {self.after.macs:,} MACs, {self.before.nbytes:,} -> {self.after.nbytes:,} bytes"
        )
        baked = f"; baked: {', '.join(self.baked)}" if self.baked else ""
        return f"{self.rewrite} {self.name or self.node}: {self.was} -> {self.became} ({macs}{baked})"


@dataclass(frozen=True, slots=True)
class Left:
    """A place that was asked for and stays as it is, with the reason."""

    rewrite: str
    node: str
    name: str
    was: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rewrite} {self.name or self.node}: {self.was} stays: {self.reason}"


@dataclass(frozen=True, slots=True)
class Notes:
    """What exact rewriting did, and what it left, in the order of the rewrites and of the graph."""

    rewritten: tuple[Rewritten, ...] = ()
    left: tuple[Left, ...] = ()

    @property
    def baked(self) -> tuple[str, ...]:
        """The state_dict entries that no longer fit the original's."""
        return tuple(dict.fromkeys(name for note in self.rewritten for name in note.baked))

    def inside(self, path: str) -> Notes:
        """The same notes of a submodule of that name, for the whole model."""
        if not path:
            return self
        return Notes(
            tuple(
                replace(
                    one,
                    name=f"{path}.{one.name}".removesuffix("."),
                    baked=tuple(f"{path}.{name}" for name in one.baked),
                )
                for one in self.rewritten
            ),
            tuple(replace(one, name=f"{path}.{one.name}".removesuffix(".")) for one in self.left),
        )

    def __add__(self, other: Notes) -> Notes:
        return Notes(self.rewritten + other.rewritten, self.left + other.left)

    def to_json(self) -> Mapping[str, Any]:
        """The notes as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.rewritten, *self.left))) or "nothing to rewrite"
