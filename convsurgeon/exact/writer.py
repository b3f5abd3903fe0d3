"""Writes convolutions into a converted graph, in the spelling that they had, and their weights into its tree."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.converted.scope import take_contents
from convsurgeon.exact.nodes import NodeWriter
from convsurgeon.exact.sites import Convolution, Held, Linear
from convsurgeon.exact.weights import bake, held_as

aten = torch.ops.aten

_CONVOLUTIONS: dict[tuple[str, bool], Any] = {
    ("torch", False): torch.conv2d,
    ("torch", True): torch.conv_transpose2d,
    ("aten", False): aten.conv2d.default,
    ("aten", True): aten.conv_transpose2d.input,
    ("convolution", False): aten.convolution.default,
    ("convolution", True): aten.convolution.default,
}


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a convolution over both spatial axes, and its weights; None leaves these as they are."""

    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)


class Writer(NodeWriter):
    """Writes at one place of a graph: operators, and convolutions with the weights of what stood there."""

    def same(
        self,
        site: Convolution,
        value: fx.Node,
        *,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        groups: int | None = None,
        padding: tuple[int, int] | None = None,
        part: int = 0,
    ) -> fx.Node:
        """The site's convolution of `value`, but for what is given.

        Padding that isn't of zeros, or differs between the sides, is a pad before it.
        """
        if padding is None:
            if site.padding_mode == "zeros" and site.pads[0] == site.pads[1]:
                padding = self.pair(site.pads[0], 0)
            else:
                mode = "constant" if site.padding_mode == "zeros" else site.padding_mode
                value, padding = self.pad(value, *site.pads, mode), (0, 0)
        numbers = Numbers(
            weight,
            site.bias.value if bias is None and site.bias is not None else bias,
            self.steps(site.stride),
            padding,
            self.steps(site.dilation),
            site.groups if groups is None else groups,
            site.transposed,
            self.pair(site.output_padding, 0),
        )
        return self.convolution(site, value, numbers, part)

    def convolution(self, site: Convolution | Linear, value: fx.Node, numbers: Numbers, part: int = 0) -> fx.Node:
        """A convolution of `value`, with the site's weights or others in their place, in the site's spelling.

        `part`: of several that the site becomes, the first takes the site's place, with its bias; the others stand by
        its side.
        """
        node = self._layer(site, value, numbers, part) if site.called else self._function(site, value, numbers, part)
        return self.keep_folded(node) if value in self.memory.folded else node

    def _layer(self, site: Convolution | Linear, value: fx.Node, numbers: Numbers, part: int) -> fx.Node:
        old = self.module.get_submodule(site.called)
        weight = held_as(site.weight, numbers.weight)
        bias = _bias_of(site, numbers, part)
        layer = _layer_of(numbers, weight, bias is not None)
        if part:
            layer._parameters.update(weight=weight, bias=bias)
            layer.training = old.training
            beside = _free(lambda name: name in old._modules)
            old.add_module(beside, layer)
            for kind in ["weight"] if bias is None else ["weight", "bias"]:
                self.baked += _beside(site.weight, f"{beside}.{kind}").names
            return self.create("call_module", f"{site.called}.{beside}", (value,))
        take_contents(layer, old)
        self.reader.put(layer, old)
        self._bake(layer, "weight", site.weight, weight)
        if bias is not None:
            self._bake(layer, "bias", site.bias or _beside(site.weight, "bias"), bias)
        return self.create("call_module", site.called, (value,))

    def _bake(self, owner: nn.Module, name: str, held: Held, tensor: torch.Tensor) -> None:
        if bake(owner, name, held, tensor, self.axis):
            self.baked += _beside(held, name).names

    def _function(self, site: Convolution | Linear, value: fx.Node, numbers: Numbers, part: int) -> fx.Node:
        weight = held_as(site.weight, numbers.weight)
        bias = _bias_of(site, numbers, part)
        owner, name = site.weight.owner, site.weight.name
        suffix = f"_{_free(lambda end: hasattr(owner, f'{name}_{end}'))}" if part else ""
        name += suffix
        self._bake(owner, name, site.weight, weight)
        read = [self._attribute(owner, name)]
        if bias is None:
            read.append(None)  # type: ignore[arg-type]
        elif site.bias is not None:
            held = site.bias.name + suffix
            self._bake(site.bias.owner, held, site.bias, bias)
            read.append(self._attribute(site.bias.owner, held))
        else:
            added = f"{name}_bias" if hasattr(owner, "bias") or name != "weight" else "bias"
            if hasattr(owner, added):
                added = f"{added}_{_free(lambda end: hasattr(owner, f'{added}_{end}'))}"
            self._bake(owner, added, _beside(site.weight, added), bias)
            read.append(self._attribute(owner, added))
        arguments = _arguments(site.spelled, numbers)
        return self.create("call_function", _CONVOLUTIONS[site.spelled, numbers.transposed], (value, *read, *arguments))

    def _attribute(self, owner: nn.Module, name: str) -> fx.Node:
        return self.create("get_attr", f"{self.reader.path_of(owner)}.{name}".removeprefix("."), ())


def _bias_of(site: Convolution | Linear, numbers: Numbers, part: int) -> Any:
    """The bias that is held or given; of several parts those behind the first have one only if it is given."""
    return None if part and numbers.bias is None else held_as(site.bias, numbers.bias, like=site.weight)


def _free(taken: Callable[[str], bool]) -> str:
    """The first name for another part that isn't taken."""
    return next(name for name in map("part{}".format, itertools.count(1)) if not taken(name))


def _beside(held: Held, name: str) -> Held:
    """What stands under another name where a tensor is held."""
    return replace(held, name=name, names=tuple(f"{one.removesuffix(held.name)}{name}" for one in held.names))


def _layer_of(numbers: Numbers, weight: torch.Tensor, biased: bool) -> nn.Module:
    """A layer with these numbers, whose weights are yet to come."""
    kind = nn.ConvTranspose2d if numbers.transposed else nn.Conv2d
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    vars(layer).update(_attributes(kind, replace(numbers, weight=None, bias=None), tuple(weight.shape), biased))
    return layer


@functools.lru_cache(maxsize=128)
def _attributes(
    kind: type[nn.Conv2d | nn.ConvTranspose2d], numbers: Numbers, shape: tuple[int, ...], biased: bool
) -> dict[str, Any]:
    """What a layer with these numbers has that not every module has; making one anew takes long, and many are alike."""
    rows, columns = shape[0], shape[1] * numbers.groups
    inputs, outputs = (rows, columns) if numbers.transposed else (columns, rows)
    given: dict[str, Any] = {
        "stride": numbers.stride,
        "padding": numbers.padding,
        "dilation": numbers.dilation,
        "groups": numbers.groups,
        "bias": biased,
        "device": "meta",
    }
    if numbers.transposed:
        given["output_padding"] = numbers.output_padding
    layer, every = kind(inputs, outputs, shape[2:], **given), vars(nn.Module())  # type: ignore[arg-type]  # two numbers
    return {name: value for name, value in vars(layer).items() if name not in every}


def _arguments(spelled: str, numbers: Numbers) -> tuple[Any, ...]:
    """What stands behind the weights in a call."""
    stride, padding, dilation, extra = (
        list(one) for one in (numbers.stride, numbers.padding, numbers.dilation, numbers.output_padding)
    )
    if spelled == "convolution":
        return stride, padding, dilation, numbers.transposed, extra, numbers.groups
    if numbers.transposed:
        return stride, padding, extra, numbers.groups, dilation
    return stride, padding, dilation, numbers.groups
