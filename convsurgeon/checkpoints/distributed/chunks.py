"""Decides what becomes of each stored chunk of a distributed checkpoint, from its metadata alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from convsurgeon.axis import UnitAxis
from convsurgeon.checkpoints.distributed.metadata import indices_of, read_metadata, require_files
from convsurgeon.checkpoints.distributed.slots import FlatState, moved_slots
from convsurgeon.checkpoints.location import Location
from convsurgeon.weights.placement import Shape, moved_shapes, nothing_found
from convsurgeon.weights.weight_map import Direction, WeightMap


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a checkpoint, and of the one that it becomes.

    `moved` are the new shapes of the tensors that move, `written` the new metadata, `origins` says which stored chunk
    each new one comes from, and `places` where that is stored.
    """

    tensors: int
    moved: dict[str, Shape]
    written: Metadata
    origins: dict[MetadataIndex, MetadataIndex]
    places: dict[MetadataIndex, _StorageInfo]

    @property
    def files(self) -> frozenset[str]:
        return frozenset(place.relative_path for place in self.places.values())

    def size(self, index: MetadataIndex) -> int:
        """In how many bytes the origin of a new chunk is stored."""
        return self.places[self.origins[index]].length

    def sizes(self, index: MetadataIndex) -> torch.Size | None:
        """The shape of a new chunk of a tensor."""
        storage = self.written.state_dict_metadata[index.fqn]
        if not isinstance(storage, TensorStorageMetadata) or index.index is None:
            return None
        return storage.chunks[index.index].sizes

    def share(self, rank: int, count: int) -> list[MetadataIndex]:
        """The new chunks of one of several processes: as many bytes as any other has, as they stand in the files."""
        places = [(self.places[origin], index) for index, origin in self.origins.items()]
        places.sort(key=lambda pair: (pair[0].relative_path, pair[0].offset))
        whole, before = max(1, sum(place.length for place, _ in places)), 0
        mine: list[MetadataIndex] = []
        for place, index in places:
            if min(before * count // whole, count - 1) == rank:
                mine.append(index)
            before += place.length
        return mine


def read_chunks(source: Location, weight_map: WeightMap, direction: Direction, *, partial: bool) -> Chunks:
    """What the metadata say, and what it becomes. With `partial`, entries of the map may be missing.

    Raises:
        CheckpointError: the metadata are broken, files are missing, or entries don't fit the map; says which.
        OSError: something can't be read.
    """
    read = read_metadata(source)
    require_files(source, read)
    shapes = {
        key: tuple(storage.size)
        for key, storage in read.state_dict_metadata.items()
        if isinstance(storage, TensorStorageMetadata)
    }
    moved = moved_shapes(weight_map, shapes, direction, partial=partial)
    moved |= moved_slots(FlatState(weight_map, direction, read.planner_data or {}, shapes, moved))
    if not moved and any(entry.moves for entry in weight_map.entries):
        raise nothing_found(weight_map, source)
    storages: dict[str, STORAGE_TYPES] = {}
    origins: dict[MetadataIndex, MetadataIndex] = {}
    for key, storage in read.state_dict_metadata.items():
        old = new = storage
        if key in moved and isinstance(storage, TensorStorageMetadata):
            old, new = _pair(storage, UnitAxis(weight_map.unit_axis), direction)
        storages[key] = new
        origins.update(zip(indices_of(key, new), indices_of(key, old), strict=True))
    in_order = {key: moved[key] for key in shapes if key in moved}
    written = Metadata(storages, planner_data=read.planner_data)
    return Chunks(len(shapes), in_order, written, origins, read.storage_data)


def _pair(
    storage: TensorStorageMetadata, axis: UnitAxis, direction: Direction
) -> tuple[TensorStorageMetadata, TensorStorageMetadata]:
    """A tensor's chunks, and the same moved. Where the unit axis itself is sharded, all but one are empty: left out."""
    lift = direction == "2d"
    shape = axis.lifted_shape if lift else axis.lowered_shape
    offsets = axis.lifted_offsets if lift else axis.lowered_shape
    chunks = [one for one in storage.chunks if lift or axis.lifted_shape(shape(one.sizes)) == tuple(one.sizes)]
    moved = [ChunkStorageMetadata(torch.Size(offsets(one.offsets)), torch.Size(shape(one.sizes))) for one in chunks]
    return replace(storage, chunks=chunks), replace(storage, size=torch.Size(shape(storage.size)), chunks=moved)
