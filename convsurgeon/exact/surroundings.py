"""What stands before and behind a site: pads, transpositions, pointwise operators. Knows no rewrite."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.exact.shapes import name_in
from convsurgeon.exact.writer import Writer

aten = torch.ops.aten

_GENTLE = frozenset(
    {
        *("relu", "relu6", "leakyrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "softsign"),
        *("sigmoid", "logsigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "tanhshrink", "clamp", "clip"),
        *("add", "iadd", "sub", "isub", "mul", "imul", "rsub", "neg", "abs", "square", "sin", "cos", "erf"),
        *("dropout", "identity"),
    }
)
"""Names, without underscores, of pointwise operators whose slope is finite everywhere, as a root's isn't at 0."""

_TRANSPOSE = ("transpose", torch.transpose, aten.transpose.int)
_PERMUTE = ("permute", torch.permute, aten.permute.default)
_RESTORE = ("contiguous", "clone", aten.contiguous.default, aten.clone.default)
_IN_PLACE = tuple(
    getattr(operator, name) for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "setitem")
)


def zeros_before(node: fx.Node, write: Writer) -> tuple[fx.Node, int] | None:
    """What a node puts zeros in front of, and how many; None where it does something else."""
    found = write.reader.pad(node)
    return None if found is None or found[2] else found[:2]


def is_pointwise(node: fx.Node, write: Writer) -> bool:
    """Whether the node is a pointwise operator on 2-D values and numbers alone, that writes to none of them."""
    origin: Any = node.meta.get(ORIGIN)
    pointwise = origin is not None and origin.rule == "pointwise"
    return pointwise and bool(node.all_input_nodes) and not writes(node, write.reader.module)


def gentle_behind(node: fx.Node, write: Writer) -> list[fx.Node]:
    """The pointwise operators that follow one on the other behind `node`, each the only reader of the one before.

    They may be computed on values that are cut off later: their slopes are finite, so a gradient of 0 stays 0 there.
    One may write to what it reads, as nothing else sees that.
    """
    found: list[fx.Node] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        origin: Any = node.meta.get(ORIGIN)
        pointwise = origin is not None and origin.rule == "pointwise" and write.reader.is_2d(node)
        if not pointwise or len(node.all_input_nodes) != 1 or not _is_gentle(node, write.reader.module):
            break
        found.append(node)
    return found


def _is_gentle(node: fx.Node, module: ConvertedModule) -> bool:
    return name_in(module, node).lower().replace("_", "") in _GENTLE


def writes_in_place(write: Writer) -> bool:
    """Whether anything in the graph writes to a value, of which what was folded may be another view."""
    return any(_writes_a_value(node, write.reader.module) for node in write.reader.module.graph.nodes)


def writes_between(first: fx.Node, last: fx.Node, write: Writer) -> bool:
    """Whether a value is written in place behind `first` and before `last`, where what `first` read is read again."""
    node = first.next
    while node is not last and node.op != "root":
        if _writes_a_value(node, write.reader.module):
            return True
        node = node.next
    return False


def _writes_a_value(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node writes to what the graph computes, and not to a buffer."""
    return writes(node, module) and any(one.op != "get_attr" for one in node.all_input_nodes[:1])


def writes(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node writes to what it takes."""
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    if isinstance(node.target, OpOverload):
        return node.target._schema.is_mutable
    name = getattr(node.target, "__name__", "_")
    flagged = any(one is True for one in (*node.args, *node.kwargs.values())) and _has_flag(node.target)
    return name.endswith("_") or node.target in _IN_PLACE or flagged or "out" in node.kwargs


def _has_flag(function: Any) -> bool:
    """Whether a function can be told to write in place."""
    return isinstance(function, types.FunctionType) and "inplace" in inspect.signature(function).parameters


def again(node: fx.Node, operands: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The node's operator once more, on other operands."""
    new = node.graph.node_copy(node, lambda operand: operands[operand])
    new.meta.pop(ORIGIN, None)
    return new


def untransposed(node: fx.Node, write: Writer) -> tuple[fx.Node, list[fx.Node]] | None:
    """The value (N, C, 1, L) of which `node` is (N, L, 1, C), and the nodes in between; None where it isn't one's.

    A copy in between is one where anything in the graph is written in place.
    """
    passed = [node]
    while node.target in _RESTORE and len(node.users) == 1 and not writes_in_place(write):
        node = node.all_input_nodes[0]
        passed.append(node)
    return (node.all_input_nodes[0], passed) if _swaps(node) else None


def untranspose(node: fx.Node, result: fx.Node, write: Writer) -> list[fx.Node]:
    """Let `result` stand for `node` wherever that is transposed back; returns the nodes that nothing reads any more."""
    spared, copies = [], writes_in_place(write)
    for user in list(node.users):
        if not copies and user.target in _RESTORE and len(user.users) == 1 and _swaps(next(iter(user.users))):
            spared.append(user)
            user = next(iter(user.users))
        if _swaps(user):
            user.replace_all_uses_with(result)
            spared.insert(0, user)
    return spared


def _swaps(node: fx.Node) -> bool:
    """Whether the node swaps axes 1 and 3 of four."""
    numbers = [one for arg in node.args[1:] for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
    if any(type(one) is not int for one in numbers) or node.kwargs:
        return False
    axes = [one % 4 for one in numbers if isinstance(one, int)]
    return (node.target in _TRANSPOSE and set(axes) == {1, 3}) or (node.target in _PERMUTE and axes == [0, 3, 2, 1])
