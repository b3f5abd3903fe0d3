"""What forward leaves behind in its modules while it is traced: undone, and told, for a graph has no memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module

from convsurgeon.capture.held import contents_of, held_by, is_same, modules_under, reached_from, refill


@dataclass(slots=True)
class Leftovers:
    """What a trace left: nothing, for most models.

    `proxies`: the first attribute that holds a value of the trace, or None. `changed`: whether anything was changed at
    all, and `attribute` the first attribute that was, or that holds what was, buffers apart. `drew`: whether a
    generator was drawn from. `constants`: the tensors that tracing stowed away on the root, by name.
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
    before = [(path, module, module.training) for path, module in modules_under(root)]
    for path, module, own in before:
        value = own if mode is None else mode
        module.__dict__["training"] = ModeFlag.of(path, value) if flagged else value
    try:
        yield
    finally:
        for _, module, own in before:
            module.__dict__["training"] = own


class _Snapshot:
    """What hangs on the modules of a tree, to tell what changed, and to put it back."""

    def __init__(self, root: nn.Module) -> None:
        self._modules = [(name, module, vars(module).copy()) for name, module in modules_under(root)]
        self._held = [(name, one, contents_of(one)) for name, one in held_by(root)]
        self._streams = [(one, one.get_state()) for _, one, _ in self._held if isinstance(one, torch.Generator)]

    def note(self, found: Leftovers) -> None:
        """Tell `found` what is no longer as it was."""
        for name, module, attributes in self._modules:
            _note_changes(name, module, attributes, found)
        for name, one, contents in self._held:
            _note_change(name, contents, contents_of(one), found)
        found.drew = any(not torch.equal(stream.get_state(), state) for stream, state in self._streams)

    def restore(self) -> None:
        """Let every module, container and object hold the very things that it did."""
        for _, module, attributes in self._modules:
            refill(vars(module), attributes)
        for _, one, contents in self._held:
            refill(one, contents)


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


def fetch(root: nn.Module, target: str) -> Any:
    """What a ``get_attr`` node with this target reads."""
    return operator.attrgetter(target)(root)


def _note_changes(name: str, module: nn.Module, attributes: dict[str, Any], found: Leftovers) -> None:
    computed = {getattr(hook, "name", None) for hook in module._forward_pre_hooks.values()}
    for key, value in vars(module).items():
        if name == "" and key not in attributes and key.startswith("_") and isinstance(value, torch.Tensor):
            found.constants[key] = value
        elif key not in computed:
            _note_change(f"{name}.{key}".removeprefix("."), attributes.get(key, _ABSENT), value, found)


def _note_change(name: str, before: Any, now: Any, found: Leftovers) -> None:
    """Tell `found` if what hangs on the attribute of this name isn't what it was before."""
    if is_same(before, now):
        return
    if any(isinstance(one, fx.Proxy) for one in reached_from(now, set())):
        found.proxies = found.proxies or name
        return
    found.changed = True
    if name.rpartition(".")[2] not in _REGISTRIES:
        found.attribute = found.attribute or name


_ABSENT = object()
_REGISTRIES = ("_parameters", "_buffers")
"""The attributes of every module whose contents are compared by themselves."""
