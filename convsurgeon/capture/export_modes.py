"""The two graphs of a model, exported in training and in evaluation mode, as one that follows each module's mode."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from convsurgeon.capture.modes import DiffersError, Trace, equal_constants

aten = torch.ops.aten


def follow_mode(training: Trace, evaluation: Trace) -> None:
    """Let the graph of training mode follow ``train()`` and ``eval()``, if the two differ in nothing but the mode.

    They may differ in flags, True in training, in probabilities that are 0 in evaluation, and in that normalisation
    counts its batches in training alone. A flag is that of the module whose forward makes the call.

    Raises:
        DiffersError: they differ in more; says how. The graph is as it was.
    """
    if any(map(_counts_batches, evaluation.graph.nodes)):
        raise DiffersError("batches are counted in evaluation mode too")
    pairing = _Pairing(training, evaluation)
    ours, theirs = (_in_order(trace.graph) for trace in (training, evaluation))
    if len(ours) != len(theirs):
        raise DiffersError(f"{len(ours)} operations in training mode, {len(theirs)} in evaluation mode")
    arguments = {}
    for one, other in zip(ours, theirs, strict=True):
        arguments[one] = pairing.merged(one, other)
    arguments |= {node: ((node.args[0], _Flag(1)), {}) for node in training.graph.nodes if _counts_batches(node)}
    for node, merged in arguments.items():
        if merged != (node.args, node.kwargs):
            node.args, node.kwargs = fx.node.map_aggregate(merged, functools.partial(_following, node))


@dataclass(frozen=True, slots=True)
class _Flag:
    """Stands for an argument that has this value in training mode; in evaluation mode it is False, or 0."""

    value: Any


class _Pairing:
    """Which nodes of the two graphs are the same."""

    def __init__(self, training: Trace, evaluation: Trace) -> None:
        self._constants = training.constants, evaluation.constants
        self._same: dict[fx.Node, fx.Node] = {}

    def merged(self, ours: fx.Node, theirs: fx.Node) -> tuple[Any, Any]:
        """The arguments of `ours`, with a `_Flag` where those of `theirs` show that they follow the mode."""
        if ours.op != theirs.op or (ours.target != theirs.target and ours.op != "output"):
            raise DiffersError(f"{ours.name} in training mode is {theirs.name} in evaluation mode")
        if ours.op == "get_attr":
            mine, other = (held.get(str(ours.target)) for held in self._constants)
            if isinstance(mine, torch.Tensor) and not (
                isinstance(other, torch.Tensor) and equal_constants(mine, other)
            ):
                raise DiffersError(f"{ours.name} is another tensor in evaluation mode")
        merged: tuple[Any, Any] = self._merged((ours.args, dict(ours.kwargs)), (theirs.args, dict(theirs.kwargs)), ours)
        self._same[ours] = theirs
        return merged

    def _merged(self, ours: Any, theirs: Any, node: fx.Node) -> Any:
        if isinstance(ours, fx.Node) and isinstance(theirs, fx.Node):
            if ours not in self._same and _anywhere(ours):
                self.merged(ours, theirs)
            if self._same.get(ours) is theirs:
                return ours
        elif isinstance(ours, (tuple, list)) and isinstance(theirs, (tuple, list)) and len(ours) == len(theirs):
            merged = [self._merged(a, b, node) for a, b in zip(ours, theirs, strict=True)]
            return tuple(merged) if isinstance(ours, tuple) else merged
        elif isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
            return {key: self._merged(value, theirs[key], node) for key, value in ours.items()}
        elif type(ours) is type(theirs) and (ours == theirs or ours != ours):
            return ours
        elif (ours is True and theirs is False) or (isinstance(ours, float) and theirs == 0 and theirs is not False):
            return _Flag(ours)
        raise DiffersError(f"an argument of {node.name} is {ours!r} in training mode, {theirs!r} in evaluation mode")


def _anywhere(node: fx.Node) -> bool:
    """Whether it doesn't matter where in the graph a node stands: it reads a size or a tensor, and writes nothing."""
    return node.op == "get_attr" or node.target is aten.sym_size.int


def _counts_batches(node: fx.Node) -> bool:
    counter = node.args[0] if node.target is aten.add_.Tensor and node.args[1] == 1 else None
    return isinstance(counter, fx.Node) and str(counter.target).endswith("num_batches_tracked")


def _in_order(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if not _anywhere(node) and not _counts_batches(node)]


def _following(node: fx.Node, leaf: Any) -> Any:
    """A flag as the node that reads it, right in front of the call that takes it."""
    if not isinstance(leaf, _Flag):
        return leaf
    path = next((str(entry[0]) for entry in reversed(node.meta["nn_module_stack"].values())), "")
    with node.graph.inserting_before(node):
        flag = node.graph.create_node("get_attr", f"{path}.training".removeprefix("."))
        if isinstance(leaf.value, float):
            return node.graph.call_function(operator.mul, (leaf.value, flag))
        return flag
