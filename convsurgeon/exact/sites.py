"""The operators that exact rewrites read, as numbers along the length. They know no graph spelling, and no rewrite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx, nn

from convsurgeon.axis import UnitAxis

Spelled = Literal["module", "torch", "aten", "convolution"]
"""A layer, a function of torch's, or an overload of ATen's, of which ``convolution`` computes both kinds."""


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the module tree: the module that holds it, under which name, all its qualified names, its value."""

    owner: nn.Module
    name: str
    names: tuple[str, ...]
    value: torch.Tensor


@dataclass(frozen=True, slots=True)
class Site:
    """One operator of the graph: its node, its first operand, and that operand's shape in the sample."""

    node: fx.Node
    input: fx.Node
    shape: tuple[int, ...]
    axis: UnitAxis

    @property
    def length(self) -> int:
        """The operand's length in the sample."""
        return self.shape[self.axis.of_length]


@dataclass(frozen=True, slots=True)
class Convolution(Site):
    """A convolution along the length, transposed or not.

    `pads`: what is added (or, transposed, taken away) on the left and on the right. `resized`: a size of the result is
    asked for when it is called. `called`: the qualified name of the layer, "" where a function is called.
    """

    weight: Held
    bias: Held | None
    spelled: Spelled
    transposed: bool
    stride: int
    pads: tuple[int, int]
    dilation: int
    groups: int
    output_padding: int
    padding_mode: str
    resized: bool
    called: str

    @property
    def kernel(self) -> torch.Tensor:
        """The weight without its unit axis: (C_out, C_in/groups, K), or transposed (C_in, C_out/groups, K)."""
        return self.axis.lower(self.weight.value.detach())

    @property
    def taps(self) -> int:
        """How many elements the kernel has."""
        return self.kernel.shape[-1]

    @property
    def channels(self) -> tuple[int, int]:
        """How many go in, and how many come out."""
        rows, columns = self.kernel.shape[:2]
        return (rows, columns * self.groups) if self.transposed else (columns * self.groups, rows)

    @property
    def span(self) -> int:
        """How many elements a dilated kernel reaches over."""
        return self.dilation * (self.taps - 1) + 1

    def __str__(self) -> str:
        numbers = {
            "stride": (self.stride, 1),
            "padding": (self.pads[0] if self.pads[0] == self.pads[1] else self.pads, 0),
            "output_padding": (self.output_padding, 0),
            "dilation": (self.dilation, 1),
            "groups": (self.groups, 1),
        }
        name = "conv_transpose2d" if self.transposed else "conv2d"
        told = "".join(f", {key}={value}" for key, (value, usual) in numbers.items() if value != usual)
        return f"{name}({self.channels[0]}, {self.channels[1]}, {self.taps}{told})"


@dataclass(frozen=True, slots=True)
class Norm(Site):
    """Batch norm: scale * (x - mean) / sqrt(variance + eps) + shift, by statistics that are kept, unless it `trains`.

    `convolution` computes its operand, and `alone` says that nothing else reads it.
    """

    mean: torch.Tensor | None
    variance: torch.Tensor | None
    scale: torch.Tensor | None
    shift: torch.Tensor | None
    eps: float
    trains: bool
    convolution: Convolution | None
    alone: bool
    why: str

    def __str__(self) -> str:
        return f"batch_norm({self.shape[-3]})"


@dataclass(frozen=True, slots=True)
class Pool(Site):
    """A pool along the length; `size` is what an adaptive one makes of it, and "mean" is the mean over all of it."""

    kind: Literal["max", "average", "mean"]
    size: int | None = None
    taps: int = 0
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False
    divides: bool = False
    indices: bool = False
    keeps: bool = True

    def __str__(self) -> str:
        if self.kind == "mean":
            return "mean over the length"
        if self.size is not None:
            return f"adaptive_{self.kind}_pool2d({self.size})"
        return f"{self.kind}_pool2d({self.taps}, stride={self.stride}, padding={self.padding})"


@dataclass(frozen=True, slots=True)
class Linear(Site):
    """A linear layer over the last axis."""

    weight: Held
    bias: Held | None
    spelled: Spelled
    called: str

    def __str__(self) -> str:
        rows, columns = self.weight.value.shape
        return f"linear({columns}, {rows})"
