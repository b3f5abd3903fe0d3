"""How 2-D operators are written in converted graphs: each read into its name and its arguments by name."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._ops import OpOverload

from convsurgeon.capture import Modules
from convsurgeon.spellings import signatures as s
from convsurgeon.spellings.base import bind

aten = torch.ops.aten

_CONVOLUTION = ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode")
_POOL = ("kernel_size", "stride", "padding", "ceil_mode")

LAYERS: dict[Any, tuple[str, tuple[str, ...]]] = {
    nn.Conv2d: ("conv", _CONVOLUTION),
    nn.ConvTranspose2d: ("conv_transpose", (*_CONVOLUTION, "output_padding")),
    nn.Linear: ("linear", ("weight", "bias")),
    nn.BatchNorm2d: ("batch_norm", ("weight", "bias", "running_mean", "running_var", "eps")),
    nn.MaxPool2d: ("max_pool", (*_POOL, "dilation", "return_indices")),
    nn.AvgPool2d: ("avg_pool", (*_POOL, "divisor_override")),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool", ("output_size",)),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool", ("output_size", "return_indices")),
    nn.ZeroPad2d: ("pad", ("padding",)),
    nn.ConstantPad2d: ("pad", ("padding", "value")),
}
"""Layers: the operator, and which attributes are arguments."""

_FUNCTIONS: dict[Any, tuple[str, Any]] = {
    torch.conv2d: ("conv", s.conv),
    torch.conv_transpose2d: ("conv_transpose", s.conv_transpose),
    F.linear: ("linear", s.linear),
    F.batch_norm: ("batch_norm", F.batch_norm),
    torch.batch_norm: ("batch_norm", s.batch_norm),
    F.max_pool2d: ("max_pool", s.max_pool),
    torch.max_pool2d: ("max_pool", s.max_pool),
    F.avg_pool2d: ("avg_pool", s.avg_pool),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool", s.adaptive_pool),
    F.adaptive_max_pool2d: ("adaptive_max_pool", s.adaptive_pool),
    torch.mean: ("mean", s.total),
    F.pad: ("pad", F.pad),
    torch._C._nn.pad: ("pad", F.pad),
}
"""Functions: the operator, and something with the signature that it is called by."""

_OVERLOADS: dict[Any, str] = {
    aten.conv2d.default: "conv",
    aten.conv2d.padding: "conv",
    aten.convolution.default: "convolution",
    aten.conv_transpose2d.input: "conv_transpose",
    aten.linear.default: "linear",
    aten.batch_norm.default: "batch_norm",
    aten.max_pool2d.default: "max_pool",
    aten.avg_pool2d.default: "avg_pool",
    aten.adaptive_avg_pool2d.default: "adaptive_avg_pool",
    aten.mean.dim: "mean",
    aten.pad.default: "pad",
    aten.constant_pad_nd.default: "pad",
}
"""ATen overloads: the operator."""


def arguments(node: fx.Node, modules: Modules) -> tuple[str, dict[str, Any]] | None:
    """The operator of a node, and its arguments by name with defaults filled in; None if it isn't one of these.

    Those of a layer are its attributes as well, and `layer` is the layer itself.
    """
    try:
        return _arguments(node, modules)
    except TypeError:  # it is written with arguments that are not known here
        return None


def _arguments(node: fx.Node, modules: Modules) -> tuple[str, dict[str, Any]] | None:
    if node.op == "call_module":
        layer = modules[str(node.target)]
        kind: Any = type(layer)
        row = LAYERS.get(kind)
        if row is None:
            return None
        called = bind(_signature_of_calls(kind), node)
        return row[0], {**called, **{name: getattr(layer, name) for name in row[1]}, "layer": layer}
    if node.op == "call_method" and node.target == "mean":
        return "mean", bind(inspect.signature(s.total), node)
    if node.op != "call_function":
        return None
    if isinstance(node.target, OpOverload) and node.target in _OVERLOADS:
        return _OVERLOADS[node.target], _named(bind(_signature_of_overload(node.target), node))
    if node.target in _FUNCTIONS:
        operator, stub = _FUNCTIONS[node.target]
        return operator, _named(bind(inspect.signature(stub), node))
    return None


def _named(given: dict[str, Any]) -> dict[str, Any]:
    return {"padding" if name == "pad" else name: value for name, value in given.items()}


@functools.cache
def _signature_of_calls(layer: Any) -> inspect.Signature:
    _, first, *rest = inspect.signature(layer.forward).parameters.values()
    return inspect.Signature([first.replace(name="input"), *rest])


@functools.cache
def _signature_of_overload(overload: OpOverload) -> inspect.Signature:
    parameters = []
    for argument in overload._schema.arguments:
        kind = inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
        name = "input" if argument.name == "self" else argument.name
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)
