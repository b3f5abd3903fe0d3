"""What hangs on the modules of a tree and can change: every container, object, tensor and generator, however deep."""

from __future__ import annotations

import copyreg
import types
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.clones.remembering import remembered

_PLAIN = (bool, int, float, complex, str, bytes)
_ATOMS = frozenset({*_PLAIN, type(None), types.FunctionType, torch.dtype, torch.device, torch.Size})
_WHOLE = (fx.Proxy, fx.Graph, torch.Tensor, torch.Generator, torch.jit.ScriptModule, type, types.ModuleType)

_HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if "hooks" in name and isinstance(value, dict))


def modules_under(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a tree by name, without the scripted ones, which no Python can look into."""
    return ((name, m) for name, m in root.named_modules() if not isinstance(m, torch.jit.ScriptModule))


def held_by(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """All that hangs on the modules of a tree, each thing once, by the qualified name of the attribute it hangs on."""
    modules = list(modules_under(root))
    seen = {id(module) for _, module in modules}
    for name, module in modules:
        for key, value in vars(module).items():
            if key in _HOOKS and not value:
                continue  # most of what hangs on a model are these
            for one in reached_from(value, seen):
                yield f"{name}.{key}".removeprefix("."), one


def reached_from(value: Any, seen: set[int]) -> Iterator[Any]:
    """`value` and what it holds, at any depth, but for what was `seen` by its id; an object's attributes are a dict."""
    left = [value]
    while left:
        one = left.pop()
        if type(one) not in _ATOMS and id(one) not in seen:
            seen.add(id(one))
            yield one
            left.extend(_parts(one))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, _WHOLE):
        return
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from value
    elif _copies_itself(value):
        # Not its attributes: a logger's, say, lead to all other loggers.
        yield from _copied_from(value)
        return
    if hasattr(value, "__dict__"):
        yield vars(value)
    yield from _slots(value).values()


def _copies_itself(value: Any) -> bool:
    """Whether it says itself how it is copied, as what is written in C does: NumPy's arrays, generators, counters."""
    kind = type(value)
    if isinstance(value, (*_WHOLE, nn.Module)):
        return False
    return any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))


def _copied_from(value: Any) -> tuple[Any, ...]:
    try:
        told = value.__reduce_ex__(2)
    except Exception:  # a copy protocol of the user's may raise anything; what can't be copied can't be compared
        return ()
    return told if isinstance(told, tuple) else (told,)


def contents_of(holder: Any) -> Any:
    """What one thing holds by itself: for `is_same` to compare, and for `refill` to put back."""
    if isinstance(holder, dict):
        return dict(holder)
    if isinstance(holder, (list, deque)):
        return list(holder)
    if isinstance(holder, set):
        return set(holder)
    if isinstance(holder, torch.Tensor):
        return version_of(holder)
    return _copied_from(holder) if _copies_itself(holder) else _slots(holder)


def refill(holder: Any, contents: Any) -> None:
    """Let a container or object hold the very things that it did; what isn't Python's own keeps its numbers."""
    if _ids(contents_of(holder)) == _ids(contents):
        return  # it may be one that refuses to be written
    if isinstance(holder, (dict, set)):
        holder.clear()
        holder.update(contents)
    elif isinstance(holder, (list, deque)):
        holder.clear()
        holder.extend(contents)
    elif isinstance(contents, dict):
        for slot in _slots(holder).keys() - contents.keys():
            object.__delattr__(holder, slot)
        for slot, value in contents.items():
            object.__setattr__(holder, slot, value)


def _ids(contents: Any) -> Any:
    if isinstance(contents, dict):
        return [*map(id, contents), *map(id, contents.values())]
    return list(map(id, contents)) if isinstance(contents, list) else contents


def _slots(holder: Any) -> dict[str, Any]:
    kind: Any = type(holder)
    return {name: getattr(holder, name) for name in _slot_names(kind) if hasattr(holder, name)}


@remembered
def _slot_names(kind: Any) -> Sequence[str]:
    names: Sequence[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]  # typeshed leaves it out
    return names


def is_same(before: Any, now: Any) -> bool:
    """Whether a place holds what it did; torch.export puts new containers in the place of equal ones."""
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    if isinstance(now, (list, tuple)):
        return len(before) == len(now) and all(map(is_same, before, now))
    if isinstance(now, dict):
        in_order = before.keys() == now.keys() and list(map(hash, before)) == list(map(hash, now))
        return in_order and all(map(is_same, before.values(), now.values()))
    if isinstance(now, weakref.ref):
        return before() is now()
    return isinstance(now, (*_PLAIN, set)) and bool(before == now)


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written in place; inference tensors don't count."""
    return 0 if tensor.is_inference() else tensor._version
