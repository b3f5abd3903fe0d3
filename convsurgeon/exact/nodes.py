"""Writes operators along the length into a converted graph, in the spelling that it has. Decides nothing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.proxy import GraphAppendingTracer

from convsurgeon.exact.reader import Reader
from convsurgeon.exact.sites import Convolution

aten = torch.ops.aten

_TORCH: dict[str, Any] = {
    "pad": F.pad,
    "reshape": torch.reshape,
    "transpose": torch.transpose,
    "permute": torch.permute,
    "cat": torch.cat,
    "add": operator.add,
    "slice": operator.getitem,
    "size": "size",
    "contiguous": "contiguous",
    "clone": "clone",
    "max_pool": F.max_pool2d,
    "avg_pool": F.avg_pool2d,
}
_ATEN: dict[str, Any] = {
    "pad": aten.pad.default,
    "reshape": aten.reshape.default,
    "transpose": aten.transpose.int,
    "permute": aten.permute.default,
    "cat": aten.cat.default,
    "add": aten.add.Tensor,
    "slice": aten.slice.Tensor,
    "size": aten.sym_size.int,
    "contiguous": aten.contiguous.default,
    "clone": aten.clone.default,
    "max_pool": aten.max_pool2d.default,
    "avg_pool": aten.avg_pool2d.default,
}
"""What is written, in graphs of functions and methods, and in graphs of ATen's operators."""

Length = Any
"""A number, or one that is known when the graph runs: an ``fx.Proxy``, with the operators of a number."""


