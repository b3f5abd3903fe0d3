"""How every state_dict entry moves between the original and the converted model: by one axis, under its own name."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from convsurgeon.axis import UnitAxis
from convsurgeon.errors import CheckpointError
from convsurgeon.files import write_text

_SHAPED_SLOTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "sum"}
"""What torch's optimizers keep in the shape of the parameter."""

_FORMAT, _VERSION = "convsurgeon weight map", 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One state_dict entry: its shape in the original and in the converted model (the same where it doesn't move)."""

    name: str
    shape_1d: tuple[int, ...]
    shape_2d: tuple[int, ...]
    dtype: str

    @property
    def moves(self) -> bool:
        return self.shape_1d != self.shape_2d


@dataclass(frozen=True, slots=True)
class WeightMap:
    """Every state_dict entry, in order, and the names of the parameters in the order of ``model.parameters()``.

    `to_2d` and `to_1d` are exact inverses: an axis of size 1 is inserted or removed, as a view; no number changes.
    """

    model: str
    unit_axis: Literal[-2, -1]
    entries: tuple[Entry, ...]
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, original: nn.Module, moved: tuple[str, ...], unit_axis: Literal[-2, -1]) -> WeightMap:
        """The map of a model whose tensors under the qualified names `moved` gain the unit axis."""
        state = nn.Module.state_dict(original, keep_vars=True)
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        ids = {id(tensors[name]) for name in moved if name in tensors}
        axis = UnitAxis(unit_axis)
        entries = tuple(
            Entry(
                name,
                tuple(value.shape),
                axis.lifted_shape(value.shape) if id(value) in ids else tuple(value.shape),
                str(value.dtype).removeprefix("torch."),
            )
            for name, value in tensors.items()
        )
        return cls(type(original).__name__, unit_axis, entries, tuple(name for name, _ in original.named_parameters()))

    def to_2d(self, state_dict: T) -> T:
        """State of the original as state of the converted model.

        Takes a state_dict, an optimizer's or an EMA's, or a checkpoint that nests such; names may carry a prefix
        (``module.``). Numbers are shared with what came in, nothing in it changes.

        Raises:
            CheckpointError: entries are missing or have other shapes; says which.
        """
        return self._move(state_dict, "2d")

    def to_1d(self, state_dict: T) -> T:
        """State of the converted model as state of the original: the inverse of `to_2d`.

        Raises:
            CheckpointError: entries are missing or have other shapes; says which.
        """
        return self._move(state_dict, "1d")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as JSON, to a temporary name first, so that a failure leaves what was there."""
        write_text(path, json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightMap:
        """Read a map that `save` wrote.

        Raises:
            CheckpointError: the file is not such a map.
            OSError: it can't be read.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            entries = tuple(
                Entry(str(e["name"]), tuple(map(int, e["shape_1d"])), tuple(map(int, e["shape_2d"])), str(e["dtype"]))
                for e in content["entries"]
            )
            axis = content["unit_axis"]
            if axis not in (-2, -1) or any(
                e.moves and e.shape_2d != UnitAxis(axis).lifted_shape(e.shape_1d) for e in entries
            ):
                raise ValueError("a shape that doesn't follow from the unit axis")
            return cls(str(content["model"]), axis, entries, tuple(map(str, content["parameters"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is not a weight map: {type(error).__name__}: {error}; expected what WeightMap.save wrote, "
                f"format {_FORMAT!r} version {_VERSION}"
            ) from error

    def _move(self, state: T, to: Literal["1d", "2d"]) -> T:
        mover = _Mover(self, to)
        result = mover.any(state)
        if not mover.found and any(entry.moves for entry in self.entries):
            first = next(entry.name for entry in self.entries if entry.moves)
            raise CheckpointError(f"nothing here belongs to {self.model}: no entry {first!r}, with or without a prefix")
        return result  # type: ignore[no-any-return]

    def __str__(self) -> str:
        moving = [entry for entry in self.entries if entry.moves]
        lines = [f"{len(moving)} of {len(self.entries)} state_dict entries gain an axis"]
        lines += [f"  {entry.name}: {list(entry.shape_1d)} -> {list(entry.shape_2d)}" for entry in moving]
        return "\n".join(lines)


class _Mover:
    """One pass over a checkpoint, in one direction."""

    def __init__(self, weight_map: WeightMap, to: Literal["1d", "2d"]) -> None:
        self.found = False
        self._map = weight_map
        self._to = to
        self._moving = {entry.name: entry for entry in weight_map.entries if entry.moves}

    def any(self, state: Any) -> Any:
        """What `state` becomes: optimizer and model state are known by their form, anything else passes through."""
        if isinstance(state, (list, tuple)) and type(state) in (list, tuple):
            return type(state)(self.any(value) for value in state)
        if not isinstance(state, Mapping):
            return state
        if "param_groups" in state and isinstance(state.get("state"), Mapping):
            return self._optimizer(state)
        prefixes = self._prefixes(state)
        if not prefixes:
            return _like(state, ((key, self.any(value)) for key, value in state.items()))
        ours = {prefix + name: name for prefix in prefixes for name in self._moving}
        return _like(state, ((k, self._tensor(k, ours[k], v) if k in ours else self.any(v)) for k, v in state.items()))

    def _prefixes(self, state: Mapping[Any, Any]) -> list[str]:
        """What stands before our names in this dict: where all of them do, else where all that move do.

        Raises:
            CheckpointError: some that move are there, and others aren't.
        """
        first = next(iter(self._moving), None)
        if first is None:
            return []
        held = {key for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        prefixes = sorted((key.removesuffix(first) for key in held if f".{key}".endswith(f".{first}")), key=len)
        whole = [p for p in prefixes if all(p + entry.name in held for entry in self._map.entries)]
        moving = [p for p in prefixes if all(p + name in held for name in self._moving)]
        if prefixes and not moving:
            missing = [prefixes[0] + name for name in self._moving if prefixes[0] + name not in held]
            raise CheckpointError(
                f"{len(missing)} of the {len(self._moving)} entries that move are missing: "
                f"{', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}"
            )
        return whole or moving[:1]

    def _tensor(self, key: str, name: str, value: Any) -> Any:
        entry = self._moving[name]
        self.found = True
        expected = entry.shape_1d if self._to == "2d" else entry.shape_2d
        if tuple(value.shape) != expected:
            raise CheckpointError(
                f"{key!r} has shape {list(value.shape)}; expected {list(expected)} to go to {self._to}"
            )
        axis = UnitAxis(self._map.unit_axis)
        return axis.lift(value) if self._to == "2d" else axis.lower(value)

    def _optimizer(self, state: Mapping[str, Any]) -> Any:
        names = dict(self._parameter_names(state["param_groups"]))
        moved = {index: self._slots(names.get(index, ""), slots) for index, slots in state["state"].items()}
        self.found = True
        return _like(state, ((key, moved if key == "state" else value) for key, value in state.items()))

    def _slots(self, name: str, slots: Any) -> Any:
        """Per-parameter state: what has the parameter's shape moves with it, step counts and the like don't."""
        entry = next((entry for entry in self._map.entries if entry.name == name), None)
        if entry is None or not isinstance(slots, Mapping):
            return slots
        here = entry.shape_1d if self._to == "2d" else entry.shape_2d
        for slot in _SHAPED_SLOTS & set(slots):
            if isinstance(slots[slot], torch.Tensor) and tuple(slots[slot].shape) != here:
                raise CheckpointError(
                    f"the optimizer's {slot} for {name!r} has shape {list(slots[slot].shape)}; expected {list(here)}: "
                    "its parameters are in another order than the model's; build it over model.named_parameters()"
                )
        return {
            slot: self._tensor(f"{name}.{slot}", name, value)
            if entry.moves and isinstance(value, torch.Tensor) and tuple(value.shape) == here
            else value
            for slot, value in slots.items()
        }

    def _parameter_names(self, groups: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
        """(index, name) of every parameter of an optimizer: by its own ``param_names``, else in the model's order."""
        indices = [index for group in groups for index in group["params"]]
        if all("param_names" in group for group in groups):
            names = [name for group in groups for name in group["param_names"]]
        elif len(groups) == 1 and len(indices) == len(self._map.parameters):
            names = list(self._map.parameters)
        else:
            raise CheckpointError(
                f"the optimizer holds {len(indices)} parameters in {len(groups)} group(s) and {self._map.model} has "
                f"{len(self._map.parameters)}, so which is which can't be told; build the optimizer over "
                "model.named_parameters(), so that it saves names"
            )
        yield from zip(indices, names, strict=True)


def _like(state: Mapping[Any, Any], items: Iterator[tuple[Any, Any]]) -> Any:
    """A mapping of the same class with these items, and the ``_metadata`` that state_dict() hangs on."""
    if not isinstance(state, dict):
        return dict(items)
    result = copy.copy(state)
    result.update(items)
    return result
