"""Clones of a module tree: every module, Parameter and buffer object new, tensors as the caller chooses.

`copy.deepcopy` can't serve: it copies every weight, refuses tensors that autograd made (the plain ``weight`` of
hook-style weight norm), and rebuilds GraphModules from their code.
"""

from __future__ import annotations

import copy
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

Copy = Callable[[torch.Tensor, nn.Module], torch.Tensor]
"""Makes the clone's tensor from the original's, given the module that holds it."""

M = TypeVar("M", bound=nn.Module)

_ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size, types.FunctionType}
    | {types.BuiltinFunctionType, fx.Graph}
)


_REGISTRIES = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set)))
"""The attributes in which every module keeps parameters, submodules and hooks; most are empty, and there are many."""


def share(tensor: torch.Tensor, owner: nn.Module) -> torch.Tensor:
    """A new tensor object over the same storage; BatchNorm statistics are copied, for running a model changes them."""
    if isinstance(owner, _NormBase) and not isinstance(tensor, nn.Parameter):
        return own(tensor, owner)
    return rewrap(tensor, tensor.detach())


def share_parameters(tensor: torch.Tensor, owner: nn.Module) -> torch.Tensor:
    """Parameters over the same storage, every other tensor copied: what a run that leaves no trace needs."""
    return rewrap(tensor, tensor.data) if isinstance(tensor, nn.Parameter) else own(tensor, owner)


def own(tensor: torch.Tensor, owner: nn.Module) -> torch.Tensor:
    """A copy in memory of its own."""
    return rewrap(tensor, tensor.detach().clone())


def rewrap(like: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """`data` as a Parameter or a tensor, as `like` is, with its ``requires_grad`` and Python attributes."""
    if isinstance(like, nn.Parameter):
        result: torch.Tensor = nn.Parameter(data, requires_grad=like.requires_grad)
    else:
        result = data.requires_grad_() if like.is_leaf and like.requires_grad else data
    result.__dict__.update({k: v for k, v in vars(like).items() if not isinstance(v, torch.Tensor)})
    return result


def clone_module(module: M, tensor_copy: Copy) -> M:
    """A clone of the module tree under `module`.

    What is shared inside the original (one module under two names, tied parameters) is shared alike in the clone.
    Attributes that can't be copied (locks, handles) are the original's own objects.
    """
    memo: dict[int, Any] = {}
    modules = list(module.modules())
    for old in modules:
        memo[id(old)] = _blank(old)
    for old in modules:
        for value in vars(old).values():
            if value is not None and type(value) not in _ATOMS:
                _clone_tensors(value, old, tensor_copy, memo)
    for old in modules:
        if not isinstance(old, torch.jit.ScriptModule):
            memo[id(old)].__dict__.update(_cloned_attributes(old, memo))
    return cast(M, memo[id(module)])


def _cloned_attributes(module: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if type(value) in _ATOMS:
            yield name, value
        elif name in _REGISTRIES and not value:
            yield name, type(value)()
        else:
            yield name, _clone(value, memo)


def _blank(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        return copy.deepcopy(module)
    # GraphModule.__new__ would make a class without a forward; the clone runs the code of the original's class.
    return object.__new__(type(module))


def _clone_tensors(value: Any, owner: nn.Module, tensor_copy: Copy, memo: dict[int, Any]) -> None:
    """Enter every tensor that hangs on `owner`, in attributes or plain containers, into `memo`."""
    if isinstance(value, (dict, list, tuple, set)):
        if not value:
            return
        for one in value.values() if isinstance(value, dict) else value:
            _clone_tensors(one, owner, tensor_copy, memo)
    elif isinstance(value, torch.Tensor) and id(value) not in memo:
        memo[id(value)] = tensor_copy(value, owner)


def _clone(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in (dict, OrderedDict):
        result: dict[Any, Any] = kind()
        memo[id(value)] = result
        result.update((k, _clone(v, memo)) for k, v in value.items())
        return result
    if kind in (list, tuple, set):
        memo[id(value)] = kind(_clone(v, memo) for v in value)
        return memo[id(value)]
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError, ValueError, pickle.PickleError, copy.Error):
        return value
