"""What forward leaves behind in its modules while it is traced: undone, and told, for a graph has no memory."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module


@dataclass(slots=True)
class Leftovers:
    """What a trace left: nothing, for most models.

    `proxies`: the first attribute that holds a value of the trace, or None. `changed`: whether anything was changed at
    all, and `attribute` the first attribute that was. `drew`: whether a generator was drawn from. `constants`: the
    tensors that tracing stowed away on the root, by name.
    """

    proxies: str | None = None
    changed: bool = False
    attribute: str | None = None
    drew: bool = False
    constants: dict[str, torch.Tensor] = field(default_factory=dict)


class ModeFlag(int):
    """A module's ``training`` flag that remembers whose it is; as good as a bool wherever forward branches on it."""

    path: str

    @classmethod
    def of(cls, path: str, value: bool) -> ModeFlag:
        flag = cls(value)
        flag.path = path
        return flag


@contextmanager
def in_mode(root: nn.Module, mode: bool | None, *, flagged: bool = False) -> Iterator[None]:
    """Inside, every module is in this mode (None: in its own), its flag a `ModeFlag` where `flagged`."""
    before = [(path, module, module.training) for path, module in _modules(root)]
    for path, module, own in before:
        value = own if mode is None else mode
        module.__dict__["training"] = ModeFlag.of(path, value) if flagged else value
    try:
        yield
    finally:
        for _, module, own in before:
            module.__dict__["training"] = own


class _Snapshot:
    """What the modules of a tree hold, to tell what changed, and to put it back."""

    def __init__(self, root: nn.Module) -> None:
        self._modules = list(_modules(root))
        self._before = [(vars(m).copy(), m._buffers.copy(), m._parameters.copy()) for _, m in self._modules]
        self._versions = [(tensor, version_of(tensor)) for tensor in _tensors(root)]
        self._streams = [(stream, stream.get_state()) for _, m in self._modules for stream in _generators(m)]

    def note(self, found: Leftovers) -> None:
        """Tell `found` what is no longer as it was."""
        for (name, module), (attributes, buffers, _) in zip(self._modules, self._before, strict=True):
            _note_changes(name, module, attributes, found)
            found.changed |= any(module._buffers.get(key) is not value for key, value in buffers.items())
        found.changed |= any(version_of(tensor) != version for tensor, version in self._versions)
        found.drew = any(not torch.equal(stream.get_state(), state) for stream, state in self._streams)

    def restore(self) -> None:
        """Put every attribute, buffer and parameter object back."""
        for (_, module), (attributes, buffers, parameters) in zip(self._modules, self._before, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)


@contextmanager
def noticed(root: nn.Module) -> Iterator[Leftovers]:
    """Inside, forward may leave what it wants in its modules; afterwards the leftovers are told, and stay."""
    before, found = _Snapshot(root), Leftovers()
    yield found
    before.note(found)


@contextmanager
def undone(root: nn.Module) -> Iterator[Leftovers]:
    """Inside, forward may leave what it wants in its modules; afterwards they are as before, and the leftovers told."""
    before, found = _Snapshot(root), Leftovers()
    try:
        yield found
        before.note(found)
    finally:
        before.restore()


@contextmanager
def without_global_hooks() -> Iterator[None]:
    """Inside, hooks that are registered for all modules don't run: a trace would write them into the graph."""
    registries = [
        value for name, value in vars(torch_module).items() if name.startswith("_global_") and "hooks" in name
    ]
    kept = [(registry, registry.copy()) for registry in registries if isinstance(registry, dict)]
    for registry, _ in kept:
        registry.clear()
    try:
        yield
    finally:
        for registry, contents in kept:
            registry.update(contents)


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written in place; inference tensors don't count."""
    return 0 if tensor.is_inference() else tensor._version


def fetch(root: nn.Module, target: str) -> Any:
    """What a ``get_attr`` node with this target reads."""
    return operator.attrgetter(target)(root)


def _modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, m) for name, m in root.named_modules() if not isinstance(m, torch.jit.ScriptModule))


def _note_changes(name: str, module: nn.Module, attributes: dict[str, Any], found: Leftovers) -> None:
    computed = {getattr(hook, "name", None) for hook in module._forward_pre_hooks.values()}
    for key, value in vars(module).items():
        if key in attributes and _is_same(attributes[key], value):
            continue
        if name == "" and key not in attributes and key.startswith("_") and isinstance(value, torch.Tensor):
            found.constants[key] = value
        elif key in computed:
            continue
        elif _holds_proxy(value):
            found.proxies = found.proxies or f"{name}.{key}".removeprefix(".")
        else:
            found.changed = True
            found.attribute = found.attribute or f"{name}.{key}".removeprefix(".")


def _is_same(before: Any, now: Any) -> bool:
    """Whether an attribute holds what it did; torch.export puts new containers in the place of equal ones."""
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    if isinstance(now, (list, tuple)):
        return len(before) == len(now) and all(map(_is_same, before, now))
    if isinstance(now, dict):
        return list(before) == list(now) and all(map(_is_same, before.values(), now.values()))
    if isinstance(now, weakref.ref):
        return before() is now()
    return isinstance(now, (bool, int, float, str)) and bool(before == now)


def _tensors(root: nn.Module) -> Iterator[torch.Tensor]:
    for _, module in _modules(root):
        for held in (vars(module), module._parameters, module._buffers):
            yield from (value for value in held.values() if isinstance(value, torch.Tensor))


def _generators(module: nn.Module) -> Iterator[torch.Generator]:
    return (value for value in vars(module).values() if isinstance(value, torch.Generator))


def _holds_proxy(value: Any) -> bool:
    found = []
    fx.node.map_aggregate(value, lambda leaf: found.append(leaf) if isinstance(leaf, fx.Proxy) else None)
    return bool(found)
