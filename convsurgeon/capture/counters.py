"""Numbers that forward changes in each call: whether it decides by them, as by a warm-up's, or only counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from convsurgeon.capture.held import modules_under

Place = tuple[str, str]
"""A module's path, and the name of its attribute."""


def numbers_of(root: nn.Module) -> dict[Place, float]:
    """The plain numbers that hang on the modules of a tree."""
    return {
        (path, name): value
        for path, module in modules_under(root)
        for name, value in vars(module).items()
        if type(value) in _WATCHED
    }


def counted_since(root: nn.Module, before: Mapping[Place, float]) -> list[Place]:
    """Those that are others than `before`."""
    return [place for place, value in numbers_of(root).items() if before.get(place) != value]


def watch(root: nn.Module, places: Iterable[Place]) -> list[str]:
    """Put numbers in these places that tell when something is decided by them: their names, in the list returned."""
    told: list[str] = []
    modules = dict(modules_under(root))
    for path, name in places:
        held = vars(modules[path])
        held[name] = _watched(held[name], f"{path}.{name}".removeprefix("."), told)
    return told


_COUNTING = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__neg__")
"""What gives another count."""

_DECIDING = (
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__bool__", "__hash__"),
    *("__mod__", "__floordiv__", "__divmod__", "__truediv__", "__index__", "__and__", "__rshift__"),
)
"""What a branch is taken by, or a part chosen."""


def _watched(value: float, name: str, told: list[str]) -> Any:
    found = _WATCHED[type(value)](value)
    found.name, found.told = name, told
    return found


def _counting(base: type, name: str) -> Any:
    def counted(self: Any, *others: Any) -> Any:
        value = getattr(base, name)(self, *others)
        return _watched(value, self.name, self.told) if type(value) in _WATCHED else value

    return counted


def _deciding(base: type, name: str) -> Any:
    def decided(self: Any, *others: Any) -> Any:
        self.told.append(self.name)
        return getattr(base, name)(self, *others)

    return decided


def _class_watching(base: type) -> Any:
    counting = {name: _counting(base, name) for name in _COUNTING}
    deciding = {name: _deciding(base, name) for name in _DECIDING if hasattr(base, name)}
    return type(f"Watched{base.__name__.title()}", (base,), counting | deciding)


_WATCHED: dict[type, Any] = {base: _class_watching(base) for base in (int, float)}
