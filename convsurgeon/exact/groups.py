"""Groups: as one dense kernel, as convolutions of their own, or as many as there are results."""

from __future__ import annotations

import torch
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.writer import Writer
from convsurgeon.rules.base import Refusal
from convsurgeon.spellings import is_aten


@rewrite("ungroup_dense", reads=Convolution)
def ungroup_dense(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of g groups is one of a single group, whose kernel is zero between channels of different groups.

    It has g times as many multiply-accumulates, and weights.

    Limits: it isn't asked for a size.
    """
    if conv.groups == 1:
        return None
    if conv.resized:
        return Refusal("it is asked for a size of its result")
    blocks = conv.weight.value.detach().unflatten(0, (conv.groups, -1))
    rows, columns = blocks.shape[1:3]
    dense = blocks.new_zeros(conv.groups, rows, conv.groups, columns, *blocks.shape[3:])
    one = torch.arange(conv.groups, device=blocks.device)
    dense[one, :, one] = blocks
    return write.same(conv, conv.input, weight=dense.flatten(2, 3).flatten(0, 1), groups=1)


@rewrite("ungroup_split", reads=Convolution, limit=16)
def ungroup_split(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of g groups is g convolutions, each of its own channels, and their results side by side.

    The first keeps the names of weight and bias, those that follow stand beside it as part1.weight, part1.bias.

    Limits: no more groups than the number that is given; it isn't asked for a size.
    """
    if conv.groups == 1:
        return None
    if conv.groups > write.limit:
        return Refusal(f"it has {conv.groups} groups, which would be as many convolutions; the limit is {write.limit}")
    if conv.resized:
        return Refusal("it is asked for a size of its result")
    width = conv.channels[0] // conv.groups
    weights = conv.weight.value.detach().chunk(conv.groups)
    biases = [None] * conv.groups if conv.bias is None else conv.bias.value.detach().chunk(conv.groups)
    results = []
    for part, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        own = write.channels(conv.input, part * width, (part + 1) * width)
        results.append(write.same(conv, own, weight=weight, bias=bias, groups=1, part=part))
    return write.cat(results)


@rewrite("repeat_inputs", reads=Convolution)
def repeat_inputs(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of m results for each channel is a depthwise one over channels that are repeated m times.

    The weight stays as it is. Kernels for one result a channel are fast where those for several are not: torch's on the
    CPU, in channels_last.

    Limits: each group has one channel; not transposed; it isn't asked for a size.
    """
    inputs, outputs = conv.channels
    if conv.transposed or conv.groups == 1 or conv.groups != inputs or outputs == inputs:
        return None
    if conv.resized:
        return Refusal("it is asked for a size of its result")
    spelled = torch.ops.aten.repeat_interleave.self_int if is_aten(write.module.graph) else torch.repeat_interleave
    return write.same(conv, write.call(spelled, conv.input, outputs // inputs, -3), groups=outputs)
