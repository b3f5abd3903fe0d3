"""Weights with another layout or other numbers, under the names that they had. Knows no graph."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.clones.cloning import memory_of, rewrap
from convsurgeon.converted.given_in_1d import load_1d_state
from convsurgeon.errors import CheckpointError
from convsurgeon.exact.sites import Held


def held_as(held: Held | None, value: torch.Tensor | None, *, like: Held | None = None) -> Any:
    """The tensor that stands for a held one: itself, or `value` as a Parameter as it is, or as `like` is.

    A view of all of it, as it lies there, is the held one itself. What holds the same numbers by chance is not: another
    state of the original's might hold others.
    """
    model = held or like
    if value is None or model is None:
        return None if held is None else held.value
    if held is not None and _is_all_of(value, held.value):
        return held.value
    return rewrap(model.value, value.detach().to(model.value.dtype).contiguous())


def _is_all_of(view: torch.Tensor, tensor: torch.Tensor) -> bool:
    laid_out = [(one.shape, one.stride(), one.dtype, memory_of(one)) for one in (view, tensor)]
    return laid_out[0] == laid_out[1]


def bake(owner: nn.Module, name: str, held: Held, tensor: torch.Tensor, axis: UnitAxis) -> bool:
    """Let `owner` hold `tensor` under `name`; returns whether it is baked: not the one that was held.

    Loading the original's state then raises, for its numbers have to be baked as well.
    """
    if tensor is held.value:
        return False
    if isinstance(tensor, nn.Parameter):
        owner._parameters[name] = tensor
    elif name in owner._buffers:
        owner._buffers[name] = tensor
    elif name in vars(owner):
        setattr(owner, name, tensor)  # a plain attribute, which no state has
    else:
        is_saved = bool(held.names) and held.name not in held.owner._non_persistent_buffers_set
        owner.register_buffer(name, tensor, persistent=is_saved)
    hooks = owner._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        found = hook.hook  # type: ignore[attr-defined]
        if isinstance(found, functools.partial) and found.func in (load_1d_state, refuse_other_state):
            known = found.keywords.get("axes") or found.keywords["shapes"]
            if name in known:
                rest = {other: value for other, value in known.items() if other != name}
                del hooks[key]
                keyword = "axes" if found.func is load_1d_state else "shapes"
                if rest:
                    owner.register_load_state_dict_pre_hook(functools.partial(found.func, **{keyword: rest}))
    original = tuple(held.value.shape)
    before = (original, axis.lowered_shape(original)) if len(original) == 4 else (original,)
    owner.register_load_state_dict_pre_hook(functools.partial(refuse_other_state, shapes={name: before}))
    return True


def refuse_other_state(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    *_: Any,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
) -> None:
    """Load hook of modules with baked weights: an entry of a shape that the original's has doesn't fit any longer.

    Raises:
        CheckpointError: there is one.
    """
    for name, others in shapes.items():
        given, held = state_dict.get(prefix + name), getattr(module, name)
        if isinstance(given, torch.Tensor) and given.shape != held.shape and tuple(given.shape) in others:
            raise CheckpointError(
                f"{prefix}{name} has the shape {list(given.shape)} of the original's, and an exact rewrite has "
                f"baked it into {list(held.shape)}; load the state into the original and convert that again"
            )
