"""What a call was given, and what of it is another when it has returned: tensors, containers and objects written to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from convsurgeon.capture.held import version_of
from convsurgeon.converted.structure import named_leaves
from convsurgeon.samples import Sample


class Given:
    """The arguments of one call, which is yet to be made."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._before = dict(_leaves_of(sample))
        self._versions = {name: version_of(t) for name, t in self._before.items() if isinstance(t, torch.Tensor)}

    def written(self) -> dict[str, Any]:
        """What the arguments hold now, and didn't before the call, by its place in them; None where nothing is left."""
        now = dict(_leaves_of(self._sample))
        gone = {f"{name}, as written to": None for name in self._before if name not in now}
        return gone | {f"{name}, as written to": leaf for name, leaf in now.items() if self._is_new(name, leaf)}

    def _is_new(self, name: str, leaf: Any) -> bool:
        if leaf is not self._before.get(name, self):
            return True
        return isinstance(leaf, torch.Tensor) and version_of(leaf) != self._versions[name]


def _leaves_of(sample: Sample) -> Iterator[tuple[str, Any]]:
    for name, value in (*enumerate(sample.args), *sample.kwargs.items()):
        yield from leaves_in(f"input {name}", value)


def leaves_in(name: str, value: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """What `value` holds, leaf by leaf, by name; in dataclasses and other objects of the user's (caches) as well.

    Each such object is looked into once.
    """
    seen = set() if seen is None else seen
    for path, leaf in named_leaves(value):
        inside = _inside(leaf)
        if inside is None:
            yield name + path, leaf
        elif id(leaf) not in seen:
            seen.add(id(leaf))
            for attribute, held in inside.items():
                yield from leaves_in(f"{name}{path}.{attribute}", held, seen)


def _inside(leaf: Any) -> dict[str, Any] | None:
    """The attributes of a dataclass or an object of the user's; None of what is a value by itself."""
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    return dict(vars(leaf)) if _is_users_object(leaf) else None


def _is_users_object(leaf: Any) -> bool:
    """Whether a leaf holds values of its own, and is compared by nothing but its identity."""
    kind: Any = type(leaf)
    opaque = isinstance(leaf, (torch.Tensor, nn.Module, type)) or callable(leaf)
    return hasattr(leaf, "__dict__") and not opaque and kind.__eq__ is object.__eq__
