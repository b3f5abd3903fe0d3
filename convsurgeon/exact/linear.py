"""Linear layers, as convolutions of one tap."""

from __future__ import annotations

from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Linear
from convsurgeon.exact.surroundings import untranspose, untransposed
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("linear_as_convolution", reads=Linear)
def linear_as_convolution(linear: Linear, write: Writer) -> fx.Node | Refusal | None:
    """A linear layer over the channels, (N, L, 1, C), is a convolution with a (1, 1) kernel over (N, C, 1, L).

    Where its operand was transposed for it, and what it returns is transposed back, no transposition remains. weight:
    (C_out, C_in) -> (C_out, C_in, 1, 1).

    Limits: its operand is held in 2-D, as (N, L, 1, C), with the unit axis at -2.
    """
    if linear.axis.position != -2:
        return Refusal("the unit axis is the last, where a linear layer has its channels")
    found = untransposed(linear.input, write)
    if found is None:
        given = write.transpose(linear.input, -1, -3)
    else:
        given, passed = found
        write.absorbed += passed
    weight = linear.weight.value.detach()[..., None, None]
    result = write.convolution(linear, given, Numbers(weight, None if linear.bias is None else linear.bias.value))
    write.absorbed += untranspose(linear.node, result, write)
    return write.transpose(result, -1, -3)
