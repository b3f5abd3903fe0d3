"""Reads the ``.metadata`` of a distributed checkpoint, a pickle, as data: nothing that it names is imported or run.

Every object in it is taken for a record of its class's name and its state, and the metadata are built of these records
where they have the form that ``torch.distributed.checkpoint`` gives them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo  # what every .metadata holds, so that its form is kept
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from convsurgeon.checkpoints.location import Location
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import some_of

METADATA = ".metadata"

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_NAMES = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed._shard.sharded_tensor.metadata": ("TensorProperties", "MEM_FORMAT_ENCODING"),  # of older torch
    "torch.serialization": ("_get_layout",),
    "pathlib": _PATHS,  # where it was saved
    "pathlib._local": _PATHS,  # the same, by Python 3.13
}
_FIELDS = {"state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version"}
_MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last, torch.preserve_format)


class _Record:
    """An object in the file, as the arguments and the state that it would be made of: none of its class' code runs."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Record:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


_RECORDS = {(module, name): type(name, (_Record,), {}) for module, names in _NAMES.items() for name in names}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        dtype = vars(torch).get(name) if module == "torch" else None  # getattr would import what torch imports lazily
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in _RECORDS:
            raise CheckpointError(
                f"names {module}.{name}, which is refused: reading it could run its code; accepted: what "
                f"torch.distributed.checkpoint writes, as torch {torch.__version__} knows it"
            )
        return _RECORDS[module, name]


def read_metadata(source: Location) -> Metadata:
    """The metadata of the checkpoint in a folder, without what says where and by which version it was saved.

    Raises:
        CheckpointError: they are broken, or hold something else; says what.
        OSError: they can't be read.
    """
    place = source.inside(METADATA)
    try:
        with place.open("rb") as file:
            return _metadata(_Unpickler(file).load())
    except CheckpointError as error:
        raise CheckpointError(f"{place} {error}") from None
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError),
        *(OverflowError, MemoryError, RecursionError),
    ) as error:
        raise CheckpointError(
            f"{place} is not the metadata of a distributed checkpoint, or not whole: {type(error).__name__}: {error}; "
            "accepted: what torch.distributed.checkpoint.save wrote"
        ) from error


def require_files(source: Location, metadata: Metadata) -> None:
    """See that the files that the metadata name are there, and long enough.

    Raises:
        CheckpointError: some are not; says which.
    """
    ends: dict[str, int] = {}
    for stored in metadata.storage_data.values():
        ends[stored.relative_path] = max(ends.get(stored.relative_path, 0), stored.offset + stored.length)
    missing = sorted(ends.keys() - set(source.files()))
    if missing:
        raise CheckpointError(
            f"{source}: {len(missing)} of the {len(ends)} files that {METADATA} names are missing: "
            f"{some_of(missing, ', ', 'files')}; copy the folder whole"
        )
    sizes = {name: source.inside(name).size() for name in ends}
    short = [f"{name} has {sizes[name]} of {end} bytes" for name, end in sorted(ends.items()) if sizes[name] < end]
    if short:
        raise CheckpointError(f"{source}: files are truncated: {some_of(short, ', ', 'files')}; copy the folder whole")


def _metadata(read: Any) -> Metadata:
    """What the records say.

    Raises:
        ValueError, TypeError, KeyError: they don't have the form.
    """
    fields = _state(read, "Metadata")
    if not fields.keys() <= _FIELDS:
        raise ValueError(f"it has {some_of(sorted(fields.keys() - _FIELDS), ', ', 'fields')}, unknown here")
    storages = {_of(str, key): _storage(value) for key, value in _of(dict, fields["state_dict_metadata"]).items()}
    places = {_index(key): _info(value) for key, value in _of(dict, fields["storage_data"]).items()}
    for key, storage in storages.items():
        for index in indices_of(key, storage):
            if index not in places:
                raise ValueError(f"it doesn't say where {key!r} is stored at {list(index.offset or ())}")
    return Metadata(storages, planner_data=_paths(fields.get("planner_data")), storage_data=places)


