"""A convolution taken out of its graph, as exact rewrites make it, to be timed. Knows no graph around it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.capture import fetch
from convsurgeon.clones.cloning import clone_module, rewrap, share
from convsurgeon.converted.module import ConvertedModule, Facts, axis_of
from convsurgeon.converted.origin import ORIGIN, Origin
from convsurgeon.exact import rewrite_exactly
from convsurgeon.tuning.layouts import LAYOUTS, Layout, laid_out
from convsurgeon.tuning.writing import Layouts, write_layouts

REALISATIONS = (
    *("transposed_as_convolution", "repeat_inputs", "fold_dilation", "fold_stride", "convolution_as_product"),
)
"""The exact rewrites that may make a convolution faster, and never slower than it is where they aren't taken."""


def realisations(
    module: ConvertedModule, node: fx.Node, value: torch.Tensor
) -> Iterator[tuple[str, dict[Layout, Callable[[], torch.Tensor]]]]:
    """Each rewrite that applies to a convolution of the graph, and what computes it so in either layout.

    Nothing for a convolution whose weights are computed, or that takes more than one value. In training
    mode a rewrite that fills up a kernel with zeros, or repeats a bias, isn't taken: training would tell them apart.
    """
    axis = axis_of(module)
    for name in REALISATIONS:
        found: dict[Layout, Callable[[], torch.Tensor]] = {}
        for layout in LAYOUTS:
            alone = _alone(module, node)
            if alone is None:
                return
            before = weights_in(alone)
            if not rewrite_exactly(alone, [name], axis.lower(value)).rewritten:
                break
            if module.training and weights_in(alone) != before:
                break
            if layout == "last":
                write_layouts(alone, Layouts(dict.fromkeys((one.name for one in alone.graph.nodes), "last"), {}, {}))
            given = laid_out(value, layout)
            found[layout] = functools.partial(alone, given)
        else:
            yield name, found


def _alone(module: ConvertedModule, node: fx.Node) -> ConvertedModule | None:
    """A graph of this convolution alone, over a clone of what it holds that shares its weights."""
    values = [one for one in node.all_input_nodes if one.op != "get_attr"]
    if len(values) != 1:
        return None
    root, graph = nn.Module(), fx.Graph()
    env = {values[0]: graph.placeholder("x")}
    env[values[0]].meta[ORIGIN] = Origin("x", "", "2d")
    for one in node.all_input_nodes:
        if one.op == "get_attr":
            tensor = fetch(module, str(one.target))
            name = f"held{len(env)}"
            root.register_parameter(name, _as_parameter(tensor))
            env[one] = graph.get_attr(name)
            env[one].meta[ORIGIN] = Origin(name, "", "2d")
    new = graph.node_copy(node, lambda one: env[one])
    new.meta = {ORIGIN: node.meta[ORIGIN]}
    if node.op == "call_module":
        root.add_module("op", clone_module(module.get_submodule(str(node.target)), share))
        new.target = "op"
    graph.output(new).meta[ORIGIN] = Origin("output", "", "2d")
    facts = Facts(None, axis_of(module), {}, ("x",), ("output",))
    return ConvertedModule.build(root.train(module.training), graph, "Convolution", facts)


def weights_in(module: nn.Module) -> int:
    """How many numbers a module's parameters hold."""
    return sum(one.numel() for one in module.parameters())


def _as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    data: Any = rewrap(tensor, tensor.detach())
    return data if isinstance(data, nn.Parameter) else nn.Parameter(data, requires_grad=False)
