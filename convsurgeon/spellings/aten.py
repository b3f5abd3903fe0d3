"""Operators spelled as ATen overloads, as ``torch.export`` emits them: their schemas name the arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from convsurgeon.rules import RULES, Lifted, Lowered, Raised
from convsurgeon.spellings.functions import FunctionSpelling

aten = torch.ops.aten

_OPERATORS = {
    **dict.fromkeys(("_unsafe_view", "_reshape_alias"), "view"),
    **dict.fromkeys(("split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"), "split"),
    **dict.fromkeys(("_to_copy", "lift_fresh_copy", "alias"), "identity"),
    **dict.fromkeys(("reflection_pad1d", "replication_pad1d"), "pad1d"),
    **dict.fromkeys(("upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d"), "upsample1d"),
    "moveaxis": "movedim",
    "mT": "transpose",
    "slice": "narrow",
    "linalg_vector_norm": "vector_norm",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "concat": "cat",
    "constant_pad_nd": "pad",
    "max_pool1d_with_indices": "max_pool1d",
    "native_dropout": "dropout",
    "sym_numel": "numel",
}
"""Packets whose operator has another name; the rest are called as their operators are."""

_NO_ROWS = {
    *(aten.dim.default, aten.size.int, aten.size.default),  # answered by ``sym_size`` where a graph asks
    *(aten.upsample_nearest1d.default, aten._upsample_nearest_exact1d.default, aten.upsample_linear1d.default),
    aten.count_nonzero.default,  # it takes one axis, and would have to take the unit axis too
    *(aten.view.dtype, aten.to.other, aten.bernoulli.Tensor),  # not what the operator of their name is
}
"""Overloads that no rule covers though it has their name."""

_LIFTED = {
    "conv1d": "conv2d",
    "max_pool1d": "max_pool2d",
    "max_pool1d_with_indices": "max_pool2d_with_indices",
    "avg_pool1d": "avg_pool2d",
    "adaptive_avg_pool1d": "adaptive_avg_pool2d",
    "adaptive_max_pool1d": "adaptive_max_pool2d",
    "reflection_pad1d": "reflection_pad2d",
    "replication_pad1d": "replication_pad2d",
    "upsample_nearest1d": "upsample_nearest2d",
    "_upsample_nearest_exact1d": "_upsample_nearest_exact2d",
    "upsample_linear1d": "upsample_bilinear2d",
}
"""Packets that compute 1-D values only, and the one that computes 2-D ones; the rest compute both."""

_WAYS: dict[Any, dict[type[Lifted] | str, Any]] = {
    aten.conv_transpose1d.default: {Lifted: aten.conv_transpose2d.input},
    aten.unsqueeze.default: {Raised: aten.unflatten.int},
    **{moved: {Lifted: aten.permute.default} for moved in (aten.movedim.int, aten.movedim.intlist)},
    **{moved: {Lifted: aten.permute.default} for moved in (aten.moveaxis.int, aten.moveaxis.intlist)},
    aten.mT.default: {Lifted: aten.transpose.int},
    aten.squeeze.dim: {Lowered: aten.squeeze.dims, "flatten": aten.flatten.using_ints},
    aten.squeeze.dims: {"flatten": aten.flatten.using_ints},
}
"""Overloads that one of another name stands for, in one way of computing them, or as the operator that it names."""

_RENAMED = {("repeat", "repeats"): "size"}
"""Arguments that the rules know by another name; the value that an operator is called on is always ``input``."""

_MORE: dict[str, dict[str, Any]] = {
    "unsqueeze": {"sizes": None},
    "squeeze": {"start_dim": None},
    "constant_pad_nd": {"mode": "constant"},
    "movedim": {"dims": None},
    "moveaxis": {"dims": None},
    "mT": {"name": "mT", "dim0": None, "dim1": None},
}
"""Arguments that an overload doesn't have but its rule asks for, or what stands for it in 2-D does, and their value."""


ATEN_ALONE = ("convolution", "upsample1d", "sym_size")
"""Operators that are written in no other way."""


def packets_of(operator: str) -> list[str]:
    """The packets that are written for an operator."""
    return [
        packet
        for packet in (operator, *_OPERATORS)
        if _OPERATORS.get(packet, packet) == operator and hasattr(aten, packet)
    ]


def aten_spelling(target: Any) -> FunctionSpelling | None:
    """The row of an ATen overload, None if no rule covers it."""
    return _spelling(target) if isinstance(target, OpOverload) and target.namespace == "aten" else None


def is_aten(graph: fx.Graph) -> bool:
    """Whether a graph is one of ATen's operators, as ``torch.export`` makes it."""
    return any(isinstance(node.target, OpOverload) for node in graph.nodes)


@functools.cache
def _spelling(overload: OpOverload) -> FunctionSpelling | None:
    packet = overload.overloadpacket.__name__
    operator = _OPERATORS.get(packet, packet)
    if operator not in RULES or overload in _NO_ROWS:
        return None
    targets = dict(_WAYS.get(overload, {}))
    if packet in _LIFTED and Lifted not in targets:
        targets[Lifted] = getattr(getattr(aten, _LIFTED[packet]), overload._overloadname)
    return FunctionSpelling(operator, inspect.Signature(list(_parameters(overload, packet))), targets)


def _parameters(overload: OpOverload, packet: str) -> Iterator[inspect.Parameter]:
    for argument in overload._schema.arguments:
        name = "input" if argument.name == "self" else _RENAMED.get((packet, argument.name), argument.name)
        default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
        if name == "memory_format":
            default = None  # the schema has the number of an enumeration
        kind = inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        yield inspect.Parameter(name, kind, default=default)
    for name, value in _MORE.get(packet, {}).items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
