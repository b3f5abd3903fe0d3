"""Finds which parameter each tensor of optimizer state belongs to, in a checkpoint of flat keys; knows only shapes.

``torch.distributed.checkpoint`` flattens what it saves: an optimizer's state stands under keys such as
``optim.state.conv.weight.exp_avg`` or ``optim.state.0.exp_avg``, of which the paths are kept beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from convsurgeon.errors import CheckpointError
from convsurgeon.weights.bystanders import Bystanders, bystanders_among, trained_shapes
from convsurgeon.weights.placement import SHAPED_SLOTS, Shape, entry_of_shape, factored, shape_of_parameter
from convsurgeon.weights.weight_map import Direction, WeightMap

Path = tuple[str | int, ...]
Shapes = tuple[Shape, Shape]
"""A parameter's shape before and after it has moved."""


@dataclass(frozen=True, slots=True)
class FlatState:
    """A checkpoint's tensors by their keys, of which those of the model have been found.

    `paths` are those of all of its keys, `shapes` its tensors', `moved` the new shapes of the model's that move.
    """

    weight_map: WeightMap
    direction: Direction
    paths: Mapping[str, Path]
    shapes: Mapping[str, Shape]
    moved: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class _Optimizer:
    """The keys of one optimizer's state: of each slot, by the name or index of its parameter."""

    root: str
    slots: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def by_index(self) -> bool:
        """Whether it knows indices of its parameters alone."""
        return all(name.isdecimal() for name in self.slots)


def moved_slots(state: FlatState) -> dict[str, Shape]:
    """The new shape of each key of optimizer state that moves: it has the shape of its parameter, which moves.

    Raises:
        CheckpointError: which parameter is which can't be told, or state has another shape than its parameter.
    """
    optimizers = _optimizers(state)
    beside = _bystanders(state, optimizers)
    return {
        key: shape
        for optimizer in optimizers
        for name, ways in _parameters(state, optimizer, beside)
        for key, shape in _moved(state, name, optimizer.slots[name], ways)
    }


def _bystanders(state: FlatState, optimizers: list[_Optimizer]) -> Bystanders:
    """What there is of other models: of what is no optimizer's state, and of the optimizers that know indices."""
    slots = {key for optimizer in optimizers for one in optimizer.slots.values() for key in one.values()}
    rest = {key: shape for key, shape in state.shapes.items() if key not in slots}
    trained = (_trained(state, optimizer) for optimizer in optimizers if optimizer.by_index)
    return bystanders_among(state.weight_map, state.direction, [rest], trained)


def _trained(state: FlatState, optimizer: _Optimizer) -> Counter[Shape]:
    slots = ({slot: state.shapes[key] for slot, key in one.items()} for one in optimizer.slots.values())
    return trained_shapes(state.weight_map, state.direction, slots)


def _optimizers(state: FlatState) -> list[_Optimizer]:
    found: dict[str, _Optimizer] = {}
    for key in state.shapes:
        place = None if key in state.moved else _place(state.paths.get(key, (key,)))
        if place is not None:
            root, name, slot = place
            found.setdefault(root, _Optimizer(root)).slots.setdefault(name, {})[slot] = key
    return list(found.values())


def _place(path: Path) -> tuple[str, str, str] | None:
    """The optimizer, the parameter and the slot of a path, if it is one of optimizer state.

    It is ("optim", "state", "conv.weight", "exp_avg"), or ("optim", "state.conv.weight.exp_avg").
    """
    steps = [str(step) for step in path]
    for at in reversed(range(len(steps) - 2)):
        if steps[at] == "state":
            return ".".join(steps[:at]), steps[at + 1], ".".join(steps[at + 2 :])
    head, _, rest = f".{steps[-1]}".partition(".state.")
    name, _, slot = rest.rpartition(".")
    return (f"{'.'.join(steps[:-1])}{head}".lstrip("."), name, slot) if name else None


