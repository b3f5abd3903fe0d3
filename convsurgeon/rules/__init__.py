"""What each operator becomes in 2-D, one family a file."""

from convsurgeon.rules import (
    axes,
    convolution,
    dropout,
    joining,
    normalisation,
    padding,
    pointwise,
    pooling,
    queries,
    resampling,
)
from convsurgeon.rules.base import RULES, Arguments, Deferred, Lifted, Lowered, Refusal, Rule
from convsurgeon.rules.table import rules_table

__all__ = [
    "RULES",
    "Arguments",
    "Deferred",
    "Lifted",
    "Lowered",
    "Refusal",
    "Rule",
    "axes",
    "convolution",
    "dropout",
    "joining",
    "normalisation",
    "padding",
    "pointwise",
    "pooling",
    "queries",
    "resampling",
    "rules_table",
]
