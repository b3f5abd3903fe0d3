"""How every state_dict entry moves between the original and the converted model: by one axis, under its own name.

Knows names and shapes alone: torch is imported only where a state of tensors is moved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import convsurgeon
from convsurgeon.axis import UnitAxis
from convsurgeon.errors import CheckpointError
from convsurgeon.files import write_text

if TYPE_CHECKING:
    import torch
    from torch import nn

Direction = Literal["2d", "1d"]
"""Where a checkpoint goes: from the original to the converted model ("2d"), or back ("1d")."""

_FORMAT, _VERSION = "convsurgeon weight map", 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One state_dict entry: its shape in the original and in the converted model (the same where it doesn't move).

    `tied_to` is the first entry that is the same tensor, "" if it is that one: some checkpoints hold only one of them.
    `baked`: an exact rewrite changed it further, or code of the model's own makes it, so that it can't be moved.
    """

    name: str
    shape_1d: tuple[int, ...]
    shape_2d: tuple[int, ...]
    dtype: str
    tied_to: str = ""
    baked: bool = False

    @property
    def moves(self) -> bool:
        return self.shape_1d != self.shape_2d

    def shapes(self, direction: Direction) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Its shape before and after it has moved in that direction."""
        return (self.shape_1d, self.shape_2d) if direction == "2d" else (self.shape_2d, self.shape_1d)


@dataclass(frozen=True, slots=True)
class WeightMap:
    """Every state_dict entry, in order, and the names of the parameters in the order of ``model.parameters()``.

    `to_2d` and `to_1d` are exact inverses: an axis of size 1 is inserted or removed, as a view; no number changes.
    `model` is the name of the model's class, `versions` those of the packages that the map was made with.
    """

    model: str
    unit_axis: Literal[-2, -1]
    entries: tuple[Entry, ...]
    parameters: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, original: nn.Module, moved: tuple[str, ...], unit_axis: Literal[-2, -1]) -> WeightMap:
        """The map of a model whose tensors under the qualified names `moved` gain the unit axis."""
        from convsurgeon.weights.making import map_of_module

        return map_of_module(original, moved, unit_axis)

    @classmethod
    def between(
        cls,
        state_1d: Mapping[str, torch.Tensor],
        state_2d: Mapping[str, torch.Tensor],
        unit_axis: Literal[-2, -1] | None = None,
    ) -> WeightMap:
        """The map between two state_dicts, of the original and of its conversion, of which only the shapes are read.

        Without `unit_axis` the shapes tell it. Such a map doesn't know which entries are parameters.

        Raises:
            CheckpointError: they don't differ by unit axes alone, or the shapes fit either unit axis.
        """
        from convsurgeon.weights.making import map_between

        return map_between(state_1d, state_2d, unit_axis)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and shapes of all entries, in hexadecimal."""
        lines = (f"{one.name} {one.shape_1d} {one.shape_2d}\n" for one in self.entries)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_2d(self, state_dict: T) -> T:
        """State of the original as state of the converted model.

        Takes a state_dict, an optimizer's or an EMA's, or a checkpoint that nests such; names may carry a prefix
        (``module.``). Numbers are shared with what came in, nothing in it changes.

        Raises:
            CheckpointError: entries are missing or have other shapes; says which.
        """
        return self.move(state_dict, "2d")

    def to_1d(self, state_dict: T) -> T:
        """State of the converted model as state of the original: the inverse of `to_2d`.

        Raises:
            CheckpointError: entries are missing or have other shapes; says which.
        """
        return self.move(state_dict, "1d")

    def move(self, state_dict: T, direction: Direction) -> T:
        """`to_2d` or `to_1d`."""
        from convsurgeon.weights.state import moved_state

        self.require_unbaked()
        return moved_state(self, state_dict, direction)

    def move_optimizer(self, optimizer: torch.optim.Optimizer, module: nn.Module) -> torch.optim.Optimizer:
        """An optimizer like `optimizer`, which was built over the original, over the parameters of `module`.

        Its parameter groups and their options keep their order, its state (momenta, step counts) moves with the
        parameters and owns its memory. Hooks and schedulers stay with `optimizer`.

        Raises:
            CheckpointError: which parameter is which can't be told; says what can be done.
        """
        from convsurgeon.weights.optimizers import moved_optimizer

        self.require_unbaked()
        return moved_optimizer(self, optimizer, module)

    def with_baked(self, names: Collection[str]) -> WeightMap:
        """The same map, in which entries of these names are baked."""
        from convsurgeon.weights.placement import bare_name

        bare = {*names, *map(bare_name, names)}
        return replace(self, entries=tuple(replace(e, baked=e.baked or e.name in bare) for e in self.entries))

    def require_unbaked(self) -> None:
        """Raise if states can't be moved, because exact rewrites have baked weights, or a hook makes entries of them.

        Raises:
            CheckpointError: says which, and what to do instead.
        """
        from convsurgeon.weights.placement import some_of

        baked = [entry.name for entry in self.entries if entry.baked]
        if baked:
            raise CheckpointError(
                f"exact rewrites, or code of the model's own that makes its state_dict, have baked {len(baked)} of "
                f"{len(self.entries)} entries ({some_of(baked, ', ', 'entries', 3)}), which no state fits by moving "
                "axes alone; load the state into the original and convert that again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as JSON, to a temporary name first, so that a failure leaves what was there."""
        head = {"format": _FORMAT, "version": _VERSION, "fingerprint": self.fingerprint}
        write_text(path, json.dumps({**head, **asdict(self)}, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightMap:
        """Read a map that `save` wrote.

        Raises:
            CheckpointError: the file is not such a map.
            OSError: it can't be read.
        """
        from convsurgeon.checkpoints.strict_json import read_object

        data = Path(path).read_bytes()
        try:
            content = read_object(data)
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            axis = content["unit_axis"]
            entries = tuple(map(_entry, content["entries"]))
            if axis not in (-2, -1) or any(
                e.moves and e.shape_2d != UnitAxis(axis).lifted_shape(e.shape_1d) for e in entries
            ):
                raise ValueError("a shape that doesn't follow from the unit axis")
            versions = {str(name): str(version) for name, version in dict(content["versions"]).items()}
            found = cls(str(content["model"]), axis, entries, tuple(map(str, content["parameters"])), versions)
            if found.fingerprint != content["fingerprint"]:
                raise ValueError("names or shapes have been changed since it was written")
            return found
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is not a weight map: {type(error).__name__}: {error}; expected what WeightMap.save wrote, "
                f"format {_FORMAT!r} version {_VERSION}"
            ) from error

    def __str__(self) -> str:
        moving = [entry for entry in self.entries if entry.moves]
        lines = [f"{len(moving)} of {len(self.entries)} state_dict entries gain an axis"]
        lines += [f"  {entry.name}: {list(entry.shape_1d)} -> {list(entry.shape_2d)}" for entry in moving]
        return "\n".join(lines)


def _entry(content: Mapping[str, Any]) -> Entry:
    one, two = (tuple(map(int, content[name])) for name in ("shape_1d", "shape_2d"))
    tied_to, baked = str(content["tied_to"]), bool(content.get("baked", False))
    return Entry(str(content["name"]), one, two, str(content["dtype"]), tied_to, baked)


def versions_of(packages: Iterable[str] = ("torch",)) -> dict[str, str]:
    """The versions of convsurgeon and of installed packages."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"convsurgeon": convsurgeon.__version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
