"""Convolutions: the operators that must become 2-D."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule, size_asked_for


@rule("conv1d", lifts=("input", "weight"), must=True, contiguous=True)
def lift_conv1d(conv: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``conv1d`` on (N, C, L) is ``conv2d`` on (N, C, 1, L) with a (1, K) kernel.

    weight: (C_out, C_in/groups, K) -> (C_out, C_in/groups, 1, K); bias as it is. "same" pads the unit axis by nothing,
    since its kernel and dilation are 1; every padding_mode pads by nothing there likewise. The same products are
    summed, perhaps in another order: equal up to rounding.
    """
    return Lifted(
        "conv2d",
        stride=axis.steps(conv.stride),
        padding=axis.pair(conv.padding, unit=0),
        dilation=axis.steps(conv.dilation),
    )


@rule("conv_transpose1d", lifts=("input", "weight"), must=True, contiguous=True)
def lift_conv_transpose1d(conv: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``conv_transpose1d`` on (N, C, L) is ``conv_transpose2d`` on (N, C, 1, L) with a (1, K) kernel.

    weight: (C_in, C_out/groups, K) -> (C_in, C_out/groups, 1, K). On the unit axis stride 1, kernel 1 and no padding
    give (1 - 1) * 1 + 1 = 1, so an `output_size` gains a 1 there, whether it names the length or every axis.
    """
    return Lifted(
        "conv_transpose2d",
        stride=axis.steps(conv.stride),
        padding=axis.pair(conv.padding, unit=0),
        output_padding=axis.pair(conv.output_padding, unit=0),
        dilation=axis.steps(conv.dilation),
        output_size=None if conv.output_size is None else size_asked_for(conv.output_size, axis),
    )


@rule("convolution", lifts=("input", "weight"), must=True, contiguous=True)
def lift_convolution(conv: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``convolution``, whose rank is its input's, is the same on (N, C, 1, L) with a (1, K) kernel, transposed or not.

    Limits: the input is (N, C, L).
    """
    if conv.input is None:
        return Refusal("the rank of its input was not observed")
    if conv.input.rank != 3:
        return Refusal(f"its input has rank {conv.input.rank}; (N, C, L) is lifted")
    return Lifted(
        "convolution",
        stride=axis.steps(conv.stride),
        padding=axis.pair(conv.padding, unit=0),
        dilation=axis.steps(conv.dilation),
        output_padding=axis.pair(conv.output_padding, unit=0),
    )
