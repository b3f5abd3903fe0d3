"""Converts folders of ``torch.distributed.checkpoint`` without gathering a tensor: every stored chunk moves by itself.

Alone, or in every process of the default group at once, which share the chunks among them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from convsurgeon.checkpoints import Moved, Progress
from convsurgeon.checkpoints.distributed.metadata import METADATA
from convsurgeon.checkpoints.distributed.saving import CHUNKS, ChunkPlanner, ChunkWriter, rank_and_count
from convsurgeon.checkpoints.location import Location, new_folder
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.weight_map import Direction, WeightMap

T = TypeVar("T")


def is_distributed(source: Location) -> bool:
    """Whether this is a folder that ``torch.distributed.checkpoint`` wrote."""
    return source.is_folder() and source.inside(METADATA).exists()


def convert_distributed(
    source: Location,
    target: Location,
    weight_map: WeightMap,
    direction: Direction,
    *,
    overwrite: bool,
    progress: Progress | None,
    partial: bool = False,
) -> Moved:
    """Write the folder `target` with what `source` holds, moved; where a process group is initialised, together.

    What belongs to the model moves, and so does optimizer state that has the shape of a parameter that moves. The rest
    is copied: of a tensor that doesn't move, and of any other object, the bytes as they are, which are never unpickled.
    Each process holds one chunk at a time, as bytes and as a tensor. `progress` is told of the bytes that it reads.
    With `partial`, weights of the model may be missing.

    Raises:
        CheckpointError: the source is broken or doesn't fit the map, or the target exists; says which. Every process
            raises where one does.
        OSError: something can't be read or written.
    """
    planner = ChunkPlanner(source, weight_map, direction, partial, progress)
    with _one_folder(target, overwrite=overwrite) as folder:
        _save(planner, ChunkWriter(folder, target))
        copied = _by_first(lambda: _copy_others(source, folder, planner.chunks.files))
    return Moved("distributed", str(target), direction, planner.chunks.tensors, tuple(planner.chunks.moved), copied)


@contextmanager
def _one_folder(target: Location, *, overwrite: bool) -> Iterator[Location]:
    """`new_folder`, which the first process makes, renames and removes for all."""
    with ExitStack() as stack:
        path = _by_first(lambda: stack.enter_context(new_folder(target, overwrite=overwrite)).path)
        yield Location(target.filesystem, path)
        _by_first(stack.close)


def _by_first(step: Callable[[], T]) -> T:
    """What the first process makes of a step, which all of them wait for.

    Raises:
        CheckpointError: it failed in the first process, which raises its own error.
    """
    rank, count = rank_and_count()
    if count == 1:
        return step()
    told: list[Any] = [False, None]
    try:
        if rank == 0:
            told = [True, step()]
    finally:  # whatever happened, the others wait to hear of it
        dist.broadcast_object_list(told, src=0)
    done, result = told
    if not done:
        raise CheckpointError("rank 0 could not make the target; its own error says why")
    made: T = result
    return made


def _save(planner: ChunkPlanner, writer: ChunkWriter) -> None:
    with warnings.catch_warnings():
        # one process alone is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        try:
            save({}, storage_writer=writer, planner=planner)
        except CheckpointException as failed:  # holds the errors of all processes, and is no Exception
            error, _ = failed.failures[min(failed.failures)]
            raise error from failed


def _copy_others(source: Location, target: Location, known: Collection[str]) -> tuple[str, ...]:
    """Copy what else is in the folder; chunks that the metadata don't name are left over from an earlier save."""
    names = [name for name in source.files() if name not in known and not name.startswith(METADATA)]
    names = [name for name in names if "/" in name or not name.endswith(CHUNKS)]
    for name in names:
        place = target.inside(name)
        place.filesystem.makedirs(place.path.rpartition("/")[0], exist_ok=True)
        with source.inside(name).open("rb") as read, place.open("wb") as written:
            shutil.copyfileobj(read, written)
    return tuple(names)
