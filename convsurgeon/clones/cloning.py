"""Clones of a module tree: every module, Parameter and buffer object new, tensors as the caller chooses.

`copy.deepcopy` can't serve: it copies every weight, refuses tensors that autograd made (the plain ``weight`` of
hook-style weight norm), and rebuilds GraphModules from their code.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from convsurgeon.clones.remembering import remembered

Policy = Callable[[torch.Tensor, nn.Module], "torch.dtype | None"]
"""What a clone does with a tensor, given the module that holds it: None shares its storage, a dtype copies it."""

M = TypeVar("M", bound=nn.Module)

_ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size, types.FunctionType}
    | {types.BuiltinFunctionType, fx.Graph}
)

_WEAK = frozenset({weakref.ref, weakref.ProxyType, weakref.CallableProxyType})

_REGISTRIES = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set)))
"""The attributes in which every module keeps parameters, submodules and hooks; most are empty, and there are many."""


def share(tensor: torch.Tensor, owner: nn.Module) -> torch.dtype | None:
    """Share every storage but that of BatchNorm statistics and scripted buffers, for running a model changes them."""
    written = isinstance(owner, (_NormBase, torch.jit.ScriptModule)) and not isinstance(tensor, nn.Parameter)
    return tensor.dtype if written else None


def share_parameters(tensor: torch.Tensor, owner: nn.Module) -> torch.dtype | None:
    """Share parameters, copy every other tensor: what a run that leaves no trace needs."""
    return None if isinstance(tensor, nn.Parameter) else tensor.dtype


def own(tensor: torch.Tensor, owner: nn.Module) -> torch.dtype | None:
    """Copy everything."""
    return tensor.dtype


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of one tensor, outside any graph of autograd."""
    return tensor.detach().clone()