def indices_of(key: str, storage: STORAGE_TYPES) -> list[MetadataIndex]:
    """Under which keys the parts of one entry are stored: a tensor's chunks, or all of it."""
    if isinstance(storage, BytesStorageMetadata):
        return [MetadataIndex(key)]
    return [MetadataIndex(key, chunk.offsets, at) for at, chunk in enumerate(storage.chunks)]


def _state(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, _Record) or type(value).__name__ != name:
        raise ValueError(f"a {type(value).__name__} stands where a {name} should")
    fields: dict[str, Any] = _of(dict, value.state)
    return fields


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def _storage(value: Any) -> STORAGE_TYPES:
    if type(value).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    fields = _state(value, "TensorStorageMetadata")
    size = _size(fields["size"])
    chunks = [_chunk(_state(chunk, "ChunkStorageMetadata"), size) for chunk in _of(list, fields["chunks"])]
    return TensorStorageMetadata(_properties(fields["properties"]), size, chunks)


def _chunk(fields: Mapping[str, Any], size: torch.Size) -> ChunkStorageMetadata:
    offsets, sizes = _size(fields["offsets"]), _size(fields["sizes"])
    ends = [begin + length for begin, length in zip(offsets, sizes, strict=True)]
    if any(end > whole for end, whole in zip(ends, size, strict=True)):
        raise ValueError(f"a chunk of {list(sizes)} at {list(offsets)} of a tensor of {list(size)}")
    return ChunkStorageMetadata(offsets, sizes)


def _properties(value: Any) -> TensorProperties:
    if not isinstance(value, _Record) or type(value).__name__ != "TensorProperties":
        raise ValueError(f"a {type(value).__name__} stands where a TensorProperties should")
    dtype, layout, requires_grad, encoding, pinned = value.state
    (layout_name,), (memory_format,) = layout.arguments, encoding.arguments
    known = vars(torch).get(_of(str, layout_name).removeprefix("torch."))
    if not isinstance(dtype, torch.dtype) or not isinstance(known, torch.layout):
        raise ValueError(f"a tensor of {dtype} and {layout_name}")
    return TensorProperties(dtype, known, bool(requires_grad), _MEMORY_FORMATS[memory_format], bool(pinned))


def _size(value: Any) -> torch.Size:
    sizes = _of(tuple, value)
    if any(type(one) is not int or one < 0 for one in sizes):
        raise ValueError(f"{sizes} stands where sizes should")
    return torch.Size(sizes)


def _index(value: Any) -> MetadataIndex:
    fields = _state(value, "MetadataIndex")
    offset = fields.get("offset")
    return MetadataIndex(_of(str, fields["fqn"]), None if offset is None else _size(offset))


def _info(value: Any) -> _StorageInfo:
    fields = _state(value, "_StorageInfo")
    path, (offset, length) = _of(str, fields["relative_path"]), _size((fields["offset"], fields["length"]))
    if not path or re.search(r"^[/\\]|^\w:|(^|[/\\])\.\.([/\\]|$)", path):
        raise ValueError(f"it names a file outside its folder: {path!r}")
    transforms = fields.get("transform_descriptors")
    return _StorageInfo(path, offset, length, None if transforms is None else [_of(str, t) for t in transforms])


def _paths(value: Any) -> dict[str, tuple[str | int, ...]] | None:
    """What the default planner keeps: the path of each key in the state that it was flattened from."""
    if value is None:
        return None
    paths: dict[str, tuple[str | int, ...]] = {
        _of(str, key): _of(tuple, path) for key, path in _of(dict, value).items()
    }
    for path in paths.values():
        if not path or any(type(step) not in (str, int) for step in path):
            raise ValueError("the planner's data are not the paths of the keys")
    return paths
