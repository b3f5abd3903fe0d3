"""What a rule is: one operator, its arguments by name, what it becomes in 2-D. It knows no graph or spelling."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from convsurgeon.axis import UnitAxis, lifted_size


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operator stays 1-D, in words."""

    reason: str


class Lifted:
    """The operator in 2-D, and the arguments that change; the others, and the operands, are the spelling's to carry."""

    __slots__ = ("changes", "operator")

    def __init__(self, operator: str, **changes: Any) -> None:
        self.operator = operator
        self.changes = changes

    def __repr__(self) -> str:
        changes = ", ".join(f"{name}={value!r}" for name, value in self.changes.items())
        return f"{type(self).__name__}({self.operator}, {changes})"


class Lowered(Lifted):
    """A lifted operator whose result is in the 1-D form by itself: a region ends in it without a border."""

    __slots__ = ()


class Raised(Lifted):
    """An operator on 1-D operands whose result is in the 2-D form by itself: a region begins in it without a border."""

    __slots__ = ()


Ways = tuple[Lifted, ...]
"""The ways in which an operator can be computed in 2-D, of which the planner takes the one that costs least."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """An argument known only when the graph runs: `function(*args)`, a node of its own in the rewritten graph."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Absent:
    """Stands for an argument that what computes the operator in 2-D doesn't have."""


@dataclass(frozen=True, slots=True)
class Computed:
    """An argument, no tensor, that the graph computes when it runs: only its type is known, and it can be passed on."""

    node: Any
    kind: type


class Arguments:
    """An operator's arguments by name, defaults filled in: numbers as they are, tensors as `Value` facts.

    None stands for a tensor that was not observed, and for an argument that this spelling of the operator doesn't have.
    `result` are the facts of what it returns; `one_long` whether `input`'s last axis has one element by construction,
    for rules that ask.
    """

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return self._given.get(name)


Lift = Callable[[Arguments, UnitAxis], Lifted | Ways | Refusal]
L = TypeVar("L", bound=Lift)


@dataclass(frozen=True, slots=True)
class Rule:
    """One operator's rule.

    `lifts` names the operands that are in the 2-D form when the operator is (a lifted module's own weight among them);
    others stay as they are. `must`: the operator is why we are here, and runs lifted wherever it can. `contiguous`: the
    1-D operator makes contiguous what it is given, or what it returns; the 2-D one would see channels_last instead.
    `query`: its answer is no tensor. `unpacks`: it may take a tuple of values apart. `reorders`: a view whose gradient
    has its axes in another order in memory. `relays`: one that hands such an order on, where it ends a region.
    `trusts_gradient`: torch's kernel misreads such a gradient in 2-D. `asks_length`: its answer depends on whether the
    length is one by construction.
    """

    operator: str
    lift: Lift
    lifts: tuple[str, ...]
    must: bool
    contiguous: bool
    query: bool
    unpacks: bool
    reorders: bool
    relays: bool
    trusts_gradient: bool
    asks_length: bool

    @property
    def equation(self) -> str:
        """The first line of the rule's docstring."""
        return inspect.getdoc(self.lift).splitlines()[0]  # type: ignore[union-attr]

    @property
    def limits(self) -> str:
        """What the rule's docstring names as limits, "" if there are none."""
        _, _, limits = (inspect.getdoc(self.lift) or "").partition("Limits: ")
        return " ".join(limits.split())


RULES: dict[str, Rule] = {}
"""Every rule by its operator's name."""


def rule(
    *operators: str,
    lifts: tuple[str, ...] = ("input",),
    must: bool = False,
    contiguous: bool = False,
    query: bool = False,
    unpacks: bool = False,
    reorders: bool = False,
    relays: bool = False,
    trusts_gradient: bool = False,
    asks_length: bool = False,
) -> Callable[[L], L]:
    """Register the decorated function as the rule of `operators`."""

    def register(lift: L) -> L:
        for operator in operators:
            flags = must, contiguous, query, unpacks, reorders, relays, trusts_gradient, asks_length
            RULES[operator] = Rule(operator, lift, lifts, *flags)
        return lift

    return register


def listed_axes(dims: Any) -> list[int] | None:
    """Axes as they may be given, as a list; None where they aren't plain numbers, or none."""
    listed = list(dims) if isinstance(dims, (tuple, list)) else [dims]
    return listed if listed and all(type(dim) is int for dim in listed) else None


def size_of_length(size: Any, axis: UnitAxis) -> Any:
    """A size of the length as one of both axes: L' -> (1, L'); computed where it is, as ``x.shape[2:]``."""
    if isinstance(size, Computed) and size.kind is not int:
        return size_asked_for(size, axis)
    return axis.pair(tuple(size) if isinstance(size, (tuple, list)) else (size,), unit=1)


def size_asked_for(size: Any, axis: UnitAxis) -> Any:
    """A size that is asked for, of the length alone or of all axes, with the unit axis in it; computed if it is."""
    if isinstance(size, (tuple, list)):
        return lifted_size(size, axis.position)
    return Deferred(lifted_size, (size, axis.position))
