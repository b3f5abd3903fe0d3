"""Transposed convolutions: without padding, and without being transposed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("crop_padding", reads=Convolution)
def crop_padding(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A transposed convolution with padding p is one without, of which p elements are cut off on each side.

    Dilation becomes zeros between the taps. `output_padding` cuts off fewer on the right; where it is more than p, the
    kernel ends in as many zeros as are missing.
    """
    if not conv.transposed or (conv.pads == (0, 0) and conv.output_padding == 0 and conv.dilation == 1):
        return None
    if conv.resized:
        return Refusal("it is asked for a size of its result")
    padding, missing = conv.pads[0], max(0, conv.output_padding - conv.pads[0])
    kernel = _without_gaps(conv)
    weight = conv.axis.lift(F.pad(kernel, (0, missing)) if missing else kernel)  # itself, where it stays as it is
    numbers = Numbers(weight, stride=write.steps(conv.stride), groups=conv.groups, transposed=True)
    whole = write.convolution(conv, conv.input, numbers)
    behind = padding - conv.output_padding + missing
    return write.crop(whole, padding, -behind or None)


@rewrite("transposed_as_convolution", reads=Convolution)
def transposed_as_convolution(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A transposed convolution of stride s is a convolution to s times as many channels, which then take turns.

    y[s n + r] = sum_j w[s j + r] x[n - j]: for each r a kernel of K/s taps, turned round, over the length padded by
    K/s - 1 on both sides. (N, s C, 1, M) is seen as (N, C, s, M), transposed, and seen as (N, C, 1, s M); padding and
    `output_padding` say what is cut off.
    """
    if not conv.transposed:
        return None
    if conv.resized:
        return Refusal("it is asked for a size of its result")
    step, padding, outputs = conv.stride, conv.pads[0], conv.channels[1]
    kernel = F.pad(_without_gaps(conv), (0, max(0, conv.output_padding - padding)))
    taps = -(-kernel.shape[-1] // step)
    behind = taps * step - conv.span + padding - conv.output_padding
    phases = F.pad(kernel, (0, taps * step - kernel.shape[-1])).unflatten(-1, (taps, step)).flip(-2)
    grouped = phases.unflatten(0, (conv.groups, -1)).permute(
        0, 2, 4, 1, 3
    )  # (groups, C_out/groups, s, C_in/groups, K/s)
    weight = conv.axis.lift(grouped.flatten(0, 2))
    bias = None if conv.bias is None else conv.bias.value.detach().repeat_interleave(step)
    numbers = Numbers(weight, bias, padding=write.pair(taps - 1, 0), groups=conv.groups)
    found = write.convolution(conv, conv.input, numbers)
    if step > 1:
        length = write.length(found)
        turns = write.transpose(write.reshape(found, conv, outputs, step, length, folded=True), -1, -2)
        found = write.unfold(turns, conv, length * step)
    return write.crop(found, padding, -behind or None)


def _without_gaps(conv: Convolution) -> torch.Tensor:
    """The kernel with zeros where its dilation leaves gaps."""
    if conv.dilation == 1:
        return conv.kernel
    whole = conv.kernel.new_zeros(*conv.kernel.shape[:2], conv.span)
    whole[..., :: conv.dilation] = conv.kernel
    return whole
