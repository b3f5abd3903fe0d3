"""Convolutions as products of matrices: what a library does within, done by the graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution, Held
from convsurgeon.exact.writer import Writer
from convsurgeon.rules.base import Refusal
from convsurgeon.spellings import is_aten

aten = torch.ops.aten

_SPELLED: dict[str, tuple[str, Any, Any]] = {
    "squeeze": ("call_function", torch.squeeze, aten.squeeze.dim),
    "unsqueeze": ("call_function", torch.unsqueeze, aten.unsqueeze.default),
    "unfold": ("call_method", "unfold", aten.unfold.default),
    "flatten": ("call_function", torch.flatten, aten.flatten.using_ints),
    "unflatten": ("call_function", torch.unflatten, aten.unflatten.int),
    "linear": ("call_function", F.linear, aten.linear.default),
    "bmm": ("call_function", torch.bmm, aten.bmm.default),
    "baddbmm": ("call_function", torch.baddbmm, aten.baddbmm.default),
}


@rewrite("convolution_as_product", reads=Convolution)
def convolution_as_product(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution is the product of its kernel, as a matrix, with the windows of the length that it looks at.

    y[n, c, t] = sum_(i, k) w[c, i, k] x[n, i, s t + d k], where (i, k) are the columns of both. Weights stay as they
    are, under their names: no library brings them into an order of its own in each call, which takes most of the time
    where they are large and the length is short. The windows hold every element as often as it is looked at, K/s times;
    with g groups there are g products.

    Limits: not transposed; its operand has a batch.
    """
    if conv.transposed:
        return None
    if len(conv.shape) != 4:
        return Refusal("its operand has no batch")
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = write.pad(conv.input, *conv.pads, mode)
    flat = _emit(write, "squeeze", padded, conv.axis.position)
    windows = _emit(write, "unfold", flat, -1, conv.span, conv.stride)
    if conv.dilation > 1 and conv.taps > 1:
        windows = _every(write, windows, conv.dilation)
    matrix = write.emit("reshape", _held(write, conv.weight), [conv.channels[1], -1])
    bias = None if conv.bias is None else _held(write, conv.bias)
    made = _dense(write, windows, matrix, bias) if conv.groups == 1 else _grouped(write, conv, windows, matrix, bias)
    return _emit(write, "unsqueeze", write.emit("permute", made, [0, 2, 1]), conv.axis.position)


def _dense(write: Writer, windows: fx.Node, matrix: fx.Node, bias: fx.Node | None) -> fx.Node:
    """(N, C, T, K) and (C_out, C K) -> (N, T, C_out)."""
    rows = _emit(write, "flatten", write.emit("permute", windows, [0, 2, 1, 3]), 2)
    return _emit(write, "linear", rows, matrix, bias)


def _grouped(write: Writer, conv: Convolution, windows: fx.Node, matrix: fx.Node, bias: fx.Node | None) -> fx.Node:
    """(N, g C, T, K) and (g C_out, C K) -> (N, T, g C_out); with the batch among the rows no weight repeats."""
    inputs, outputs = (of // conv.groups for of in conv.channels)
    parts = _emit(write, "unflatten", windows, 1, [conv.groups, inputs])
    rows = _emit(write, "flatten", write.emit("permute", parts, [1, 0, 3, 2, 4]), 3)
    tall = _emit(write, "flatten", rows, 1, 2)
    kernels = write.transpose(_emit(write, "unflatten", matrix, 0, [conv.groups, outputs]), 1, 2)
    if bias is None:
        made = _emit(write, "bmm", tall, kernels)
    else:
        made = _emit(write, "baddbmm", write.emit("reshape", bias, [conv.groups, 1, -1]), tall, kernels)
    apart = _emit(write, "unflatten", made, 1, [write.size(windows, 0), write.size(windows, 2)])
    return _emit(write, "flatten", write.emit("permute", apart, [1, 2, 0, 3]), 2)


def _every(write: Writer, value: fx.Node, step: int) -> fx.Node:
    """Each `step`-th element of the last axis."""
    if is_aten(write.module.graph):
        return write.emit("slice", value, -1, None, None, step)
    return write.emit("slice", value, (Ellipsis, slice(None, None, step)))


def _held(write: Writer, held: Held) -> fx.Node:
    """A weight as it is held, under its name."""
    return write.create("get_attr", f"{write.reader.path_of(held.owner)}.{held.name}".removeprefix("."), ())


def _emit(write: Writer, name: str, *args: Any) -> fx.Node:
    op, target, overload = _SPELLED[name]
    if is_aten(write.module.graph):
        op, target = "call_function", overload
    return write.create(op, target, args)
