"""Runs a graph over clones of what it reads, and of nothing else: cloning the whole tree takes longer than running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.clones.cloning import clone_module, copied, share_parameters
from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample


class OwnRun(GraphRun):
    """Runs a graph node by node over clones of the modules and buffers that a run may change.

    Parameters are shared, and not to be written.
    """

    def __init__(self, root: fx.GraphModule, sample: Sample) -> None:
        super().__init__(root, root.graph, sample)
        self._own: dict[str, Any] = {}
        for node in root.graph.nodes:
            if node.op in ("call_module", "get_attr") and node.target not in self._own:
                self._own[node.target] = _cloned(super().fetch_attr(node.target))

    @property
    def own(self) -> Mapping[str, Any]:
        """What it runs on, by the names of the graph's modules and tensors."""
        return self._own

    def fetch_attr(self, target: str) -> Any:
        return self._own[target]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._own[target](*args, **kwargs)


def weights_of(value: Any) -> Iterable[torch.Tensor]:
    """The parameters and buffers of a module, or the tensor that it is."""
    if not isinstance(value, nn.Module):
        return (value,) if isinstance(value, torch.Tensor) else ()
    if value._modules:
        return (*value.parameters(), *value.buffers())
    return [one for one in (*value._parameters.values(), *value._buffers.values()) if one is not None]


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, nn.Parameter) else copied(value)
    if not isinstance(value, nn.Module):
        return value
    if not is_plain(value):
        return clone_module(value, share_parameters)
    return _with_own_buffers(value) if value.training and value._buffers else value


def is_plain(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers, without parts or hooks: its forward keeps nothing but buffers.

    And these only in training.
    """
    return (
        type(module).__module__.startswith("torch.nn.modules.")
        and not module._modules
        and not module._forward_pre_hooks
        and not module._forward_hooks
    )


def _with_own_buffers(module: nn.Module) -> nn.Module:
    """A layer of its own with the same parameters, and copies of the buffers."""
    clone = object.__new__(type(module))
    buffers = {name: None if one is None else copied(one) for name, one in module._buffers.items()}
    clone.__dict__.update(module.__dict__, _buffers=buffers)
    return clone
