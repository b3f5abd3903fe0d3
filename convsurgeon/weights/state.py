"""Moves states of tensors between the original's form and the converted model's: models', optimizers', checkpoints'."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from convsurgeon.axis import UnitAxis
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.bystanders import (
    Bystanders,
    bystanders,
    is_configuration,
    is_flat_optimizer,
    is_optimizer,
    shapes_in,
    trained_shapes,
)
from convsurgeon.weights.placement import (
    SHAPED_SLOTS,
    Shape,
    entries_named,
    entry_of_shape,
    factored,
    moved_shapes,
    nothing_found,
    parameters_of,
    shape_of_parameter,
    some_of,
)
from convsurgeon.weights.weight_map import Direction, Entry, WeightMap

T = TypeVar("T")


def moved_state(weight_map: WeightMap, state: T, direction: Direction) -> T:
    """A state_dict, optimizer state, or a checkpoint that nests such, moved.

    Raises:
        CheckpointError: entries are missing or have other shapes; says which.
    """
    mover = Mover(weight_map, direction)
    result = mover.move(state)
    if not mover.found and any(entry.moves for entry in weight_map.entries):
        raise nothing_found(weight_map)
    return result  # type: ignore[no-any-return]


_AVERAGES = frozenset({"shadow_params", "collected_params"})
"""What torch_ema and diffusers call lists of averages: of the parameters that they were given, often the trained."""


class Mover:
    """One pass over a checkpoint, in one direction.

    `found`: whether there was a state of the model or of an optimizer in it; `moved`: the keys that moved, behind those
    of the dicts that they stand in; `tensors`: how many there are. Of one of several shards, the keys that move are
    `known`. With `partial`, entries may be missing.
    """

    def __init__(
        self,
        weight_map: WeightMap,
        direction: Direction,
        known: Collection[str] | None = None,
        *,
        partial: bool = False,
    ) -> None:
        self.found = known is not None
        self._known = known
        self._partial = partial
        self.moved: list[str] = []
        self.tensors = 0
        self._map = weight_map
        self._direction = direction
        self._axis = UnitAxis(weight_map.unit_axis)
        self._beside = Bystanders(weight_map, direction, 0, Counter(), ())
        self._alike: dict[Shape, Entry] = {}
        names = {entry.name for entry in weight_map.entries}
        self._without_entry = {name for name in weight_map.parameters if name not in names}
        self._in_order = parameters_of(weight_map) if weight_map.parameters and not self._without_entry else []

    def move(self, state: Any) -> Any:
        """What `state` becomes: optimizer and model state are known by their form, anything else passes through.

        Raises:
            CheckpointError: entries are missing or have other shapes, or which is which can't be told; says which.
        """
        self._beside = bystanders(self._map, self._direction, state)
        return self._any(state)

    def _any(self, state: Any, path: str = "") -> Any:
        if isinstance(state, (list, tuple)) and type(state) in (list, tuple):
            moves = self._averages(state, path.removesuffix("."))
            self.found |= any(moves)
            return type(state)(
                self._moved(value, f"{path}{at}") if moves[at] else self._any(value, f"{path}{at}.")
                for at, value in enumerate(state)
            )
        if not isinstance(state, Mapping) or is_configuration(state):
            self.tensors += isinstance(state, torch.Tensor)
            return state
        if is_optimizer(state):
            return self._optimizer(state, f"{path}state.")
        if is_flat_optimizer(state):
            return self._flat_optimizer(state, f"{path}state.")
        shapes = {
            key: tuple(value.shape)
            for key, value in state.items()
            if isinstance(key, str) and isinstance(value, torch.Tensor)
        }
        ours = self._known
        if ours is None:
            another = self._beside.hold_state(shapes)
            ours = {} if another else moved_shapes(self._map, shapes, self._direction, partial=self._partial)
            self.found |= bool(ours)
        items = ((k, self._moved(v, path + k) if k in ours else self._any(v, f"{path}{k}.")) for k, v in state.items())
        return _like(state, items)

    def _averages(self, values: Sequence[Any], path: str) -> list[bool]:
        """Of which of these values move: of the model's parameters in their order, or of averages of some of them.

        Raises:
            CheckpointError: they are averages, and of which parameters can't be told.
        """
        shapes = [tuple(value.shape) for value in values if isinstance(value, torch.Tensor)]
        if len(shapes) != len(values) or not shapes:
            return [False] * len(values)
        for entries in (self._in_order, self._map.entries):  # some keep averages of all that state_dict() has
            if shapes == [entry.shapes(self._direction)[0] for entry in entries]:
                return [entry.moves for entry in entries]
        what, held = f"{path!r}, averages of {len(values)} parameters,", Counter(shapes)
        if path.rpartition(".")[2] not in _AVERAGES or self._beside.hold_training(held, what):
            return [False] * len(values)
        ours = Counter(entry.shapes(self._direction)[0] for entry in parameters_of(self._map))
        if not held <= ours:
            strange = some_of([str(list(shape)) for shape in held - ours], ", ", "shapes")
            raise CheckpointError(
                f"{what} holds tensors that no parameters of {self._map.model} are left for: {strange}"
            )
        return [self._told_by_shape(shape, f"{what} doesn't name them").moves for shape in shapes]

    def _moved(self, value: torch.Tensor, key: str) -> torch.Tensor:
        self.tensors += 1
        self.moved.append(key)
        return self._axis.lift(value) if self._direction == "2d" else self._axis.lower(value)

    def _optimizer(self, state: Mapping[str, Any], path: str) -> Any:
        groups, states = state["param_groups"], state["state"]
        names, what = _own_names(groups), f"the optimizer's state {path.removesuffix('.')!r}"
        held = trained_shapes(self._map, self._direction, map(shapes_in, states.values()))
        another = not names and self._beside.hold_training(held, what)
        names = names or ({} if another else self._names_in_order(groups, states))
        unnamed = () if names or another else held
        others = {shape for shape in unnamed if self._beside.may_be_others(shape, held, what)}
        entries = entries_named(self._map, set(names.values()))
        moved = {}
        for at, slots in states.items():
            if names.get(at) in self._without_entry:
                _require_flat(names[at], slots)
            entry = entries.get(names[at]) if at in names else None if another else self._of_shape(slots, others)
            moved[at] = self._slots(entry, slots, f"{path}{at}.")
        self.found |= not another
        return _like(state, ((key, moved if key == "state" else value) for key, value in state.items()))

    def _flat_optimizer(self, state: Mapping[str, Any], path: str) -> Any:
        """One whose keys are such as ``state.conv.weight.exp_avg``: it names its parameters."""
        places = {key: key.removeprefix("state.").rpartition(".") for key in state if key.startswith("state.")}
        entries = entries_named(self._map, {name for name, _, _ in places.values()})
        moved = {}
        for key, (name, _, slot) in places.items():
            if name in self._without_entry:
                _require_flat(name, {slot: state[key]})
            moved[key] = self._slots(entries.get(name), {slot: state[key]}, f"{path}{name}.")[slot]
        self.found = True
        return _like(state, ((key, moved.get(key, value)) for key, value in state.items()))

    def _slots(self, entry: Entry | None, slots: Any, path: str) -> Any:
        """Per-parameter state: what has the parameter's shape moves with it, step counts and the like don't."""
        if entry is None or not isinstance(slots, Mapping):
            return self._any(slots, path)
        here, _ = entry.shapes(self._direction)
        for slot, value in slots.items():
            if not isinstance(value, torch.Tensor) or tuple(value.shape) == here:
                continue
            if slot in SHAPED_SLOTS:
                raise CheckpointError(
                    f"the optimizer's {slot} for {entry.name!r} has shape {list(value.shape)}; expected {list(here)}: "
                    "its parameters are in another order than the model's; build it over model.named_parameters()"
                )
            if entry.moves and value.dim() > 1:
                raise CheckpointError(factored(slot, entry.name, value.shape, here))
        return {
            slot: self._moved(value, f"{path}{slot}")
            if entry.moves and isinstance(value, torch.Tensor) and tuple(value.shape) == here
            else self._any(value, f"{path}{slot}.")
            for slot, value in slots.items()
        }

    def _of_shape(self, slots: Any, others: Collection[Shape]) -> Entry | None:
        """An entry like the unnamed parameter of these slots; None where it stays, as those of `others` do."""
        shape = shape_of_parameter(self._map, shapes_in(slots), self._direction)
        return None if shape is None or shape in others else self._told_by_shape(shape)

    def _told_by_shape(self, shape: Shape, *what: str) -> Entry:
        if shape not in self._alike:
            self._alike[shape] = entry_of_shape(self._map, shape, self._direction, *what)
        return self._alike[shape]

    def _names_in_order(self, groups: list[dict[str, Any]], states: Mapping[Any, Any]) -> dict[Any, str]:
        """The model's names of an optimizer's parameters, by index, if all are there in one group; else none.

        That they stand in the model's order nothing tells, so those of one shape have to move alike.

        Raises:
            CheckpointError: they don't.
        """
        indices = [index for group in groups for index in group["params"]]
        if len(groups) != 1 or len(indices) != len(self._map.parameters):
            return {}
        names = dict(zip(indices, self._map.parameters, strict=True))
        shapes = {entry.name: entry.shapes(self._direction)[0] for entry in parameters_of(self._map)}
        for at, slots in states.items():
            shape = shapes.get(names.get(at, ""))
            if shape is not None and shape in shapes_in(slots).values():
                entry_of_shape(self._map, shape, self._direction)
        return names


def _own_names(groups: list[dict[str, Any]]) -> dict[Any, str]:
    """The names that an optimizer gives its parameters, by index: none if it doesn't."""
    indices = [index for group in groups for index in group["params"]]
    names: list[str] = []
    if all(isinstance(index, str) for index in indices):  # torch.distributed.checkpoint.state_dict knows no indices
        names = indices
    elif all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    return dict(zip(indices, names, strict=True)) if names else {}


def _require_flat(name: str, slots: Any) -> None:
    """Raise if state of a parameter that has no entry in the model's state_dict may have to move."""
    deep = [f"{slot} {list(shape)}" for slot, shape in shapes_in(slots).items() if len(shape) > 1]
    if deep:
        raise CheckpointError(
            f"the optimizer holds state of {name!r} ({', '.join(deep)}), which the model's state_dict leaves out or "
            "gives another name, so that it isn't known whether it moves; leave the optimizer out, and begin it anew"
        )


def _like(state: Mapping[Any, Any], items: Iterator[tuple[Any, Any]]) -> Any:
    """A mapping of the same class with these items, and the ``_metadata`` that state_dict() hangs on."""
    if not isinstance(state, dict):
        return dict(items)
    result = copy.copy(state)
    result.update(items)
    return result
