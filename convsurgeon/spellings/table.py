"""The rules for people: each with its equation, how its operators are written, and its limits, as README shows them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from convsurgeon.rules.base import RULES
from convsurgeon.spellings import ATEN_ALONE, ATTRIBUTES, FUNCTIONS, METHODS, MODULES, packets_of

_OPERATORS = {operator.getitem: "x[...]", getattr: "x.shape", operator.matmul: "x @ w"}


@dataclass(frozen=True, slots=True)
class Description:
    """One rule: the equation of its operators in 2-D, the ways to write them, and where they stay 1-D."""

    equation: str
    limits: str
    operators: list[str] = field(default_factory=list)
    spellings: list[str] = field(default_factory=list)


def described() -> list[Description]:
    """Every rule, in the order of their files; operators that share one stand together."""
    found: dict[str, Description] = {}
    for rule in RULES.values():
        description = found.setdefault(rule.equation, Description(rule.equation, rule.limits))
        description.operators.append(rule.operator)
        description.spellings.extend(dict.fromkeys(_spellings(rule.operator)))
    return list(found.values())


def rules_table() -> str:
    """Every rule in Markdown."""
    rows = [
        f"| {_code(one.spellings) or 'any pointwise operator, as observed'} | {one.equation.replace('``', '`')} "
        f"| {one.limits.replace('``', '`')} |"
        for one in described()
    ]
    return "\n".join(["| operator | in 2-D | limits |", "| --- | --- | --- |", *rows])


def _spellings(name: str) -> Iterator[str]:
    yield from (f"aten.{packet}" for packet in packets_of(name) if name in ATEN_ALONE)
    yield from (f"nn.{row.layer.__name__}" for row in MODULES if row.operator == name)
    yield from (_function(target) for target, row in FUNCTIONS.items() if row.operator == name)
    yield from (f"x.{method}()" for method, row in METHODS.items() if row.operator == name)
    yield from (f"x.{attribute}" for attribute, row in ATTRIBUTES.items() if row.operator == name)


def _function(target: Any) -> str:
    if target in _OPERATORS:
        return _OPERATORS[target]
    name = target.__name__
    homes = {"F": F, "torch": torch, "torch.linalg": torch.linalg, "torch._C._nn": torch._C._nn}
    prefix, own = next(
        (prefix, known)
        for prefix, home in homes.items()
        for known in (name, name.removeprefix("linalg_"))
        if getattr(home, known, None) is target
    )
    return f"{prefix}.{own}"


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(rules_table())
