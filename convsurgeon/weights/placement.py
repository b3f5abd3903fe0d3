"""Finds the entries of a weight map among a checkpoint's names and shapes, whatever stands before the names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from convsurgeon.errors import CheckpointError
from convsurgeon.weights.weight_map import Direction, Entry, WeightMap

Shape = tuple[int, ...]

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch.compile, FSDP and activation checkpointing put anywhere into the names of what they wrap."""


def moved_shapes(
    weight_map: WeightMap, shapes: Mapping[str, Shape], direction: Direction, *, partial: bool = False
) -> dict[str, Shape]:
    """The new shape of each key that moves, given the shapes of a checkpoint's tensors by their keys.

    Empty where the checkpoint has no entry of the map, under whatever prefix. With `partial`, entries may be missing.

    Raises:
        CheckpointError: some of the entries that move are there and others aren't, or have other shapes.
    """
    moving = {entry.name: entry for entry in weight_map.entries if entry.moves}
    bare = {bare_name(key): key for key in shapes}
    found: dict[str, Shape] = {}
    wrong: list[str] = []
    held = {name: tuple(shapes[key]) for name, key in bare.items()}
    for prefix in _prefixes(weight_map, held, places_of(weight_map, held), direction, partial=partial):
        for name, entry in moving.items():
            key = bare.get(prefix + name)
            if key is None:
                continue
            before, found[key] = entry.shapes(direction)
            if tuple(shapes[key]) != before:
                wrong.append(
                    f"{key!r} has shape {list(shapes[key])}; expected {list(before)} to go to {direction}"
                    + (", and it has been there" if tuple(shapes[key]) == found[key] else "")
                )
    if wrong:
        raise CheckpointError(some_of(wrong, "\n  ", "entries"))
    return found


def entries_named(weight_map: WeightMap, names: Collection[str]) -> dict[str, Entry]:
    """The entries of parameters as an optimizer names them, whatever stands before.

    It may lack some of ours, as one does that trains a part, or hold others as well, but not both.
    """
    bare = {bare_name(name): name for name in names}
    moving = [entry for entry in weight_map.entries if entry.moves]
    found: dict[str, Entry] = {}
    places = places_of(weight_map, bare, probes=len(moving))  # it may train the last layer alone
    for prefix in _prefixes(weight_map, dict.fromkeys(bare), places, "2d", partial=True):
        ours = {prefix + entry.name: entry for entry in weight_map.entries}
        if not _missing(prefix, moving, bare.keys()) or all(name in ours for name in bare if name.startswith(prefix)):
            found |= {bare[name]: entry for name, entry in ours.items() if name in bare}
    return found


def entry_of_shape(
    weight_map: WeightMap, shape: Shape, direction: Direction, what: str = "the optimizer doesn't name its parameters"
) -> Entry:
    """An entry like the parameter of this shape that has no name: all that have it move alike, or it can't be told.

    Raises:
        CheckpointError: some move and others don't, or no parameter has this shape.
    """
    alike = [entry for entry in parameters_of(weight_map) if entry.shapes(direction)[0] == shape]
    if len({entry.moves for entry in alike}) > 1:
        moves, stays = (next(e.name for e in alike if e.moves is moving) for moving in (True, False))
        raise CheckpointError(
            f"{what}, and which is which can't be told: one of shape {list(shape)} may be {moves!r}, which moves, or "
            f"{stays!r}, which doesn't; {_GIVE_NAMES}"
        )
    if not alike:
        raise CheckpointError(
            f"the optimizer holds state of shape {list(shape)}, which no parameter of {weight_map.model} has"
        )
    return alike[0]


_GIVE_NAMES = (
    "save an optimizer with names: build it over model.named_parameters(), or take its state by "
    "torch.distributed.checkpoint.state_dict.get_state_dict; or write them into the state that there is, as "
    "'param_names' of each of its param_groups; save averages as a dict, by name"
)


