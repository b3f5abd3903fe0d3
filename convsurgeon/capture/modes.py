"""The two graphs of a model, traced in training and in evaluation mode, as one that follows each module's mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True, slots=True)
class Trace:
    """A traced graph, and the tensors that it reads but no module holds, by the names it reads them under.

    `taken_for_tensors`: the nodes whose class forward asked for.
    """

    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]
    taken_for_tensors: frozenset[fx.Node] = frozenset()


class _Flag:
    """Stands for an argument that is True in the training graph and False in the evaluation graph."""


class DiffersError(Exception):
    """Two graphs differ by more than the mode; says how."""


def difference(one: Trace, other: Trace) -> str | None:
    """How two traces differ, in words; None if they are the same graph."""
    try:
        flagged = _flagged(one, other)
    except DiffersError as error:
        return str(error)
    return f"an argument of {next(iter(flagged)).name} follows the mode" if flagged else None


def follows_mode(training: Trace, evaluation: Trace, flagged: Trace) -> str | None:
    """Whether `flagged`, traced with ``module.training`` as nodes, is the graph of both modes.

    It is where the two graphs differ only in arguments that are True in training and False in evaluation, and each of
    these came straight from a module's own flag (``F.dropout(x, p, self.training)``).

    Returns:
        None if it is; else what differs, in words.
    """
    try:
        expected = _flagged(training, evaluation)
        nodes = [node for node in flagged.graph.nodes if not is_flag(node)]
        if len(nodes) != len(training.graph.nodes):
            raise DiffersError("forward does something else where its mode is asked for by identity")
        same: dict[fx.Node, fx.Node] = {}
        for ours, theirs in zip(training.graph.nodes, nodes, strict=True):
            _require_same_target(training, ours, flagged, theirs)
            arguments = expected.get(ours, (ours.args, ours.kwargs))
            _merge(arguments, (theirs.args, theirs.kwargs), same, ours)
            same[theirs] = ours
    except DiffersError as error:
        return str(error)
    return None


def is_flag(node: fx.Node) -> bool:
    """Whether the node reads a module's ``training`` attribute."""
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


def _flagged(training: Trace, evaluation: Trace) -> dict[fx.Node, tuple[Any, Any]]:
    """The training graph's nodes with an argument that follows the mode, and their arguments with `_Flag` there."""
    found: dict[fx.Node, tuple[Any, Any]] = {}
    same: dict[fx.Node, fx.Node] = {}
    if len(training.graph.nodes) != len(evaluation.graph.nodes):
        counts = len(training.graph.nodes), len(evaluation.graph.nodes)
        raise DiffersError(f"{counts[0]} operations in training mode, {counts[1]} in evaluation mode")
    for ours, theirs in zip(training.graph.nodes, evaluation.graph.nodes, strict=True):
        _require_same_target(training, ours, evaluation, theirs)
        arguments = _merge((ours.args, ours.kwargs), (theirs.args, theirs.kwargs), same, ours)
        if arguments != (ours.args, ours.kwargs):
            found[ours] = arguments
        same[theirs] = ours
    return found


def _merge(ours: Any, theirs: Any, same: Mapping[fx.Node, fx.Node], node: fx.Node) -> Any:
    if isinstance(ours, fx.Node):
        if same.get(theirs) is ours:
            return ours
    elif isinstance(ours, _Flag):
        if isinstance(theirs, fx.Node) and is_flag(theirs):
            return ours
    elif isinstance(ours, (tuple, list)) and type(ours) is type(theirs) and len(ours) == len(theirs):
        merged = [_merge(a, b, same, node) for a, b in zip(ours, theirs, strict=True)]
        return tuple(merged) if isinstance(ours, tuple) else merged
    elif isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
        return {k: _merge(v, theirs[k], same, node) for k, v in ours.items()}
    elif isinstance(ours, slice) and isinstance(theirs, slice):
        pairs = ((ours.start, theirs.start), (ours.stop, theirs.stop), (ours.step, theirs.step))
        return slice(*(_merge(a, b, same, node) for a, b in pairs))
    elif ours is True and theirs is False:
        return _Flag()
    elif type(ours) is type(theirs) and (ours == theirs or ours != ours):
        return ours
    raise DiffersError(f"an argument of {node.name} is {ours!r} in training mode, {theirs!r} in evaluation mode")


def _require_same_target(one: Trace, ours: fx.Node, other: Trace, theirs: fx.Node) -> None:
    same = ours.op == theirs.op and (ours.target == theirs.target or ours.op in ("placeholder", "output"))
    if ours.op == theirs.op == "get_attr":
        held, found = one.constants.get(str(ours.target)), other.constants.get(str(theirs.target))
        if held is not None and found is not None:
            same = held is found or equal_constants(held, found)
    if not same:
        raise DiffersError(
            f"{ours.name} ({ours.target}) in training mode is {theirs.name} ({theirs.target}) in evaluation mode"
        )


def equal_constants(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two graphs read the same numbers, NaNs included."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
