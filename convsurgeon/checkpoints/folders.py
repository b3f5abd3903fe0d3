"""Files with weights and folders of them: shards of one state with their index, what a trainer writes side by side.

Every file that holds something of the model is converted, every other is copied as it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from convsurgeon.checkpoints.location import Location
from convsurgeon.checkpoints.safetensors_files import (
    Index,
    copy_file,
    read_index,
    require_complete,
    shapes_of,
    write_moved,
)
from convsurgeon.weights.placement import Shape, moved_shapes
from convsurgeon.weights.weight_map import Direction, WeightMap

_SAFETENSORS = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""How files begin that torch.save wrote, since 1.6 and before."""

_INDEXES = tuple(f"{ending}.index.json" for ending in (_SAFETENSORS, *_PICKLES))
_WITHOUT_WEIGHTS = ("training_args.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""What the Trainer of `transformers` writes beside weights: pickles with code, which are copied and never read."""


@dataclass
class Files:
    """Converts files one by one, and keeps what has been done. `done` is told of bytes."""

    weight_map: WeightMap
    direction: Direction
    trust: bool
    partial: bool
    done: Callable[[int], None]
    tensors: int = 0
    moved: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)

    def folder(self, source: Location, target: Location) -> None:
        """Convert everything in a folder into another, which exists.

        Raises:
            CheckpointError: a file can't be read, or its entries don't fit; says which.
            OSError: one can't be read or written.
        """
        names = source.files()
        left = [name for name in names if "/" not in name]
        for name in [name for name in left if name.endswith(_INDEXES)]:
            index = read_index(source.inside(name))
            self._shards(name, index, source, target)
            left = [one for one in left if one not in (name, *index.shards)]
        for name in left:
            self._file(source.inside(name), target.inside(name))
        for name in sorted({name.partition("/")[0] for name in names if "/" in name}):
            self._subfolder(source.inside(name), target.inside(name), distributed=f"{name}/.metadata" in names)

    def single(self, source: Location, target: Location) -> None:
        """Convert one file, told by how it begins.

        Raises:
            CheckpointError: it can't be read, or its entries don't fit; says which.
            OSError: it can't be read or written.
        """
        if source.name.endswith(_SAFETENSORS) or not _is_torchs(source):
            self._safetensors({source: target})
        elif not self._torch_file(source, target) and not any(entry.moves for entry in self.weight_map.entries):
            self._copy(source, target)

    def _subfolder(self, source: Location, target: Location, *, distributed: bool) -> None:
        if not distributed:
            target.filesystem.makedirs(target.path)
            self.folder(source, target)
            return
        from convsurgeon.checkpoints.distributed import convert_distributed

        moved = convert_distributed(
            source, target, self.weight_map, self.direction, overwrite=False, partial=self.partial, progress=None
        )
        self.tensors += moved.tensors
        self.moved += moved.moved

    def _file(self, source: Location, target: Location) -> None:
        """Convert one file of a folder, told by its name; others than torch's have such names too."""
        if source.name.endswith(_SAFETENSORS):
            self._safetensors({source: target})
        elif not _may_hold_weights(source.name) or not _is_torchs(source) or not self._torch_file(source, target):
            self._copy(source, target)

    def _torch_file(self, source: Location, target: Location, known: Collection[str] | None = None) -> bool:
        """Convert what torch.save wrote, if anything in it moves; in a shard, the keys that do are `known`."""
        from convsurgeon.checkpoints.torch_files import move_torch_file  # torch takes a second to import
        from convsurgeon.weights.state import Mover

        mover = Mover(self.weight_map, self.direction, known, partial=self.partial)
        if not move_torch_file(source, target, mover, trust=self.trust):
            return False
        self.tensors += mover.tensors
        self.moved += mover.moved
        self.done(source.size())
        return True

    def _shards(self, name: str, index: Index, source: Location, target: Location) -> None:
        """Convert the files that an index names, which hold one state together."""
        places = {source.inside(one): target.inside(one) for one in index.shards}
        if name.endswith(_INDEXES[0]):
            self._safetensors(places, index)
        else:
            self._torch_shards(places, index)
        self._copy(source.inside(name), target.inside(name))

    def _safetensors(self, places: Mapping[Location, Location], index: Index | None = None) -> None:
        """Convert files that hold one state together, as their `index` says, if they have one."""
        headers = {source: shapes_of(source) for source in places}
        if index is not None:
            require_complete(index, {source.name: header.shapes.keys() for source, header in headers.items()})
        shapes = {key: shape for one in headers.values() for key, shape in one.shapes.items()}
        moved = moved_shapes(self.weight_map, shapes, self.direction, partial=self.partial)
        for source, target in places.items():
            write_moved(source, headers[source], target, moved, self.done)
        self._count(shapes, moved)

    def _torch_shards(self, places: Mapping[Location, Location], index: Index) -> None:
        """Likewise, for what torch.save wrote."""
        from convsurgeon.checkpoints.torch_files import shapes_in

        held = {source: shapes_in(source, trust=self.trust) for source in places}
        require_complete(index, {source.name: one.keys() for source, one in held.items()})
        shapes = {key: shape for one in held.values() for key, shape in one.items()}
        moved = moved_shapes(self.weight_map, shapes, self.direction, partial=self.partial)
        for source, target in places.items():
            self._torch_file(source, target, moved)

    def _count(self, shapes: Mapping[str, Shape], moved: Mapping[str, Shape]) -> None:
        self.tensors += len(shapes)
        self.moved += moved

    def _copy(self, source: Location, target: Location) -> None:
        copy_file(source, target, self.done)
        self.copied.append(source.name)


def _is_torchs(source: Location) -> bool:
    """Whether a file begins as those do that torch.save wrote."""
    with source.open("rb") as file:
        return bool(file.read(len(ZIP)).startswith((ZIP, PICKLE)))


def _may_hold_weights(name: str) -> bool:
    return name.endswith(_PICKLES) and not any(fnmatch.fnmatch(name, one) for one in _WITHOUT_WEIGHTS)
