"""Converts checkpoints on disk: weights move between the original's form and the converted model's, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from convsurgeon.checkpoints.location import Location, Where, new_file, new_folder, require_apart
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import nothing_found, some_of
from convsurgeon.weights.weight_map import Direction, WeightMap

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done: the layout that was found, how many tensors there are, which moved, which files were copied."""

    layout: Literal["file", "folder", "distributed"]
    target: str
    direction: Direction
    tensors: int
    moved: tuple[str, ...]
    copied: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.moved)} of {self.tensors} tensors moved to {self.direction.upper()}: {self.target}"]
        lines += [f"  {some_of(self.moved, ', ', 'tensors')}"] if self.moved else []
        lines += [f"  copied as they are: {some_of(self.copied, ', ', 'files')}"] if self.copied else []
        return "\n".join(lines)


def convert_checkpoint(
    source: Where,
    target: Where,
    weight_map: WeightMap | Where,
    direction: Direction = "2d",
    *,
    overwrite: bool = False,
    trust: bool = False,
    partial: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Move the weights of a checkpoint to the shapes of the converted model ("2d"), or back ("1d"): exactly.

    Source and target are paths, or URLs that fsspec knows: a safetensors file, of which only the header is rewritten; a
    file that torch.save wrote, with states nested in it and optimizers beside them (Lightning's, for one); a folder of
    such files, sharded or not, with whatever else is in it (a Trainer's); or a folder of
    ``torch.distributed.checkpoint``, alone or with every process of a group. The target appears when it is whole.

    Args:
        source: what to read; it isn't changed.
        target: the file or folder to write.
        weight_map: the map of the conversion, or the file that it was saved to.
        direction: "2d" from the original's shapes to the converted model's, "1d" back.
        overwrite: replace what is at the target.
        trust: load pickled objects that aren't weights, which runs their code.
        partial: weights of the model may be missing, as fixed filters are that a checkpoint leaves out.
        progress: told how many bytes of how many are done.

    Raises:
        CheckpointError: the source is broken, holds code and isn't trusted, doesn't fit the map, or the target exists.
        OSError: something can't be read or written.
        ValueError: a wrong argument.
    """
    if direction not in ("2d", "1d"):
        raise ValueError(f"direction is {direction!r}; accepted: '2d', '1d'")
    held = weight_map if isinstance(weight_map, WeightMap) else WeightMap.load(weight_map)
    held.require_unbaked()
    here, there = Location.of(source), Location.of(target)
    if not here.exists():
        raise CheckpointError(f"{here} doesn't exist")
    if here.holds(there):
        raise ValueError(f"target is {os.fspath(target)!r}, which is the source or inside it; write elsewhere")
    require_apart(there, here, *([] if isinstance(weight_map, WeightMap) else [Location.of(weight_map)]))
    if here.is_folder() and here.inside(".metadata").exists():
        from convsurgeon.checkpoints.distributed import convert_distributed

        return convert_distributed(
            here, there, held, direction, overwrite=overwrite, partial=partial, progress=progress
        )
    if _processes() > 1:
        raise CheckpointError(
            f"{here} is no folder of torch.distributed.checkpoint, which several processes share; convert it in one"
        )
    from convsurgeon.checkpoints.folders import Files

    is_folder = here.is_folder()
    total = sum(here.inside(name).size() for name in here.files()) if is_folder else here.size()
    files = Files(held, direction, trust, partial, _counter(progress, total))
    with (new_folder if is_folder else new_file)(there, overwrite=overwrite) as temporary:
        convert = files.folder if is_folder else files.single
        convert(here, temporary)
        if not files.moved and any(entry.moves for entry in held.entries):
            raise nothing_found(held, here)
    layout: Literal["file", "folder"] = "folder" if is_folder else "file"
    return Moved(layout, os.fspath(target), direction, files.tensors, tuple(files.moved), tuple(files.copied))


def _processes() -> int:
    """How many take part in the default group, if there is one; without torch there is none."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Told of bytes as they are done, tells `progress` of all so far."""
    sofar = 0

    def count(more: int) -> None:
        nonlocal sofar
        sofar += more
        if progress is not None:
            progress(sofar, total)

    return count
