"""Normalisation over the batch."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule


@rule("batch_norm", contiguous=True)
def lift_batch_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``batch_norm`` of (N, C, L) normalises the same N * L numbers of a channel in (N, C, 1, L).

    Parameters and statistics are (C,), and stay as they are.
    """
    if norm.input is None:
        return Refusal("the rank of its input was not observed")
    if norm.input.rank != 3:
        return Refusal(f"its input has rank {norm.input.rank}; (N, C, L) is lifted")
    return Lifted("batch_norm")
