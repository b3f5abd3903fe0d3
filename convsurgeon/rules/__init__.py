"""What each operator becomes in 2-D, one family a file."""

from convsurgeon.rules import convolution, dropout, joining, normalisation, pointwise
from convsurgeon.rules.base import RULES, Arguments, Deferred, Lifted, Refusal, Rule
from convsurgeon.rules.table import rules_table

__all__ = [
    "RULES",
    "Arguments",
    "Deferred",
    "Lifted",
    "Refusal",
    "Rule",
    "convolution",
    "dropout",
    "joining",
    "normalisation",
    "pointwise",
    "rules_table",
]