@dataclass(frozen=True, slots=True)
class Folding:
    """A value whose length is seen as (rows, `factor`): what `root`, folded first, is now, with so many more `rows`.

    `length` is that of the value itself, without what stands behind its end.
    """

    value: fx.Node
    factor: int
    root: fx.Node
    rows: int
    length: Length


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered from one place to the next: the nodes whose value is folded, and the foldings.

    These are found by what they hold once it is unfolded (`unfoldings`), and by what they were folded from, with its
    pads and the factor (`made`).
    """

    folded: set[fx.Node] = field(default_factory=set)
    unfoldings: dict[fx.Node, Folding] = field(default_factory=dict)
    made: dict[tuple[fx.Node, int, int, int], Folding] = field(default_factory=dict)


class NodeWriter:
    """Writes at one place; `limit` is the number that the rewrite keeps to, and `baked` names what it has baked.

    `absorbed` are the nodes whose work is done by what it wrote, and `frozen` says that it holds in this mode alone.
    `passed` are nodes behind the site, each reading only the one before, for the last of which its result stands.
    """

    def __init__(self, reader: Reader, limit: int | None, memory: Memory) -> None:
        module = reader.module
        self.limit = limit or 0
        self.axis = reader.axis
        self.reader = reader
        self.memory = memory
        self.absorbed: list[fx.Node] = []
        self.passed: list[fx.Node] = []
        self.baked: list[str] = []
        self.frozen = False
        self.module = module
        self._graph = module.graph
        self._spelled = _ATEN if reader.is_aten else _TORCH

    # -- lengths

    def size(self, value: fx.Node, axis: int) -> Length:
        """The size of a value along an axis, when the graph runs."""
        return fx.Proxy(self.emit("size", value, axis), GraphAppendingTracer(self._graph))

    def length(self, value: fx.Node) -> Length:
        """The length of a value that is (N, C, 1, L), when the graph runs."""
        return self.size(value, self.axis.of_length)

    # -- values

    def pad(self, value: fx.Node, left: Length, right: Length, mode: str = "constant") -> fx.Node:
        """Along the length, with zeros if no other mode is given; less than nothing is taken away."""
        if isinstance(right, int) and left == right == 0:
            return value
        if mode != "constant":
            return self.emit("pad", value, self.axis.pads([left, right]), mode)
        pads = [left, right] if self.axis.position == -2 else [0, 0, left, right]
        return self.emit("pad", value, pads)

    def pad_to(self, value: fx.Node, left: int, length: Length, total: Length) -> fx.Node:
        """A value of a length, with `left` zeros before it, and as many behind it as make the total; or cut off."""
        return self.pad(value, left, total - (length + left if left else length))

    def pad_rows(self, value: fx.Node, above: int) -> fx.Node:
        """A folded value, with rows of zeros before its first."""
        return self.emit("pad", value, [0, 0, above, 0])

    def crop(self, value: fx.Node, start: Length, stop: Length | None) -> fx.Node:
        """Along the length, from `start` up to `stop`, which counts from the end where it is less than nothing."""
        if start == 0 and stop is None:
            return value
        return self._slice(value, self.axis.of_length, start, stop)

    def channels(self, value: fx.Node, start: int, stop: int) -> fx.Node:
        """Some of the channels."""
        return self._slice(value, -3, start, stop)

    def _slice(self, value: fx.Node, axis: int, start: Length, stop: Length | None) -> fx.Node:
        if self._spelled is _ATEN:
            return self.emit("slice", value, axis, start, *(() if stop is None else (stop,)))
        behind = (slice(None),) * (-axis - 1)
        return self.emit("slice", value, (Ellipsis, slice(start or None, stop), *behind))

    def reshape(self, value: fx.Node, site: Any, *sizes: Length, folded: bool = False) -> fx.Node:
        """In the shape (N, *sizes), where N is as it is at the site; without it if values there are unbatched."""
        batch = [self.size(value, 0)] if len(site.shape) == 4 else []
        new = self.emit("reshape", value, [*batch, *sizes])
        return self.keep_folded(new) if folded else new

    def transpose(self, value: fx.Node, one: int, other: int) -> fx.Node:
        """With two axes in each other's place."""
        return self.emit("transpose", value, one, other)

    def cat(self, values: Sequence[fx.Node]) -> fx.Node:
        """Along the channels."""
        return self.emit("cat", list(values), -3)

    def add(self, one: fx.Node, other: fx.Node) -> fx.Node:
        """The sum of two values."""
        return self.emit("add", one, other)

    def contiguous(self, value: fx.Node) -> fx.Node:
        """Laid out as the original's value is."""
        return self.emit("contiguous", value)

    def in_order(self, value: fx.Node) -> fx.Node:
        """A copy, contiguous even to those who take one channel, or one element, for channels that come last."""
        node = self.emit("clone", value)
        node.kwargs = {"memory_format": torch.contiguous_format}
        return node

    def pool(self, kind: str, value: fx.Node, taps: int, stride: int, padding: int = 0) -> fx.Node:
        """A pool along the length."""
        pairs = self.pair(taps, 1), self.steps(stride), self.pair(padding, 0)
        if kind == "max":
            return self.emit("max_pool", value, *pairs)
        return self.emit("avg_pool", value, *pairs)

    def call(self, function: Any, *args: Any) -> fx.Node:
        """Any function, in any spelling."""
        return self.create("call_function", function, args)

    def pair(self, along: int, unit: int) -> tuple[int, int]:
        """A number for the length as one for both axes."""
        both: tuple[int, int] = self.axis.pair((along,), unit=unit)
        return both

    def steps(self, along: int) -> tuple[int, int]:
        """A stride or dilation of the length as one for both axes, equal on them where the plan asks for that."""
        both: tuple[int, int] = self.axis.steps((along,))
        return both

    # -- folding

    def fold(self, value: fx.Node, site: Convolution, rows: Length, factor: int) -> fx.Node:
        """(N, C, 1, rows * factor) as (N, C, rows, factor)."""
        return self.reshape(value, site, site.channels[0], rows, factor, folded=True)

    def unfold(self, value: fx.Node, site: Convolution, length: Length) -> fx.Node:
        """(N, C, rows, columns), with as many elements as `length` says, as (N, C, 1, length)."""
        sizes = (1, length) if self.axis.position == -2 else (length, 1)
        return self.reshape(value, site, site.channels[1], *sizes)

    def into_channels(self, value: fx.Node, site: Convolution, rows: Length, factor: int) -> fx.Node:
        """(N, C, 1, rows * factor) as (N, factor * C, 1, rows): in memory the same, where channels come last."""
        last = self._channels_last(value, site)
        return self._channels_first(self._in_rows(last, site, rows, site.channels[0] * factor), site)

    def out_of_channels(self, value: fx.Node, site: Convolution, factor: int, length: Length) -> fx.Node:
        """(N, factor * C, 1, rows) as (N, C, 1, rows * factor), cut off at `length`."""
        rows = self.length(value)
        last = self._in_rows(self._channels_last(value, site), site, rows * factor, site.channels[1])
        return self._channels_first(self._slice(last, self.axis.of_length - 1, 0, length), site)

    def _channels_last(self, value: fx.Node, site: Convolution) -> fx.Node:
        axes = [0, 2, 3, 1] if len(site.shape) == 4 else [1, 2, 0]
        return self.keep_folded(self.emit("permute", value, axes))

    def _channels_first(self, value: fx.Node, site: Convolution) -> fx.Node:
        node = self.emit("permute", value, [0, 3, 1, 2] if len(site.shape) == 4 else [2, 0, 1])
        self.memory.folded.discard(node)
        return node

    def _in_rows(self, value: fx.Node, site: Convolution, rows: Length, channels: int) -> fx.Node:
        return self.reshape(value, site, *((1, rows) if self.axis.position == -2 else (rows, 1)), channels, folded=True)

    def keep_folded(self, node: fx.Node) -> fx.Node:
        """Remember that the node's value isn't (N, C, 1, L)."""
        self.memory.folded.add(node)
        return node

    # -- any node

    def emit(self, name: str, *args: Any) -> fx.Node:
        """An operator by its name, in this graph's spelling."""
        target = self._spelled[name]
        node = self.create("call_method" if isinstance(target, str) else "call_function", target, args)
        values = args[0] if isinstance(args[0], list) else [args[0]]
        return self.keep_folded(node) if any(value in self.memory.folded for value in values) else node

    def create(self, op: str, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """A node; numbers that are known when the graph runs stand for what computes them."""
        plain = fx.node.map_aggregate(args, lambda leaf: leaf.node if isinstance(leaf, fx.Proxy) else leaf)
        return self._graph.create_node(op, target, plain)