def rewrap(like: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """`data` as a Parameter or a tensor, as `like` is, with its ``requires_grad``, gradient hooks and attributes."""
    if isinstance(like, nn.Parameter):
        result: torch.Tensor = nn.Parameter(data, requires_grad=like.requires_grad)
    else:
        result = data.requires_grad_() if like.is_leaf and like.requires_grad else data
    if vars(like):
        vars(result).update((k, v) for k, v in vars(like).items() if not isinstance(v, torch.Tensor))
    if like._backward_hooks and result.requires_grad:
        for hook in like._backward_hooks.values():
            result.register_hook(hook)
    if like._post_accumulate_grad_hooks and result.requires_grad:
        for hook in like._post_accumulate_grad_hooks.values():
            result.register_post_accumulate_grad_hook(hook)
    return result


def clone_module(module: M, policy: Policy) -> M:
    """A clone of the module tree under `module`.

    What is shared inside the original (one module under two names, tied parameters, tensors over one storage) is shared
    alike in the clone. Attributes that can't be copied (locks, handles) are the original's own objects.
    """
    modules = list(module.modules())
    memo = _blanks(modules)
    held: dict[int, tuple[torch.Tensor, nn.Module]] = {}
    for old in modules:
        for value in _attributes(old):
            if type(value) not in _ATOMS:
                _collect_tensors(value, old, held)
    memo.update(_cloned_tensors(held, policy))
    for old in modules:
        if isinstance(old, torch.jit.ScriptModule):
            _hold_in_script(memo[id(old)], old, memo)
        else:
            memo[id(old)].__dict__.update(_cloned_attributes(old, memo))
    return cast(M, memo[id(module)])


def _blanks(modules: Iterable[nn.Module]) -> dict[int, Any]:
    """The clone of each module by the original's id, still empty; those inside a scripted one are of its own copy."""
    blanks: dict[int, Any] = {}
    for old in modules:
        if not isinstance(old, torch.jit.ScriptModule):
            blanks[id(old)] = _blank(old)
        elif id(old) not in blanks:
            blanks.update(zip(map(id, old.modules()), copy.deepcopy(old).modules(), strict=True))
    return blanks


def _blank(module: nn.Module) -> nn.Module:
    # GraphModule.__new__ would make a class without a forward; the clone runs the code of the original's class.
    blank = object.__new__(type(module))
    kind: Any = type(module)
    for slot in _slots_of(kind):
        if hasattr(module, slot):
            object.__setattr__(blank, slot, getattr(module, slot))
    return blank


@remembered
def _slots_of(kind: Any) -> tuple[str, ...]:
    return tuple({slot for cls in kind.__mro__ for slot in vars(cls).get("__slots__", ())})


def _attributes(module: nn.Module) -> Iterable[Any]:
    if isinstance(module, torch.jit.ScriptModule):
        return (*module._parameters.values(), *module._buffers.values())
    return vars(module).values()


def _hold_in_script(copied: nn.Module, module: torch.jit.ScriptModule, memo: dict[int, Any]) -> None:
    """Give a scripted module's copy its tensors: those that torch copied stand in the graph of the original's."""
    for held, given in ((copied._parameters, module._parameters), (copied._buffers, module._buffers)):
        for name, tensor in given.items():
            held[name] = memo[id(tensor)]


def _collect_tensors(value: Any, owner: nn.Module, held: dict[int, tuple[torch.Tensor, nn.Module]]) -> None:
    """Enter every tensor that hangs on `owner`, in attributes or plain containers, into `held`."""
    if type(value) in _WEAK:
        return  # a proxy passes for what it stands for
    if isinstance(value, (dict, list, tuple, set)):
        if not value:
            return
        for one in value.values() if isinstance(value, dict) else value:
            _collect_tensors(one, owner, held)
    elif isinstance(value, torch.Tensor):
        held.setdefault(id(value), (value, owner))


def _cloned_tensors(held: dict[int, tuple[torch.Tensor, nn.Module]], policy: Policy) -> Iterator[tuple[int, Any]]:
    """Each tensor's clone by the original's id; a storage that several tensors see is copied once, for all of them."""
    dtypes = {key: policy(tensor, owner) for key, (tensor, owner) in held.items()}
    seen_by = Counter(memory_of(held[key][0]) for key, dtype in dtypes.items() if dtype is not None)
    copies: dict[tuple[int, torch.dtype, torch.dtype], torch.Tensor] = {}
    for key, (tensor, _) in held.items():
        dtype = dtypes[key]
        if dtype is None and not tensor.is_inference():
            data = tensor.data
        elif seen_by[memory_of(tensor)] <= 1 or tensor.is_meta or tensor.layout is not torch.strided:
            data = tensor.detach().to(dtype or tensor.dtype, copy=True)
        else:
            where = (memory_of(tensor), tensor.dtype, dtype or tensor.dtype)
            if where not in copies:
                whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
                copies[where] = whole.to(where[2], copy=True)
            data = copies[where].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        yield key, rewrap(tensor, data)


def memory_of(tensor: torch.Tensor) -> int:
    """The same number for tensors over the same storage."""
    return (tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0) or id(tensor)


def _cloned_attributes(module: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":
            yield name, None  # it would run the original
        elif type(value) in _ATOMS:
            yield name, value
        elif name in _REGISTRIES and not value:
            yield name, type(value)()
        else:
            yield name, _clone(value, memo)


def _clone(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _WEAK:
        return _weak_clone(value, memo)
    if kind in _ATOMS or isinstance(value, pytree.TreeSpec):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in (dict, OrderedDict):
        result: dict[Any, Any] = kind()
        memo[id(value)] = result
        result.update((memo.get(id(k), k), _clone(v, memo)) for k, v in value.items())
        return result
    if kind in (list, tuple, set):
        memo[id(value)] = kind(_clone(v, memo) for v in value)
    elif isinstance(value, torch.Generator):
        memo[id(value)] = torch.Generator(value.device).set_state(value.get_state())
    elif isinstance(value, torch.Tensor):
        memo[id(value)] = rewrap(value, value.detach().clone())
    else:
        try:
            memo[id(value)] = copy.deepcopy(value, memo)
        except Exception:  # a copy protocol of the user's may raise anything; what can't be copied is shared
            memo[id(value)] = _cloned_object(value, memo)
    return memo[id(value)]


def _weak_clone(value: Any, memo: dict[int, Any]) -> Any:
    """A weak reference to the clone of what one refers to, as of a module to the one above it; to all else, itself."""
    kind = type(value)
    try:
        target = value() if kind is weakref.ref else value.__repr__.__self__
    except ReferenceError:  # a proxy of what is gone
        return value
    make = weakref.ref if kind is weakref.ref else weakref.proxy
    return make(memo[id(target)]) if id(target) in memo else value


def _cloned_object(value: Any, memo: dict[int, Any]) -> Any:
    """An object that refuses to be copied whole, attribute by attribute; itself if it has none."""
    if not hasattr(value, "__dict__") or isinstance(value, (type, types.ModuleType)):
        return value
    try:
        result = object.__new__(type(value))
    except TypeError:  # one that is made in C: an open file, what belongs to a thread
        return value
    result.__dict__.update({name: _clone(one, memo) for name, one in vars(value).items()})
    return result
