"""What a rule is: one operator, its arguments by name, what it becomes in 2-D. It knows no graph or spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convsurgeon.axis import UnitAxis


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
        return f"Lifted({self.operator}, {changes})"


class Lowered(Lifted):
    """A lifted operator whose result is in the 1-D form by itself: a region ends in it without a border."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """An argument known only when the graph runs: `function(*args)`, a node of its own in the rewritten graph."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Arguments:
    """An operator's arguments by name, defaults filled in: numbers as they are, tensors as `Value` facts.

    None stands for a tensor that was not observed, and for an argument that this spelling of the operator doesn't have.
    """

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return self._given.get(name)


Lift = Callable[[Arguments, UnitAxis], Lifted | Refusal]


@dataclass(frozen=True, slots=True)
class Rule:
    """One operator's rule.

    `lifts` names the operands that are in the 2-D form when the operator is (a lifted module's own weight among them);
    others stay as they are. `must`: the operator is why we are here, and runs lifted wherever it can. `contiguous`: the
    1-D operator makes contiguous what it is given, or what it returns; the 2-D one would see channels_last instead.
    `query`: its answer is no tensor.
    """

    operator: str
    lift: Lift
    lifts: tuple[str, ...]
    must: bool
    contiguous: bool
    query: bool

    @property
    def equation(self) -> str:
        """The first line of the rule's docstring."""
        return (self.lift.__doc__ or "").strip().splitlines()[0]


RULES: dict[str, Rule] = {}
"""Every rule by its operator's name."""


def rule(
    *operators: str,
    lifts: tuple[str, ...] = ("input",),
    must: bool = False,
    contiguous: bool = False,
    query: bool = False,
) -> Callable[[Lift], Lift]:
    """Register the decorated function as the rule of `operators`."""

    def register(lift: Lift) -> Lift:
        for operator in operators:
            RULES[operator] = Rule(operator, lift, lifts, must, contiguous, query)
        return lift

    return register
