"""The shape of every value of a converted graph, by a run of it, and what operators cost. Knows no rewrite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx

from convsurgeon.capture import fetch
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.exact.base import Cost
from convsurgeon.runs.own_run import OwnRun
from convsurgeon.samples import Sample
from convsurgeon.spellings import operator_name


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a tensor value, of what it is, and where."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Shape:
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device)

    @property
    def nbytes(self) -> int:
        """How many bytes it holds."""
        return prod(self.size) * self.dtype.itemsize

    def zeros(self) -> torch.Tensor:
        """A value of this shape."""
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)


Shapes = dict[fx.Node, Shape]

_VIEWS = ("reshape", "unsqueeze", "squeeze", "transpose", "permute", "getitem", "slice", "of_length", "size")
"""Operators that read and write nothing, or could."""


def shapes_of(module: ConvertedModule, sample: Sample) -> Shapes:
    """The shapes of the tensor values of one run, on clones; nothing that can be seen changes."""
    inputs = sample.map(lambda tensor: tensor.detach().clone())
    args, kwargs = module.inputs_2d(*inputs.args, **inputs.kwargs)
    with preserved_random_state(), torch.no_grad(), WriteGuard(module):
        run = OwnRun(module, Sample(args, kwargs))
        return {node: Shape.of(value) for node, value in run.steps() if isinstance(value, torch.Tensor)}


def add_shapes(shapes: Shapes, module: ConvertedModule, new: Iterable[fx.Node]) -> None:
    """Add the shapes of nodes that a rewrite wrote, in the graph's order: each alone is run, on zeros.

    They write to nothing and draw nothing, and read the values of nodes whose shapes are known, and each other's.
    """
    others: dict[fx.Node, Any] = {}

    def operand(node: fx.Node) -> Any:
        return others[node] if node in others else shapes[node].zeros()

    with torch.no_grad():
        for node in new:
            args, kwargs = fx.map_arg((node.args, node.kwargs), operand)
            value = _result(module, node, args, kwargs)
            if isinstance(value, torch.Tensor):
                shapes[node] = Shape.of(value)
            else:
                others[node] = value


def _result(module: ConvertedModule, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What a node computes."""
    if node.op == "get_attr":
        return fetch(module, str(node.target))
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]  # a function, by its op


def cost_of(module: ConvertedModule, nodes: Iterable[fx.Node], shapes: Shapes) -> Cost:
    """What these nodes cost: views are free, and every other operator reads its operands and writes its result once."""
    macs = nbytes = 0
    for node in nodes:
        name = name_in(module, node)
        if node not in shapes or node.op == "get_attr" or name in _VIEWS:
            continue
        tensors = _tensors(node, module)
        nbytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        nbytes += shapes[node].nbytes
        nbytes += sum(shapes[one].nbytes for one in node.all_input_nodes if one in shapes and one.op != "get_attr")
        if "conv" in name.lower():
            transposed = "transpose" in name.lower() or (name == "convolution" and node.args[6] is True)
            weight = max(tensors, key=lambda tensor: tensor.ndim)
            size = shapes[node.all_input_nodes[0]].size if transposed else shapes[node].size
            macs += prod(size) * weight.numel() // weight.shape[0]
        elif name.lower() in ("linear", "bmm", "baddbmm"):
            rows = shapes[node.all_input_nodes[name == "baddbmm"]]
            macs += prod(shapes[node].size) * rows.size[-1]
    return Cost(macs, nbytes)


def name_in(module: ConvertedModule, node: fx.Node) -> str:
    """What a person would call this node's operator."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return operator_name(node, {})


def _tensors(node: fx.Node, module: ConvertedModule) -> list[torch.Tensor]:
    """The weights that a node reads."""
    if node.op == "call_module":
        parameters = module.get_submodule(str(node.target))._parameters.values()
        return [one for one in parameters if one is not None]
    held = [fetch(module, str(one.target)) for one in node.all_input_nodes if one.op == "get_attr"]
    return [tensor for tensor in held if isinstance(tensor, torch.Tensor)]
