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


@rule("instance_norm", "group_norm", "local_response_norm", contiguous=True)
def lift_channel_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A norm over the length, or over groups of channels and the length, takes the same numbers from (N, C, 1, L).

    Parameters and statistics are (C,), and stay as they are.
    """
    if norm.input is None or norm.input.rank != 3:
        return Refusal("its input is not (N, C, L)")
    return Lifted("norm")


@rule("layer_norm")
def lift_layer_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A layer or RMS norm over the length normalises the last axis, which (N, C, 1, L) has as well."""
    shape = norm.normalized_shape
    if axis.position != -2 or not isinstance(shape, (tuple, list)) or len(shape) != 1:
        return Refusal("it normalises more than the last axis, or the unit axis is the last")
    return Lifted("layer_norm")
