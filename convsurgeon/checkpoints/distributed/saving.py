"""How ``torch.distributed.checkpoint.save`` moves chunks: a planner that reads each on demand, and a writer of each."""

from __future__ import annotations

import io
import pickle
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter  # torch has them nowhere else
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from convsurgeon.axis import UnitAxis
from convsurgeon.checkpoints import Progress
from convsurgeon.checkpoints.distributed.chunks import Chunks, read_chunks
from convsurgeon.checkpoints.location import Location
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.weight_map import Direction, WeightMap

CHUNKS = ".distcp"
"""How the names of the files end that hold chunks."""


def rank_and_count() -> tuple[int, int]:
    """Which process of the default group this is, and of how many; the first of one where there is no group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ChunkPlanner(SavePlanner):
    """Plans to write each chunk of a checkpoint in its new shape, every process a share of them.

    `chunks` are there once it is set up, which ``save`` does: an error there is told to every process.
    """

    chunks: Chunks

    def __init__(
        self,
        source: Location,
        weight_map: WeightMap,
        direction: Direction,
        partial: bool,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._weight_map = weight_map
        self._direction = direction
        self._partial = partial
        self._progress = progress
        self._done = self._total = 0
        self._reader = FsspecReader(_url(source), **source.filesystem.storage_options)

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        self.chunks = read_chunks(self._source, self._weight_map, self._direction, partial=self._partial)
        self._reader.set_up_storage_reader(Metadata({}, storage_data=self.chunks.places), is_coordinator)

    def create_local_plan(self) -> SavePlan:
        mine = self.chunks.share(*rank_and_count())
        self._total = sum(self.chunks.size(index) for index in mine)
        return SavePlan([WriteItem(index, _kind(index)) for index in mine])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return all_plans, self.chunks.written

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """One chunk, moved; what doesn't move, as the bytes that are stored, whatever they hold.

        Raises:
            CheckpointError: it can't be read; says where.
            OSError: likewise.
        """
        origin = self.chunks.origins[write_item.index]
        try:
            data = self._read(origin)
            result = self._moved(write_item.index, data) if origin.fqn in self.chunks.moved else data
        except ValueError as error:
            place = self._source.inside(self.chunks.places[origin].relative_path)
            raise CheckpointError(
                f"{place}: the chunk of {origin.fqn!r} at {list(origin.offset or ())} can't be read: {error}"
            ) from error
        self._done += self.chunks.size(write_item.index)
        if self._progress is not None:
            self._progress(self._done, self._total)
        return result

    def _read(self, index: MetadataIndex) -> io.BytesIO:
        taker, none = _Taker(), torch.Size()
        self._reader.read_data(LoadPlan([ReadItem(LoadItemType.BYTE_IO, index, none, index, none, none)]), taker)
        return taker.taken

    def _moved(self, index: MetadataIndex, data: io.BytesIO) -> torch.Tensor:
        loaded, axis = _tensor(data), UnitAxis(self._weight_map.unit_axis)
        moved = axis.lift(loaded) if self._direction == "2d" else axis.lower(loaded)
        if moved.shape != self.chunks.sizes(index):
            raise ValueError(f"its shape is {list(loaded.shape)}, and the metadata say otherwise")
        return moved


def _tensor(data: io.BytesIO) -> torch.Tensor:
    """The tensor that torch.save wrote.

    Raises:
        ValueError: it is broken, or something else.
    """
    try:
        loaded = torch.load(data, map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError),
        *(OverflowError, AssertionError, pickle.UnpicklingError),
    ) as error:  # a broken pickle fails at any of its steps
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(loaded, torch.Tensor):
        raise ValueError(f"it is a {type(loaded).__name__}, not a tensor")
    return loaded


class _Taker(DefaultLoadPlanner):
    """Takes what is stored in bytes as it is, where the default unpickles it."""

    taken: io.BytesIO

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.taken = value


class ChunkWriter(FsspecWriter):
    """Writes each chunk as it comes, where the base class keeps all that go into a file; one file a process."""

    def __init__(self, folder: Location, target: Location) -> None:
        super().__init__(_url(folder), sync_files=False, **folder.filesystem.storage_options)  # new_folder does
        self._target = target

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written: Future[list[WriteResult]] = Future()
        name = f"{plan.storage_data.prefix}0{CHUNKS}"
        results: list[WriteResult] = []
        if plan.items:
            with self.fs.create_stream(self.fs.concat_path(self.path, name), "wb") as file:
                for item in plan.items:
                    begin = file.tell()
                    _write(planner.resolve_data(item), cast(IO[bytes], file))
                    length = file.tell() - begin
                    results.append(WriteResult(item.index, length, _StorageInfo(name, begin, length)))
        written.set_result(results)
        return written

    def storage_meta(self) -> StorageMeta:
        """Where the checkpoint will stand, when the folder has its name."""
        return StorageMeta(checkpoint_id=str(self._target), save_id=self.save_id)


def _write(data: torch.Tensor | io.BytesIO, file: IO[bytes]) -> None:
    if isinstance(data, io.BytesIO):
        file.write(data.getbuffer())
        return
    try:
        torch.save(data, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch's writer says that it failed, and not why
            raise error.__context__ from error
        raise


def _kind(index: MetadataIndex) -> WriteItemType:
    return WriteItemType.BYTE_IO if index.offset is None else WriteItemType.SHARD


def _url(folder: Location) -> str:
    return str(folder.filesystem.unstrip_protocol(folder.path))