def _parameters(
    state: FlatState, optimizer: _Optimizer, beside: Bystanders
) -> Iterator[tuple[str, Collection[Shapes]]]:
    """Each parameter that the optimizer names, with the shapes that it may have: none if nothing tells of them."""
    what = f"the optimizer's state {optimizer.root!r}"
    another = optimizer.by_index and beside.hold_training(_trained(state, optimizer), what)
    reading = _by_order if optimizer.by_index else _by_name
    readings = [] if another else reading(state, optimizer)
    for name, slots in optimizer.slots.items():
        told = {one[name] for one in readings}
        yield name, told if told or another else _by_shape(state, slots)


def _by_name(state: FlatState, optimizer: _Optimizer) -> list[dict[str, Shapes]]:
    """Every way in which names are those of tensors of this checkpoint, behind one prefix; else those of the map's.

    What get_state_dict saves names parameters as the model does, without what the model's state is nested in.
    """
    names = list(optimizer.slots)
    prefixes = [key.removesuffix(names[0]) for key in state.shapes if f".{key}".endswith(f".{names[0]}")]
    whole = [prefix for prefix in prefixes if all(prefix + name in state.shapes for name in names)]
    if whole:
        return [{name: _shapes(state, prefix + name) for name in names} for prefix in whole]
    entries = {entry.name: entry.shapes(state.direction) for entry in state.weight_map.entries}
    prefixes = [names[0].removesuffix(entry) for entry in entries if f".{names[0]}".endswith(f".{entry}")]
    bare = [{name: name.removeprefix(prefix) for name in names} for prefix in prefixes]
    return [{name: entries[one[name]] for name in names} for one in bare if entries.keys() >= set(one.values())]


def _shapes(state: FlatState, key: str) -> Shapes:
    return state.shapes[key], state.moved.get(key, state.shapes[key])


def _by_order(state: FlatState, optimizer: _Optimizer) -> list[dict[str, Shapes]]:
    """Indices in one group are the model's parameters in their order, where there are as many, of these shapes.

    Raises:
        CheckpointError: some of one shape move and others don't, so that the order would have to tell.
    """
    place = f"{optimizer.root}.param_groups".lstrip(".")
    groups = {path[-2] for path in state.paths.values() if ".".join(map(str, path[:-2])) == place}
    entries = {entry.name: entry.shapes(state.direction) for entry in state.weight_map.entries}
    names = state.weight_map.parameters
    reading = {str(at): entries[name] for at, name in enumerate(names) if name in entries}
    if len(groups) != 1 or reading.keys() != optimizer.slots.keys():
        return []
    shaped = [
        (key, name) for name, slots in optimizer.slots.items() for slot, key in slots.items() if slot in SHAPED_SLOTS
    ]
    if any(state.shapes[key] != reading[name][0] for key, name in shaped):
        return []
    for name, slots in optimizer.slots.items():
        if reading[name][0] in {state.shapes[key] for key in slots.values()}:
            entry_of_shape(state.weight_map, reading[name][0], state.direction)
    return [reading]


def _by_shape(state: FlatState, slots: Mapping[str, str]) -> Collection[Shapes]:
    shapes = {slot: state.shapes[key] for slot, key in slots.items()}
    shape = shape_of_parameter(state.weight_map, shapes, state.direction)
    return [] if shape is None else [entry_of_shape(state.weight_map, shape, state.direction).shapes(state.direction)]


def _moved(
    state: FlatState, name: str, slots: Mapping[str, str], ways: Collection[Shapes]
) -> Iterator[tuple[str, Shape]]:
    """The keys of one parameter's state that move, and to what shape."""
    for slot, key in slots.items():
        shape = state.shapes[key]
        shapes = {after if shape == before else shape for before, after in ways} or {shape}
        if slot in SHAPED_SLOTS and any(shape != before for before, after in ways if before != after):
            expected = " or ".join(str(list(before)) for before, _ in ways)
            raise CheckpointError(f"{key!r} has shape {list(shape)}; its parameter {name!r} has {expected}")
        if len(shape) > 1 and ways and all(shape != before != after for before, after in ways):
            raise CheckpointError(factored(slot, name, shape, next(iter(ways))[0]))
        if len(shapes) > 1:
            raise CheckpointError(
                f"{key!r} may be of any of several parameters {name!r}, of which some move and others don't; save each "
                "model and its optimizer in a folder of their own, and convert that"
            )
        (after,) = shapes
        if after != shape:
            yield key, after
