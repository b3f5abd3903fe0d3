"""How an operator is written in a graph, apart from what it means: reading a node by name, and writing it back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx, nn

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Modules
from convsurgeon.rules.base import Absent, Lifted
from convsurgeon.runs.observe import Value

NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}
"""Keywords that torch's argument parser takes for its own."""

_OF_SIZES = {"shape": "size", "repeats": "size"}
"""What ``reshape`` and ``repeat`` call the sizes that they take one by one, or at once by this name."""


@dataclass(frozen=True, slots=True)
class State:
    """An operand that the called module holds itself, by its qualified name."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Call:
    """One node, read: the operator, and its arguments by name with defaults filled in.

    An operand is an ``fx.Node`` or a `State`; everything else is as it stands in the graph.
    """

    operator: str
    arguments: Mapping[str, Any]
    spelling: Spelling


class Spelling(Protocol):
    """A row of one of the spelling tables."""

    @property
    def operator(self) -> str:
        """The operator's name in the rules."""

    @property
    def signature(self) -> inspect.Signature:
        """How the node's own arguments bind to names."""

    def lifted_name(self, way: Lifted) -> str:
        """What a person would call it in 2-D, "" where it keeps its name."""

    def read(self, node: fx.Node, modules: Modules) -> Call:
        """The node as an operator with named arguments."""

    def lifted_target(self, node: fx.Node, way: Lifted) -> Any:
        """The target of the node that computes it in 2-D, in the way that is taken."""

    def lift_module(self, module: nn.Module, changes: Mapping[str, Any], axis: UnitAxis) -> nn.Module | None:
        """The module that computes it in 2-D, from a 1-D one that may be used up; None where no module is called."""


def bind(signature: inspect.Signature, node: fx.Node) -> dict[str, Any]:
    """The node's arguments by name, defaults filled in.

    Raises:
        TypeError: the node has arguments that the signature doesn't.
    """
    args, kwargs = _as_written(signature, node)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def respell(spelling: Spelling, node: fx.Node, changes: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with `changes` made, each written positionally or by keyword as it was."""
    parameters = spelling.signature.parameters
    args, kwargs = _as_written(spelling.signature, node)
    if not args and "input" in kwargs.keys() - node.kwargs.keys():  # by a name that what it becomes may not have
        args.append(kwargs.pop("input"))
    for at, (name, parameter) in enumerate(parameters.items()):
        if name not in changes:
            continue
        if changes[name] is Absent:  # the last that is written by place: none behind it moves up
            del args[at:]
            kwargs.pop(name, None)
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            args[at:] = changes[name] if isinstance(changes[name], (tuple, list)) else [changes[name]]
            kwargs.pop(name, None)
        elif at < len(args):
            args[at] = changes[name]
        elif name in kwargs or changes[name] != parameter.default:
            kwargs[name] = changes[name]
    return tuple(args), kwargs


def _as_written(signature: inspect.Signature, node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """The node's arguments, by the signature's names; where one of several values is named, it stands by place."""
    args, kwargs = list(node.args), _renamed(signature, node.kwargs)
    several = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    if several in kwargs:
        first = next(iter(signature.parameters))
        if not args and first in kwargs:
            args.append(kwargs.pop(first))
        if args:
            args.append(kwargs.pop(several))
    return args, kwargs


def _renamed(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    known = signature.parameters
    others = NUMPY_NAMES | (_OF_SIZES if "size" in known else {})
    return {others.get(name, name) if name not in known else name: value for name, value in kwargs.items()}
