"""The two tables fit each other: every spelling has a rule, and names its operands as the rule does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.rules import RULES
from convsurgeon.spellings import ATEN_ALONE, ATTRIBUTES, FUNCTIONS, METHODS, MODULES, aten_spelling, packets_of

ROWS = [*FUNCTIONS.values(), *METHODS.values(), *ATTRIBUTES.values(), *MODULES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operator)
def test_every_spelling_names_what_its_rule_lifts(row: Any) -> None:
    named = {*row.signature.parameters, *getattr(row, "tensors", ())}
    assert set(RULES[row.operator].lifts) <= named


def test_every_rule_is_spelled_somehow() -> None:
    assert {row.operator for row in ROWS} | {"pointwise", *ATEN_ALONE} == set(RULES)


OVERLOADS = [
    overload
    for operator in RULES
    for packet in packets_of(operator)
    for name in getattr(torch.ops.aten, packet).overloads()
    if "out" not in name
    and "Dimname" not in str((overload := getattr(getattr(torch.ops.aten, packet), name))._schema)
    and overload._schema.arguments[0].name in ("self", "input", "tensors")
    and aten_spelling(overload) is not None
]


@pytest.mark.parametrize("overload", OVERLOADS, ids=str)
def test_every_overload_names_what_its_rule_lifts_and_has_its_like_in_2d(overload: Any) -> None:
    row = aten_spelling(overload)
    assert row is not None
    named = set(row.signature.parameters)
    assert {"input", "tensors"} & named
    assert set(RULES[row.operator].lifts) & named
    for target in row.targets.values():
        like = aten_spelling(target)
        given = {a.name for a in target._schema.arguments}
        assert like is not None or named - {"mode"} <= given | {"input", "sizes"}


def built(layer: type[nn.Module]) -> nn.Module:
    """The layer, with as many arguments as its constructor asks for."""
    for args in ((0.5,), (2,), (2, 2), (2, 2, 3)):
        try:
            return layer(*args)
        except (TypeError, ValueError):
            continue
    raise AssertionError(layer)


REPLACED = [row for row in MODULES if row.layer is not row.lifted]


@pytest.mark.parametrize("row", REPLACED, ids=lambda row: row.layer.__name__)
def test_a_layer_in_2d_has_the_attributes_of_one_that_was_built(row: Any) -> None:
    lifted = row.lift_module(built(row.layer), {}, UnitAxis(-2))
    assert type(lifted) is row.lifted
    assert set(vars(lifted)) == set(vars(built(row.lifted)))
