"""The two graphs of a model, traced in training and in evaluation mode, as one that follows each module's mode."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn


class _Flag:
    """Stands for an argument that is True in the training graph and False in the evaluation graph."""


def merge_modes(root: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> str | None:
    """Turn `training` into the graph of both modes, in place.

    Where the graphs differ only in arguments that follow the mode (``F.dropout(x, p, self.training)``), those become a
    read of the calling module's own ``training`` attribute, so that ``train()``, ``eval()`` and modules frozen one by
    one work as in the model.

    Returns:
        None if that was all; else what differs, and `training` is left as it was.
    """
    pairs = list(zip(training.nodes, evaluation.nodes, strict=False))
    if len(training.nodes) != len(evaluation.nodes):
        return f"{len(training.nodes)} operations in training mode, {len(evaluation.nodes)} in evaluation mode"
    same: dict[fx.Node, fx.Node] = {}
    flagged: dict[fx.Node, tuple[Any, Any]] = {}
    for ours, theirs in pairs:
        if ours.op != theirs.op or not _same_target(root, ours, theirs):
            return f"{ours.name} ({ours.target}) in training mode is {theirs.name} ({theirs.target}) in evaluation mode"
        try:
            arguments = _merge((ours.args, ours.kwargs), (theirs.args, theirs.kwargs), same)
        except _DiffersError as difference:
            return f"an argument of {ours.name} is {difference}"
        if arguments != (ours.args, ours.kwargs):
            flagged[ours] = arguments
        same[theirs] = ours
    for node, (args, kwargs) in flagged.items():
        with training.inserting_before(node):
            flag = training.create_node("get_attr", _training_attribute(node))
        node.args = fx.node.map_aggregate(args, functools.partial(_resolve, flag))
        node.kwargs = fx.node.map_aggregate(kwargs, functools.partial(_resolve, flag))
    return None


def _resolve(flag: fx.Node, argument: Any) -> Any:
    return flag if isinstance(argument, _Flag) else argument


class _DiffersError(Exception):
    """Two arguments differ by more than the mode."""


def _merge(ours: Any, theirs: Any, same: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(ours, fx.Node):
        if same.get(theirs) is ours:
            return ours
    elif isinstance(ours, (tuple, list)) and type(ours) is type(theirs) and len(ours) == len(theirs):
        merged = [_merge(a, b, same) for a, b in zip(ours, theirs, strict=True)]
        return tuple(merged) if isinstance(ours, tuple) else merged
    elif isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
        return {k: _merge(v, theirs[k], same) for k, v in ours.items()}
    elif ours is True and theirs is False:
        return _Flag()
    elif type(ours) is type(theirs) and ours == theirs:
        return ours
    raise _DiffersError(f"{ours!r} in training mode, {theirs!r} in evaluation mode")


def _same_target(root: nn.Module, ours: fx.Node, theirs: fx.Node) -> bool:
    if ours.target == theirs.target or ours.op in ("placeholder", "output"):
        return True
    if ours.op != "get_attr":
        return False
    a, b = fetch(root, str(ours.target)), fetch(root, str(theirs.target))
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)


def _training_attribute(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.training" if path else "training"


def fetch(root: nn.Module, target: str) -> Any:
    """What a ``get_attr`` node with this target reads."""
    value: Any = root
    for atom in target.split("."):
        value = getattr(value, atom)
    return value
