"""Writes ATen overloads as the functions and methods of torch that call them, where these are the same.

A graph of ``torch.export`` calls overloads, whose arguments torch matches with a schema in each call: an addition of a
few numbers takes 3.6 us so and 1.5 us as ``torch.add``, a convolution 16 and 9 (torch 2.13).
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample
from convsurgeon.spellings import is_aten
from convsurgeon.spellings.functions import name_of

aten = torch.ops.aten

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]

_WRITTEN_IN_C = (types.MethodDescriptorType, types.WrapperDescriptorType)
"""What a method is that looks at nothing in Python."""


def _as_they_are(args: Args) -> Args:
    return args


def _as_index(args: Args) -> Args:
    """The arguments of a slice as Python's index has them."""
    value, axis, start, end, step = _all_of_slice(args)
    return value, (*[slice(None)] * axis, slice(start, end, step))


def _all_of_slice(args: Args) -> Args:
    """The arguments of a slice with those that were left out."""
    left_out: tuple[Any, ...] = (0, None, None, None)[len(args) - 1 :]
    return args + left_out


def _bounds_spelled_out(args: Args) -> Args:
    """The arguments of a slice with what None stands for: it begins at 0, and ends where all does."""
    value, axis, start, end, step = _all_of_slice(args)
    whole = (0, sys.maxsize, 1)
    return value, axis, *(of if one is None else one for one, of in zip((start, end, step), whole, strict=True))


@dataclass(frozen=True, slots=True)
class Way:
    """Another way to call an overload: what is called, and how its arguments are written there."""

    op: Literal["call_function", "call_method"]
    target: Any
    written: Callable[[Args], Args] = _as_they_are

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call with the arguments of the overload."""
        args = self.written(args)
        if self.op == "call_function":
            return self.target(*args, **kwargs)
        this, *rest = args
        return getattr(this, self.target)(*rest, **kwargs)


def call_functions(module: ConvertedModule, sample: Sample) -> int:
    """Write the overloads of a graph as torch's functions, in place; returns how many.

    Whether two calls are the same is asked of torch, on values without data of the shapes, strides and dtypes that
    `sample` (in this module's shapes) makes them meet: both have to dispatch to the same operators, with the same
    arguments, and to return the same. What can't be called so stays as it is.
    """
    if not is_aten(module.graph):
        return 0
    found: dict[fx.Node, Way] = {}
    asked: dict[Hashable, Way | None] = {}
    clone = clone_module(module, share_parameters)
    run = GraphRun(clone, module.graph, sample.map(lambda tensor: tensor.detach().clone()))
    with preserved_random_state(), torch.no_grad(), WriteGuard(clone):
        for node, _ in run.steps():
            if not isinstance(node.target, OpOverload):
                continue
            args, kwargs = pytree.tree_map(_without_data, run.fetch_args_kwargs_from_env(node))
            key = (node.target, repr(_described((args, kwargs))))
            if key not in asked:
                asked[key] = _way(node.target, args, kwargs)
            way = asked[key]
            if way is not None:
                found[node] = way
    for node, way in found.items():
        node.op, node.target, node.args = way.op, way.target, way.written(node.args)
    module.recompile()
    return len(found)


def _way(overload: OpOverload, args: Args, kwargs: Kwargs) -> Way | None:
    """The first way to call it that torch dispatches as it does the overload."""
    expected = _dispatched(overload, args, kwargs)
    if expected is None:
        return None
    return next((way for way in _ways(overload) if _dispatched(way.call, args, kwargs) == expected), None)


def _ways(overload: OpOverload) -> Iterator[Way]:
    """What has an overload's name, the fastest first."""
    name = name_of(overload)
    if overload is aten.slice.Tensor:
        yield Way("call_function", operator.getitem, _as_index)
    if name == "sym_size":
        yield Way("call_method", "size")
    for home, functions in ((torch, torch._C._VariableFunctions), (torch._C._nn, torch._C._nn)):
        function = getattr(functions, name, None)
        if function is not None and getattr(home, name, None) == function:
            yield Way("call_function", function)
    if isinstance(getattr(torch.Tensor, name, None), _WRITTEN_IN_C):
        yield Way("call_method", name)


def _dispatched(call: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """The operators that a call dispatches to, with their arguments, and what it returns; None if it can't be made."""
    try:
        with _Recorded() as recorded:
            made = call(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes other arguments, or asks for data
        return None
    return recorded.calls, _described(made)


class _Recorded(TorchDispatchMode):
    """Records what is dispatched to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _bounds_spelled_out(args) if func is aten.slice.Tensor else args
        self.calls.append((func, _described((given, kwargs or {}))))
        return func(*args, **(kwargs or {}))


def _without_data(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _described(value: Any) -> list[Any]:
    """The leaves of arguments or results: tensors by what is known of them without data."""
    return [
        (tuple(leaf.shape), leaf.dtype, leaf.stride()) if isinstance(leaf, torch.Tensor) else (type(leaf), leaf)
        for leaf in pytree.tree_leaves(value)
    ]
