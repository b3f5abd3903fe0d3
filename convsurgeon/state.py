"""Moves states of tensors between the original's form and the converted model's: models', optimizers', checkpoints'."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.errors import CheckpointError
from convsurgeon.placement import moved_shapes, nothing_found, some_of
from convsurgeon.weight_map import Direction, Entry, WeightMap, versions_of

T = TypeVar("T")

_SHAPED_SLOTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "sum"}
"""What torch's optimizers keep in the shape of the parameter."""


def map_of_module(original: nn.Module, moved: tuple[str, ...], unit_axis: Literal[-2, -1]) -> WeightMap:
    """The map of a model whose tensors under the qualified names `moved` gain the unit axis."""
    state = nn.Module.state_dict(original, keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    ids = {id(tensors[name]) for name in moved if name in tensors}
    first: dict[int, str] = {}
    axis, entries = UnitAxis(unit_axis), []
    for name, value in tensors.items():
        tied_to = first.setdefault(id(value), name)
        shape = tuple(value.shape)
        lifted = axis.lifted_shape(shape) if id(value) in ids else shape
        entries.append(Entry(name, shape, lifted, _dtype(value), "" if tied_to == name else tied_to))
    parameters = tuple(name for name, _ in original.named_parameters())
    return WeightMap(type(original).__name__, unit_axis, tuple(entries), parameters, versions_of())


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


def moved_state(weight_map: WeightMap, state: T, direction: Direction) -> T:
    """A state_dict, optimizer state, or a checkpoint that nests such, moved.

    Raises:
        CheckpointError: entries are missing or have other shapes; says which.
    """
    mover = _Mover(weight_map, direction)
    result = mover.any(state)
    if not mover.found and any(entry.moves for entry in weight_map.entries):
        raise nothing_found(weight_map, list(state) if isinstance(state, Mapping) else ())
    return result  # type: ignore[no-any-return]


class _Mover:
    """One pass over a checkpoint, in one direction."""

    def __init__(self, weight_map: WeightMap, direction: Direction) -> None:
        self.found = False
        self._map = weight_map
        self._direction = direction
        self._axis = UnitAxis(weight_map.unit_axis)
        self._entries = {entry.name: entry for entry in weight_map.entries}

    def any(self, state: Any) -> Any:
        """What `state` becomes: optimizer and model state are known by their form, anything else passes through."""
        if isinstance(state, (list, tuple)) and type(state) in (list, tuple):
            return type(state)(self.any(value) for value in state)
        if not isinstance(state, Mapping):
            return state
        if "param_groups" in state and isinstance(state.get("state"), Mapping):
            return self._optimizer(state)
        shapes = {
            key: tuple(value.shape)
            for key, value in state.items()
            if isinstance(key, str) and isinstance(value, torch.Tensor)
        }
        moved = moved_shapes(self._map, shapes, self._direction)
        self.found |= bool(moved)
        return _like(state, ((k, self._moved(v) if k in moved else self.any(v)) for k, v in state.items()))

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        return self._axis.lift(value) if self._direction == "2d" else self._axis.lower(value)

    def _optimizer(self, state: Mapping[str, Any]) -> Any:
        names = self._names(state["param_groups"])
        moved = {index: self._slots(names.get(index), slots) for index, slots in state["state"].items()}
        self.found = True
        return _like(state, ((key, moved if key == "state" else value) for key, value in state.items()))

    def _slots(self, name: str | None, slots: Any) -> Any:
        """Per-parameter state: what has the parameter's shape moves with it, step counts and the like don't."""
        if not isinstance(slots, Mapping):
            return slots
        entry = self._of_shape(slots) if name is None else self._entries.get(name)
        if entry is None:
            return slots
        here, _ = entry.shapes(self._direction)
        for slot in _SHAPED_SLOTS & set(slots):
            if isinstance(slots[slot], torch.Tensor) and tuple(slots[slot].shape) != here:
                raise CheckpointError(
                    f"the optimizer's {slot} for {name!r} has shape {list(slots[slot].shape)}; expected {list(here)}: "
                    "its parameters are in another order than the model's; build it over model.named_parameters()"
                )
        if not entry.moves:
            return slots
        return {
            slot: self._moved(value) if isinstance(value, torch.Tensor) and tuple(value.shape) == here else value
            for slot, value in slots.items()
        }

    def _of_shape(self, slots: Mapping[str, Any]) -> Entry | None:
        """An entry like the unnamed parameter of these slots: all of its shape move alike, or it can't be told."""
        shape = next(
            (tuple(slots[one].shape) for one in slots if one in _SHAPED_SLOTS and isinstance(slots[one], torch.Tensor)),
            None,
        )
        if shape is None:
            return None
        parameters = self._map.parameters or tuple(self._entries)
        alike = [e for e in map(self._entries.__getitem__, parameters) if e.shapes(self._direction)[0] == shape]
        if len({entry.moves for entry in alike}) > 1:
            moves, stays = (next(e.name for e in alike if e.moves is moving) for moving in (True, False))
            raise CheckpointError(
                f"the optimizer doesn't name its parameters, and which is which can't be told: one of shape "
                f"{list(shape)} may be {moves!r}, which moves, or {stays!r}, which doesn't; build the optimizer over "
                "model.named_parameters(), so that it saves names"
            )
        if not alike:
            raise CheckpointError(
                f"the optimizer holds state of shape {list(shape)}, which no parameter of {self._map.model} has"
            )
        return alike[0]

    def _names(self, groups: list[dict[str, Any]]) -> dict[int, str]:
        """The names of an optimizer's parameters, by index: its own, else the model's if all are there, else none."""
        indices = [index for group in groups for index in group["params"]]
        names: tuple[str, ...] = ()
        if all("param_names" in group for group in groups):
            names = tuple(name for group in groups for name in group["param_names"])
        elif len(groups) == 1 and len(indices) == len(self._map.parameters):
            names = self._map.parameters
        return dict(zip(indices, names, strict=True)) if names else {}


def _like(state: Mapping[Any, Any], items: Iterator[tuple[Any, Any]]) -> Any:
    """A mapping of the same class with these items, and the ``_metadata`` that state_dict() hangs on."""
    if not isinstance(state, dict):
        return dict(items)
    result = copy.copy(state)
    result.update(items)
    return result
