"""Elements of the length as channels: deep convolutions for what is made for depth, where channels come last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.norm import folded
from convsurgeon.exact.sites import Convolution, Norm
from convsurgeon.exact.surroundings import again, gentle_behind
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("fold_into_channels", reads=Convolution, limit=8)
def fold_into_channels(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of stride s is one of stride 1 over f elements at a time as channels, f a multiple of s.

    y[(f/s) n + r] = sum_k w[k] x[f n + s r + k], where x[f n + j] is channel j of C f, and r one of f/s results that
    take turns. f is as many strides as make no more channels than the number, but one at least. In memory both are
    views where channels come last, as compilers hold them that read TensorFlow Lite; where they come first, fold_stride
    moves less. Padding is whole rows: where it is no multiple of f, the kernel begins with zeros. Where results take
    turns, a batch norm behind that is in eval mode goes into the weight, and pointwise operators are computed before
    that, so that a compiler can still join them to the convolution; not so roots and the like, whose slope may be
    infinite.

    Limits: one group, zero padding, no dilation.
    """
    step, inputs = conv.stride, conv.channels[0]
    factor = step * max(1, write.limit // (step * inputs))
    if conv.transposed or factor == 1:
        return None
    if conv.groups > 1:
        return Refusal(f"it has {conv.groups} groups, each of which would need its elements side by side")
    if conv.padding_mode != "zeros":
        return Refusal(f"its padding_mode is {conv.padding_mode!r}; separate_padding takes that out of it")
    if conv.dilation > 1 and conv.taps > 1:
        return Refusal(f"its dilation is {conv.dilation}, and a kernel with gaps would have to be filled with zeros")
    left, right = conv.pads
    above = -(-left // factor)
    phases = factor // step
    kernel, bias = conv.kernel, None if conv.bias is None else conv.bias.value.detach()
    norm = _norm_behind(conv, write) if phases > 1 else None
    if norm is not None:
        kernel, bias = conv.axis.lower(norm[0]), norm[1]
    weight = _over_rows(kernel, factor, step, above * factor - left)
    length = write.length(conv.input)
    results = (length + (left + right - conv.taps + step)) // step
    rows, needed = (length + (factor - 1)) // factor, (results + (phases - 1)) // phases + (weight.shape[-1] - 1)
    whole = write.pad_to(conv.input, 0, length, rows * factor)
    deep = write.pad_to(write.into_channels(whole, conv, rows, factor), above, rows, needed)
    numbers = Numbers(conv.axis.lift(weight), None if bias is None else bias.repeat(phases))
    found = write.convolution(conv, deep, numbers)
    if phases == 1:
        return found
    before = write.passed[-1] if write.passed else conv.node
    for node in gentle_behind(before, write):
        write.passed.append(node)
        before, found = node, again(node, {before: found})
    return write.out_of_channels(found, conv, phases, results)


def _norm_behind(conv: Convolution, write: Writer) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The weight and bias that take in the batch norm that alone reads the convolution, which is then passed."""
    for node in conv.node.users:
        norm = write.reader.read(Norm, node)
        found = folded(norm) if isinstance(norm, Norm) else None
        if isinstance(found, tuple):
            write.passed.append(node)
            write.frozen = True
            return found[1:]
    return None


def _over_rows(kernel: torch.Tensor, factor: int, step: int, shift: int) -> torch.Tensor:
    """(C_out, C_in, K) as (phases C_out, factor C_in, taps): each phase begins `step` elements after the one before.

    `shift`: how many elements of the first row come before the first element that is read.
    """
    starts = range(shift, shift + factor, step)
    taps = -(-(kernel.shape[-1] + starts[-1]) // factor)
    total = taps * factor - kernel.shape[-1]
    phases = torch.stack([F.pad(kernel, (start, total - start)) for start in starts]).unflatten(-1, (taps, factor))
    deep: torch.Tensor = phases.permute(0, 1, 4, 2, 3).flatten(2, 3).flatten(0, 1)
    return deep
