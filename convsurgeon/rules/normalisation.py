"""Normalisation: over the batch, the length, groups of channels, or the last axes."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule, size_asked_for


@rule("batch_norm", contiguous=True, trusts_gradient=True)
def lift_batch_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``batch_norm`` of (N, C, L) normalises the same N * L numbers of a channel in (N, C, 1, L).

    Parameters and statistics are (C,), and stay as they are.

    Limits: the input is (N, C, L).
    """
    if norm.input is None:
        return Refusal("the rank of its input was not observed")
    if norm.input.rank != 3:
        return Refusal(f"its input has rank {norm.input.rank}; (N, C, L) is lifted")
    return Lifted("batch_norm")


@rule("instance_norm", contiguous=True, trusts_gradient=True)
def lift_instance_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``instance_norm`` over the length takes the same numbers from (N, C, 1, L), and a layer's (C, L) from (C, 1, L).

    Parameters and statistics are (C,), and stay as they are.
    """
    return Lifted("instance_norm")


@rule("group_norm", "local_response_norm", contiguous=True)
def lift_channel_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A norm over groups of channels and the length, or over neighbouring channels, does the same in (N, C, 1, L).

    Parameters are (C,), and stay as they are.

    Limits: the input is (N, C, L).
    """
    if norm.input is None or norm.input.rank != 3:
        return Refusal("its input is not (N, C, L)")
    return Lifted("norm")


@rule("layer_norm", lifts=("input", "weight", "bias"))
@rule("rms_norm", lifts=("input", "weight"), contiguous=True)
def lift_layer_norm(norm: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A layer or RMS norm over the last axes of (N, C, L) is one over those of (N, C, 1, L), the unit axis among them.

    Over the last axis alone it stays as it is where the unit axis stands before. Else weight and bias, of the shape
    that is normalised, gain the unit axis too.

    Limits: with a weight, the shape is plain numbers.
    """
    shape = norm.normalized_shape
    if isinstance(shape, (tuple, list)):
        return Lifted("norm", normalized_shape=axis.lifted_shape(shape) if axis.has_form(len(shape)) else shape)
    if norm.weight is not None or norm.bias is not None:
        return Refusal("its shape is computed in the graph, and its weight would have to follow")
    return Lifted("norm", normalized_shape=size_asked_for(shape, axis))
