"""Strides: a kernel that jumps over the length becomes one that walks over rows of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("fold_stride", reads=Convolution)
def fold_stride(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of stride s is one of stride 1 over the length seen as (L/s, s), with a kernel (K/s, s).

    y[n] = sum_k w[k] x[s n + k] = sum_(i, j) w[s i + j] x[n + i, j], where x[r, j] = x[s r + j] and w is filled up with
    zeros to a multiple of s. Rows of a length are a view of it in memory, whether channels come first or last, and so
    is the way back: no element moves but for the padding. (N, C s, 1, L/s) would need a transposition.

    Limits: zero padding, no dilation.
    """
    if conv.transposed or conv.stride == 1:
        return None
    if conv.padding_mode != "zeros":
        return Refusal(f"its padding_mode is {conv.padding_mode!r}; separate_padding takes that out of it")
    if conv.dilation > 1 and conv.taps > 1:
        return Refusal(f"its dilation is {conv.dilation}, and a kernel with gaps would have to be filled with zeros")
    step, (left, right) = conv.stride, conv.pads
    rows = -(-conv.taps // step)
    weight = F.pad(conv.kernel, (0, rows * step - conv.taps)).unflatten(-1, (rows, step))
    length = write.length(conv.input)
    results = (length + (left + right - conv.taps + step)) // step
    needed = results + (rows - 1)
    padded = write.pad_to(conv.input, left, length, needed * step)
    folded = write.fold(padded, conv, needed, step)
    result = write.convolution(conv, folded, Numbers(weight, groups=conv.groups))
    return write.unfold(result, conv, results)