def parameters_of(weight_map: WeightMap) -> list[Entry]:
    """The entries of parameters in their order; all that there are, where it isn't known of each which is its own."""
    entries = {entry.name: entry for entry in weight_map.entries}
    known = weight_map.parameters and all(name in entries for name in weight_map.parameters)
    return [entries[name] for name in weight_map.parameters] if known else list(weight_map.entries)


def shape_of_parameter(weight_map: WeightMap, slots: Mapping[str, Shape], direction: Direction) -> Shape | None:
    """The shape of the parameter that an optimizer's slots of these shapes are of, None if nothing of it would move."""
    shaped = [shape for slot, shape in slots.items() if slot in SHAPED_SLOTS]
    moving = (entry.shapes(direction)[0] for entry in weight_map.entries if entry.moves)
    return shaped[0] if shaped else next((shape for shape in moving if shape in slots.values()), None)


SHAPED_SLOTS = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "sum"}
)
"""What torch's optimizers keep in the shape of the parameter."""


def factored(slot: str, name: str, shape: Sequence[int], expected: Shape) -> str:
    """The message for optimizer state that is made of a parameter's rows and columns, which are others in 2-D."""
    return (
        f"the optimizer's {slot} for {name!r} has shape {list(shape)}, and not its parameter's, {list(expected)}: "
        "state that is factored can't move; leave the optimizer out, and begin it anew"
    )


def nothing_found(weight_map: WeightMap, where: object = "this state") -> CheckpointError:
    """The error of a checkpoint that has nothing to move."""
    first = next((entry.name for entry in weight_map.entries if entry.moves), "")
    return CheckpointError(
        f"nothing in {where} belongs to {weight_map.model}: no entry {first!r}, with or without a prefix"
    )


def some_of(texts: Sequence[str], between: str, noun: str, shown: int = 6) -> str:
    """The first few of many texts, and how many more there are."""
    more = [f"and {len(texts) - shown} more {noun}"] if len(texts) > shown else []
    return between.join([*texts[:shown], *more])


def bare_name(key: str) -> str:
    """A name without what torch.compile, FSDP and activation checkpointing put into it."""
    if not any(wrapper in key for wrapper in _WRAPPERS):
        return key
    return ".".join(atom for atom in key.split(".") if atom not in _WRAPPERS)


def _prefixes(
    weight_map: WeightMap,
    held: Mapping[str, Shape | None],
    missing: Mapping[str, Sequence[str]],
    direction: Direction,
    *,
    partial: bool,
) -> list[str]:
    """What stands before our names, wherever the model is and each copy of it; a shape that is None may be any.

    `missing`: the places that may be, with what they lack. Where there is none with all that move, these are, if
    `partial`, the places that lack fewest of them.

    Raises:
        CheckpointError: some that move are there, and others aren't, and it isn't `partial`; or it can't be told
            whether a place holds the model.
    """
    moving = [entry.name for entry in weight_map.entries if entry.moves]
    candidates = list(missing)
    complete = [prefix for prefix in candidates if not missing[prefix]]
    if candidates and not complete:
        nearest = min(candidates, key=lambda prefix: len(missing[prefix]))
        if partial:
            return [prefix for prefix in candidates if missing[prefix] == missing[nearest]]
        names = [nearest + name for name in missing[nearest]]
        raise CheckpointError(
            f"{len(names)} of the {len(moving)} entries that move are missing: {some_of(names, ', ', 'entries')}; if "
            "they should be, say partial=True (--partial)"
        )
    return _copies(weight_map, complete, held, direction)


_PROBES = 8
"""How many of the names that move are looked for under any prefix: a few that others have as well make no place."""


