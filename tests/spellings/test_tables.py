"""The two tables fit each other: every spelling has a rule, and names its operands as the rule does."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.rules import RULES
from convsurgeon.spellings import FUNCTIONS, METHODS, MODULES

ROWS = [*FUNCTIONS.values(), *METHODS.values(), *MODULES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operator)
def test_every_spelling_names_what_its_rule_lifts(row: Any) -> None:
    named = {*row.signature.parameters, *getattr(row, "tensors", ())}
    assert set(RULES[row.operator].lifts) <= named


def test_every_rule_is_spelled_somehow() -> None:
    assert {row.operator for row in ROWS} | {"pointwise"} == set(RULES)


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
