"""Long kernels, as several shorter ones."""

from __future__ import annotations

from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("split_kernel", reads=Convolution, limit=16)
def split_kernel(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A kernel longer than the limit is the sum of shorter ones, each over the length shifted by where it begins.

    sum_k w[k] x[n + k] = sum_i sum_(k < m) w[i m + k] x[n + i m + k]. Each part sees a slice of the padded length that
    gives as many results; the bias stands with the first. The first part keeps the weight's name, those that follow
    stand beside it as part1.weight, part2.weight (of a function: weight_part1).

    Limits: zero padding; not transposed (see transposed_as_convolution).
    """
    if conv.taps <= write.limit:
        return None
    if conv.transposed:
        return Refusal("it is transposed; transposed_as_convolution makes it a convolution, whose kernel can be split")
    if conv.padding_mode != "zeros":
        return Refusal(f"its padding_mode is {conv.padding_mode!r}; separate_padding takes that out of it")
    padded = write.pad(conv.input, *conv.pads)
    stride, dilation = write.steps(conv.stride), write.steps(conv.dilation)
    total: fx.Node | None = None
    for part, kernel in enumerate(conv.kernel.split(write.limit, -1)):
        before = part * write.limit * conv.dilation
        behind = (conv.taps - part * write.limit - kernel.shape[-1]) * conv.dilation
        shifted = write.crop(padded, before, -behind or None)
        bias = None if part or conv.bias is None else conv.bias.value
        numbers = Numbers(conv.axis.lift(kernel), bias, stride, dilation=dilation, groups=conv.groups)
        found = write.convolution(conv, shifted, numbers, part)
        total = found if total is None else write.add(total, found)
    return total