def places_of(weight_map: WeightMap, held: Collection[str], *, probes: int = _PROBES) -> dict[str, list[str]]:
    """Whatever stands before one of so many of our names that move, with those of all that are missing there."""
    moving = {entry.name: entry for entry in weight_map.entries if entry.moves}
    probed = set(list(moving)[:: max(1, len(moving) // max(1, probes))])
    prefixes = sorted({prefix for key in held for prefix in prefixes_of(key, probed)}, key=lambda p: (len(p), p))
    return {prefix: _missing(prefix, moving.values(), held) for prefix in prefixes}


def _copies(
    weight_map: WeightMap, complete: list[str], held: Mapping[str, Shape | None], direction: Direction
) -> list[str]:
    """Those of the places, all with every name that moves, that hold the model or a copy of it.

    Where all entries are, and where all parameters are and nothing else of any size is as good: averages of a model
    lack its buffers, old checkpoints some of them. Where such a place is, one with less or more is another model's.

    Raises:
        CheckpointError: it can't be told of one.
    """
    names = {entry.name for entry in weight_map.entries}
    parameters = set(weight_map.parameters) or names
    lacking = {prefix: _missing(prefix, weight_map.entries, held) for prefix in complete}
    whole = [prefix for prefix in complete if not lacking[prefix]]
    all_trained = [prefix for prefix in complete if parameters.isdisjoint(lacking[prefix])]
    deeper = set() if whole else {prefix + name for prefix in complete for name in names}
    beside = {
        prefix: [k for k in held if k.startswith(prefix) and k.removeprefix(prefix) not in names and k not in deeper]
        for prefix in all_trained
    }
    copies = [
        prefix for prefix in all_trained if prefix in whole or all(held[key] in SCALARS for key in beside[prefix])
    ]
    if len(complete) == 1 or copies == complete:
        return complete
    fitting = [prefix for prefix in complete if prefix in copies or fits(prefix, weight_map, held, direction)]
    doubtful = [prefix for prefix in fitting if prefix not in copies and (prefix in all_trained or not copies)]
    alike = not copies and all(lacking[prefix] == lacking[doubtful[0]] for prefix in doubtful)
    if doubtful and not alike:
        raise _can_not_be_told(weight_map, doubtful[0], lacking[doubtful[0]], beside.get(doubtful[0], []))
    return copies or doubtful or complete[:1]


SCALARS: tuple[Shape, ...] = ((), (1,))
"""The shapes of a decay or a count of updates, as stand beside averages."""


def fits(prefix: str, weight_map: WeightMap, held: Mapping[str, Shape | None], direction: Direction) -> bool:
    """Whether all that moves has the shape there that it moves from, as far as shapes are known."""
    shapes = (
        (held.get(prefix + entry.name), entry.shapes(direction)[0]) for entry in weight_map.entries if entry.moves
    )
    return all(shape is None or shape == before for shape, before in shapes)


def _can_not_be_told(
    weight_map: WeightMap, prefix: str, lacking: Sequence[str], beside: Sequence[str]
) -> CheckpointError:
    seen = [f"lacks {some_of([prefix + name for name in lacking], ', ', 'entries')}"] if lacking else []
    seen += [f"has {some_of(beside, ', ', 'entries')} beside"] if beside else []
    return CheckpointError(
        f"whether what stands under {prefix!r} is {weight_map.model} can't be told: it has all that moves, and "
        f"{' and '.join(seen)}, unlike another place that has all; move each by itself, in a dict or file of its own"
    )


def prefixes_of(key: str, names: Collection[str]) -> Iterator[str]:
    """What stands in a key before one of the names, for each that it ends in: "" where it is one."""
    at = 0
    while True:
        if key[at:] in names:
            yield key[:at]
        at = key.find(".", at) + 1
        if not at:
            return


def _missing(prefix: str, entries: Collection[Entry], held: Collection[str]) -> list[str]:
    """The entries that are not there, under a name of their own or of the one that they are tied to."""
    there = {entry.tied_to or entry.name for entry in entries if prefix + entry.name in held}
    return [entry.name for entry in entries if (entry.tied_to or entry.name) not in there]
