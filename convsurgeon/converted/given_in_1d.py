"""Tensors in the original's shape that a converted module is given, in a state or as an attribute: they go to 2-D."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.clones.cloning import rewrap


def load_1d_state(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any, axes: Mapping[str, Literal[-2, -1]]
) -> None:
    """Load hook of modules whose state has moved: an entry of the original's shape gains the unit axis."""
    for name in axes:
        key = prefix + name
        if key in state_dict:
            state_dict[key] = _lifted(state_dict[key], getattr(module, name), axes[name])


def in_2d(module: nn.Module, name: str, value: Any) -> Any:
    """What is set on a module under a name: with the unit axis where it has the shape that moved tensor had before."""
    held = module._parameters.get(name, module._buffers.get(name))
    for hook in module._load_state_dict_pre_hooks.values() if held is not None else ():
        found = hook.hook  # type: ignore[attr-defined]
        if isinstance(found, functools.partial) and found.func is load_1d_state and name in found.keywords["axes"]:
            return _lifted(value, held, found.keywords["axes"][name])
    return value


def _lifted(given: Any, held: Any, position: Literal[-2, -1]) -> Any:
    axis = UnitAxis(position)
    if not isinstance(given, torch.Tensor) or axis.lifted_shape(given.shape) != tuple(held.shape):
        return given
    return rewrap(given, axis.lift(given.detach())) if isinstance(given, nn.Parameter) else axis.lift(given)
