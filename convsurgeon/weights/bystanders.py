"""Tells what a checkpoint holds of other models beside ours, as of a discriminator and of its optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import SCALARS, Shape, bare_name, fits, parameters_of, places_of, shape_of_parameter
from convsurgeon.weights.weight_map import Direction, WeightMap


@dataclass(frozen=True, slots=True)
class Bystanders:
    """What else there is: of how many tensors that aren't ours each shape is, and of which each optimizer holds state.

    `copies`: in how many places all of ours is that moves.
    """

    weight_map: WeightMap
    direction: Direction
    copies: int
    others: Counter[Shape]
    optimizers: tuple[Counter[Shape], ...]

    def hold_state(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether these tensors are another model's, which has some of our names: half of those that move at most.

        Not so where nothing else of any size is there, in our shapes, or where ours is nowhere else.
        """
        held = {bare_name(key): shape for key, shape in shapes.items()}
        places = places_of(self.weight_map, held) if self.copies else {}
        count = sum(entry.moves for entry in self.weight_map.entries)
        ours = {entry.name: entry.shapes(self.direction)[0] for entry in self.weight_map.entries}
        return bool(places) and all(
            2 * len(missing) >= count
            and any(
                ours.get(key.removeprefix(prefix)) != shape and shape not in SCALARS
                for key, shape in held.items()
                if key.startswith(prefix)
            )
            for prefix, missing in places.items()
        )

    def hold_training(self, held: Counter[Shape], what: str) -> bool:
        """Whether `what`, which is of unnamed parameters of these shapes, is of another model's.

        It is, if it can be, and can't be ours, or if there is an optimizer's state that is ours and can't be another's.

        Raises:
            CheckpointError: it may be of either.
        """
        parameters = parameters_of(self.weight_map)
        ours = Counter(entry.shapes(self.direction)[0] for entry in parameters)
        moving = Counter(entry.shapes(self.direction)[0] for entry in parameters if entry.moves)
        if moving.keys().isdisjoint(held):
            return not held <= ours and all(shape in ours or shape in self.others for shape in held)
        if not held <= self.others:
            return False
        if not held <= ours and not moving <= held:  # more than ours, and without all of ours
            return True
        if any(one <= ours and not one <= self.others for one in self.optimizers):
            return True
        if held == ours and self.optimizers.count(held) <= max(self.copies, 1):
            return False
        raise self._doubt(what, next(shape for shape in held if shape in moving))

    def may_be_others(self, shape: Shape, held: Counter[Shape], what: str) -> bool:
        """Whether a parameter of this shape, of an optimizer that trains more than ours, stays, ours or not.

        Raises:
            CheckpointError: ours would move, and another's wouldn't.
        """
        parameters = parameters_of(self.weight_map)
        ours = Counter(entry.shapes(self.direction)[0] for entry in parameters)
        if held <= ours or shape not in self.others:
            return False
        if any(entry.moves and entry.shapes(self.direction)[0] == shape for entry in parameters):
            raise self._doubt(what, shape)
        return True

    def _doubt(self, what: str, shape: Shape) -> CheckpointError:
        return CheckpointError(
            f"{what} may be of {self.weight_map.model} or of another model that is in this checkpoint, for both have "
            f"tensors of shape {list(shape)} and the like, and its parameters have no names; save each model and what "
            "belongs to it in a file of its own, or write the names into an optimizer's state, as 'param_names' of "
            "each of its param_groups"
        )


def bystanders(weight_map: WeightMap, direction: Direction, state: Any) -> Bystanders:
    """What a checkpoint holds beside the model's own."""
    states: list[dict[str, Shape]] = []
    optimizers: list[Counter[Shape]] = []
    for one in _mappings(state):
        if is_optimizer(one):
            optimizers.append(trained_shapes(weight_map, direction, map(shapes_in, one["state"].values())))
        elif not is_flat_optimizer(one):
            states.append({k: tuple(v.shape) for k, v in one.items() if isinstance(k, str) and torch.is_tensor(v)})
    return bystanders_among(weight_map, direction, states, optimizers)


def bystanders_among(
    weight_map: WeightMap,
    direction: Direction,
    states: Iterable[Mapping[str, Shape]],
    optimizers: Iterable[Counter[Shape]],
) -> Bystanders:
    """The same, of the shapes in each state that isn't an optimizer's, and in each that is."""
    others: Counter[Shape] = Counter()
    copies = 0
    for state in states:
        held = {bare_name(key): shape for key, shape in state.items()}
        whole = [prefix for prefix, missing in places_of(weight_map, held).items() if not missing]
        copies += sum(fits(prefix, weight_map, held, direction) for prefix in whole)
        ours = {prefix + entry.name for prefix in whole for entry in weight_map.entries}
        others.update(shape for key, shape in held.items() if key not in ours)
    return Bystanders(weight_map, direction, copies, others, tuple(optimizers))


def is_configuration(state: Any) -> bool:
    """Whether this is OmegaConf's, as Lightning keeps hyperparameters: without tensors, and computed as it is read."""
    return type(state).__module__.partition(".")[0] == "omegaconf"


def is_optimizer(state: Mapping[Any, Any]) -> bool:
    """Whether this is what an optimizer's state_dict() gives."""
    return "param_groups" in state and isinstance(state.get("state"), Mapping)


def is_flat_optimizer(state: Mapping[Any, Any]) -> bool:
    """Whether this is what torch.distributed.checkpoint.state_dict makes of one if it is asked to flatten it."""
    heads = {key.partition(".")[0] if isinstance(key, str) else key for key in state}
    return "param_groups" in heads and heads <= {"state", "param_groups"}


def trained_shapes(
    weight_map: WeightMap, direction: Direction, states: Iterable[Mapping[str, Shape]]
) -> Counter[Shape]:
    """The shapes of the parameters that an optimizer's slots are of, as far as these tell them."""
    shapes = (shape_of_parameter(weight_map, slots, direction) for slots in states)
    return Counter(shape for shape in shapes if shape is not None)


def shapes_in(slots: Any) -> dict[str, Shape]:
    """The shapes of the tensors of one parameter's state."""
    held = slots.items() if isinstance(slots, Mapping) else ()
    return {slot: tuple(value.shape) for slot, value in held if isinstance(value, torch.Tensor)}


def _mappings(state: Any) -> Iterator[Mapping[Any, Any]]:
    """Every mapping in a checkpoint, but for what is in an optimizer's state."""
    if is_configuration(state):
        return
    if isinstance(state, Mapping):
        yield state
        inner = () if is_optimizer(state) else state.values()
    else:
        inner = state if type(state) in (list, tuple) else ()
    for one in inner:
        yield from _mappings(one)
