"""Loads a checkpoint's weights into a model, whatever file they stand in and whatever stands before their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import load_file as load_safetensors
from torch import nn

from convsurgeon.checkpoints.location import Location
from convsurgeon.checkpoints.torch_files import load_torch_file
from convsurgeon.errors import CheckpointError
from convsurgeon.placement import some_of

State = dict[str, torch.Tensor]


def load_weights(model: nn.Module, source: Location, *, trust: bool) -> None:
    """Load into `model` every entry of its state_dict, from a file, or a folder of one or several.

    Raises:
        CheckpointError: entries are missing or have other shapes; says which.
        OSError: it can't be read.
    """
    expected = model.state_dict()
    found = _best(list(_states(_content(source, trust=trust))), expected)
    state = {name: value for name, value in found.items() if name in expected}
    missing = [name for name in expected if name not in state]
    shapes = [
        f"{name!r} has shape {list(value.shape)}; expected {list(expected[name].shape)}"
        for name, value in state.items()
        if isinstance(expected[name], torch.Tensor) and value.shape != expected[name].shape
    ]
    if missing or shapes:
        lines = [f"{source} doesn't fit {type(model).__name__}"]
        lines += [f"missing: {some_of(missing, ', ', 'entries')}"] if missing else []
        raise CheckpointError("\n  ".join([*lines, *shapes[:6]]))
    model.load_state_dict(state)


def _content(source: Location, *, trust: bool) -> Any:
    if not source.is_folder():
        return _file(source, trust=trust)
    names = [name for name in source.files() if "/" not in name]
    chosen = [name for name in names if name.endswith(".safetensors")]
    chosen = chosen or [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]
    if not chosen:
        raise CheckpointError(
            f"{source} has no *.safetensors and no pytorch_model*.bin; give the file that has weights"
        )
    merged: State = {}
    for name in chosen:
        merged |= _file(source.inside(name), trust=trust)
    return merged


def _file(source: Location, *, trust: bool) -> Any:
    if not source.name.endswith(".safetensors"):
        return load_torch_file(source, trust=trust)
    if source.is_local:
        return load_safetensors(source.path)
    with source.open("rb") as file:
        return load(file.read())


def _states(content: Any) -> Iterator[State]:
    """Every dict of tensors in a checkpoint, outermost first."""
    if not isinstance(content, Mapping):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors:
        yield tensors
    for value in content.values():
        yield from _states(value)


def _best(states: list[State], expected: Mapping[str, Any]) -> State:
    """The state that has most of what is expected, with what stands before its names taken off."""
    candidates = [
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for state in states
        for prefix in _prefixes(state, expected)
    ]
    return max(candidates, key=lambda state: sum(name in expected for name in state), default={})


def _prefixes(state: State, expected: Mapping[str, Any]) -> set[str]:
    first = next(iter(expected), "")
    return {key.removesuffix(first) for key in state if f".{key}".endswith(f".{first}")} | {""}
