"""Which tensors may move: a tensor has one shape, for whoever holds it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from convsurgeon.capture import Capture, fetch, inlined_paths
from convsurgeon.capture.tracer import computes_as_its_layer


@dataclass(frozen=True, slots=True)
class Owner:
    """A module that holds a tensor under a name of its own."""

    path: str
    module: nn.Module
    name: str


class Ownership:
    """Who holds each tensor of a module tree, and which of them compute with it outside the graph's sight."""

    def __init__(self, capture: Capture) -> None:
        self._root = capture.root
        self._pinned = capture.pinned
        self._owners: dict[int, list[Owner]] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._called = {str(node.target) for node in capture.graph.find_nodes(op="call_module")}
        self._inlined = {id(capture.modules[path]) for path in inlined_paths(capture.modules, capture.graph)}
        first = {id(module): path for path, module in reversed(list(capture.modules.items()))}
        for path, module in capture.modules.items():
            if first[id(module)] != path:
                continue
            for held in (module._parameters, module._buffers, vars(module)):
                for name, tensor in held.items():
                    if isinstance(tensor, torch.Tensor):
                        self._owners.setdefault(id(tensor), []).append(Owner(path, module, name))
                        self._tensors[f"{path}.{name}".removeprefix(".")] = tensor

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor under a qualified name."""
        tensor = self._tensors.get(name)
        if tensor is None:
            tensor = fetch(self._root, name)
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def names(self, tensor: torch.Tensor) -> tuple[str, ...]:
        """Every qualified name of a tensor but those of aliased modules."""
        owners = self._owners.get(id(tensor), ())
        return tuple(f"{owner.path}.{owner.name}".removeprefix(".") for owner in owners)

    def pinned_by(self, tensor: torch.Tensor, lifted: set[int], moving: set[int]) -> str | None:
        """Why `tensor` can't change its shape, in words; None if it can.

        `lifted` are the modules that are, by their ids, and `moving` the tensors of theirs that they take in 2-D.
        """
        for name in self.names(tensor) if self._pinned else ():
            if name in self._pinned:
                return self._pinned[name]
        if tensor._backward_hooks:
            return "has a gradient hook, which would see another shape"
        for owner in self._owners.get(id(tensor), ()):
            if id(owner.module) in self._inlined or owner.path == "":
                continue
            if id(owner.module) in lifted:
                if id(tensor) not in moving:
                    return f"is also that of {owner.path}, which takes it as it is"
                continue
            if owner.path in self._called or computes_as_its_layer(owner.module):
                return f"is also that of {owner.path}, which stays 1-D"
        return None
