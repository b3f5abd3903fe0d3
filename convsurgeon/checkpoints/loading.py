"""Loads a checkpoint's weights into a model, whatever file they stand in and whatever stands before their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import load_file as load_safetensors
from torch import nn
from torch.nn.parameter import is_lazy

from convsurgeon.checkpoints.location import Location
from convsurgeon.checkpoints.torch_files import load_torch_file
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.bystanders import is_configuration
from convsurgeon.weights.placement import bare_name, prefixes_of, some_of

State = dict[str, Any]
"""Tensors by their names, and the extra state of modules, which may be anything."""


def load_weights(model: nn.Module, source: Location, *, trust: bool) -> None:
    """Load into `model` every entry of its state_dict, from a file, or a folder of one or several.

    Of entries that are one tensor, one is enough; what the model's own hooks know by older names is there as well.

    Raises:
        CheckpointError: entries are missing or have other shapes; says which.
        OSError: it can't be read.
    """
    expected = model.state_dict(keep_vars=True)
    found = _best(list(_states(_content(source, trust=trust))), expected)
    shapes = [
        f"{name!r} has shape {list(found[name].shape)}; expected {list(value.shape)}"
        for name, value in expected.items()
        if isinstance(value, torch.Tensor)
        and isinstance(found.get(name), torch.Tensor)
        and not is_lazy(value)  # which takes whatever shape is given
        and value.shape != found[name].shape
    ]
    try:
        missing = [] if shapes else model.load_state_dict(found, strict=False).missing_keys
    except RuntimeError as error:  # what has an older name has another shape
        raise CheckpointError(f"{source} doesn't fit {type(model).__name__}\n  {error}") from error
    there = {id(value) for name, value in expected.items() if name not in missing}
    missing = [name for name in missing if id(expected.get(name)) not in there]
    if missing or shapes:
        lines = [f"{source} doesn't fit {type(model).__name__}"]
        lines += [f"missing: {some_of(missing, ', ', 'entries')}"] if missing else []
        raise CheckpointError("\n  ".join([*lines, *shapes[:6]]))


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
        shard = _file(source.inside(name), trust=trust)
        twice = [key for key in shard if key in merged]
        if twice:
            raise CheckpointError(
                f"{source} has {twice[0]!r} in {name} and in another file: {some_of(chosen, ', ', 'files')}; give the "
                "one that has the weights"
            )
        merged |= shard
    return merged


def _file(source: Location, *, trust: bool) -> Any:
    if not source.name.endswith(".safetensors"):
        return load_torch_file(source, trust=trust)
    if source.is_local:
        return load_safetensors(source.path)
    with source.open("rb") as file:
        return load(file.read())


def _states(content: Any) -> Iterator[State]:
    """Every dict of tensors in a checkpoint, outermost first, with the extra state that stands among them."""
    if not isinstance(content, Mapping) or is_configuration(content):
        return
    entries = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and (isinstance(value, torch.Tensor) or key.endswith(_EXTRA))
    }
    if entries:
        yield entries
    for value in content.values():
        yield from _states(value)


def _best(states: list[State], expected: Mapping[str, Any]) -> State:
    """The state that has most of what is expected, with what stands before its names taken off."""
    own = {bare_name(name): name for name in expected}
    candidates = []
    for state in states:
        bare = {bare_name(key): value for key, value in state.items()}
        prefixes = {"", *(prefix for key in bare for prefix in prefixes_of(key, own.keys()))}
        for prefix in sorted(prefixes, key=len):
            names = {key: key.removeprefix(prefix) for key in bare if key.startswith(prefix)}
            candidates.append({own.get(name, name): bare[key] for key, name in names.items()})
    return max(candidates, key=lambda state: sum(name in expected for name in state), default={})


_EXTRA = "_extra_state"
"""What state_dict() calls what a module's get_extra_state() gives."""
