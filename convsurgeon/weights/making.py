"""Makes weight maps: of a model and the names of what moves, or of two states by their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import bare_name, some_of
from convsurgeon.weights.weight_map import Entry, WeightMap, versions_of


def map_of_module(original: nn.Module, moved: tuple[str, ...], unit_axis: Literal[-2, -1]) -> WeightMap:
    """The map of a model whose tensors under the qualified names `moved` gain the unit axis."""
    state = nn.Module.state_dict(original, keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    held: dict[str, torch.Tensor] = dict(nn.Module.named_parameters(original, remove_duplicate=False))
    held |= nn.Module.named_buffers(original, remove_duplicate=False)
    # hooks of the model's own, and of wrappers, may give an entry another name than the tensor has
    ids = {id(names[name]) for name in moved for names in (tensors, held) if name in names}
    first: dict[int, str] = {}
    axis, entries = UnitAxis(unit_axis), []
    for name, value in tensors.items():
        tied_to = first.setdefault(id(value), name)
        shape = tuple(value.shape)
        lifted = axis.lifted_shape(shape) if id(value) in ids else shape
        entries.append(Entry(name, shape, lifted, _dtype(value), "" if tied_to == name else tied_to))
    seen = {id(value) for value in held.values()}
    made = {name for name, value in tensors.items() if name not in held and id(value) not in seen}
    lost = [name for name in moved if name in held and name not in tensors and id(held[name]) not in first]
    parameters = (
        bare_name(name) if tensors.get(bare_name(name)) is value else name
        for name, value in original.named_parameters()
    )
    found = WeightMap(type(original).__name__, unit_axis, tuple(entries), tuple(parameters), versions_of())
    return found.with_baked(made) if lost else found


def map_between(
    state_1d: Mapping[str, torch.Tensor],
    state_2d: Mapping[str, torch.Tensor],
    unit_axis: Literal[-2, -1] | None,
) -> WeightMap:
    """The map between two state_dicts; see `WeightMap.between`."""
    one, two = (
        {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        for state in (state_1d, state_2d)
    )
    alone = [*(name for name in one if name not in two), *(name for name in two if name not in one)]
    if alone:
        raise CheckpointError(f"these stand in one of the two states only: {some_of(alone, ', ', 'entries')}")
    shapes = {name: (tuple(value.shape), tuple(two[name].shape)) for name, value in one.items()}
    changed = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    axes: list[Literal[-2, -1]] = [-2, -1] if unit_axis is None else [unit_axis]
    fitting = [axis for axis in axes if all(b == UnitAxis(axis).lifted_shape(a) for a, b in changed.values())]
    if not fitting:
        shown = [f"{name!r} {list(a)} -> {list(b)}" for name, (a, b) in changed.items()]
        raise CheckpointError(f"no unit axis makes one of the other: {some_of(shown, '; ', 'entries')}")
    if len(fitting) > 1 and changed:
        raise CheckpointError(
            "every kernel that moves has one element, so that the shapes fit either unit axis; give unit_axis=-2 or -1"
        )
    entries = tuple(Entry(name, *pair, _dtype(one[name])) for name, pair in shapes.items())
    return WeightMap("state_dict", fitting[0], entries, (), versions_of())


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
