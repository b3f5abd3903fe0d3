"""Converts safetensors files, whole or in shards: the header is written anew, the data are copied and never read.

Takes no torch.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO

from convsurgeon.checkpoints.header import Header, read_header
from convsurgeon.checkpoints.location import Location
from convsurgeon.checkpoints.strict_json import LARGEST, checking, read_object
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import some_of

_CHUNK = 64 << 20
"""Bytes that the kernel copies at a time: enough to cost nothing, and little enough to tell the progress."""
_BLOCK = 8 << 20
"""Bytes that are held at a time, where the kernel can't copy."""


@dataclass(frozen=True, slots=True)
class Index:
    """Which file each tensor of a state is in; `name` is where that was read."""

    name: str
    weight_map: Mapping[str, str]

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of the files, as they first come up."""
        return tuple(dict.fromkeys(self.weight_map.values()))


def shapes_of(location: Location) -> Header:
    """The checked header of a safetensors file: names and shapes, and where the data are.

    Raises:
        CheckpointError: it is no sound safetensors file; says where.
        OSError: it can't be read.
    """
    with location.open("rb") as file:
        return read_header(file, location.size(), str(location))


def write_moved(
    source: Location,
    header: Header,
    target: Location,
    moved: Mapping[str, tuple[int, ...]],
    done: Callable[[int], None],
) -> None:
    """Write `source`, whose header is `header`, to `target` with the new shapes `moved`; some may be of other shards.

    `done` is told of the bytes of the source as they are done: of its header, and of each chunk of data.

    Raises:
        CheckpointError: the source has become shorter, or the new header is larger than the format allows.
        OSError: it can't be read or written.
    """
    head, end = header.with_shapes(moved), header.data_begin + header.data_size
    done(header.data_begin)
    _write(head, source, header.data_begin, end, target, done)


def copy_file(source: Location, target: Location, done: Callable[[int], None]) -> None:
    """Write `source` to `target` as it is; `done` is told of the bytes of each chunk.

    Raises:
        CheckpointError: the source has become shorter.
        OSError: it can't be read or written.
    """
    _write(b"", source, 0, source.size(), target, done)


def read_index(index: Location) -> Index:
    """Read a ``*.safetensors.index.json`` or ``pytorch_model.bin.index.json``, whose shards are there beside it.

    Raises:
        CheckpointError: it is not such an index, names a file elsewhere, or one that isn't there.
        OSError: it can't be read.
    """
    if index.size() > LARGEST:
        raise CheckpointError(f"{index} has {index.size()} bytes; an index of shards has at most {LARGEST}")
    with index.open("rb") as file:
        text = file.read()
    with checking(str(index), "index of shards"):
        found = Index(str(index), _weight_map(read_object(text)))
    missing = [name for name in found.shards if not index.beside(name).exists()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(missing)} files that are not beside it: {some_of(missing, ', ', 'files')}\n"
            "  download them too"
        )
    return found


def require_complete(index: Index, held: Mapping[str, Collection[str]]) -> None:
    """Compare what the index promises with the names that each shard holds.

    Raises:
        CheckpointError: a shard lacks a tensor, or holds one that the index doesn't place there.
    """
    promised: dict[str, set[str]] = {shard: set() for shard in index.shards}
    for name, shard in index.weight_map.items():
        promised[shard].add(name)
    wrong = [
        f"{shard} {fault} {some_of(sorted(names), ', ', 'tensors')}"
        for shard in index.shards
        for fault, names in (
            ("lacks", promised[shard].difference(held[shard])),
            ("has, and the index doesn't say so,", set(held[shard]) - promised[shard]),
        )
        if names
    ]
    if wrong:
        raise CheckpointError(
            f"{index.name} and its shards don't fit together; were they saved at once?\n  "
            + some_of(wrong, "\n  ", "shards")
        )


def _weight_map(content: Mapping[str, object]) -> dict[str, str]:
    found = content.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"its weight_map is {found!r:.200}; expected an object that gives each tensor its file")
    for name, shard in found.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise ValueError(
                f"tensor {name!r:.200} is in {shard!r:.200}; accepted: the name of a file in the same folder"
            )
    return found


def _is_plain(name: str) -> bool:
    """Whether it names a file, and can lead nowhere else on any system."""
    alone = PurePosixPath(name).name == name == PureWindowsPath(name).name
    return alone and name not in ("", "..") and "\0" not in name


def _write(head: bytes, source: Location, begin: int, end: int, target: Location, done: Callable[[int], None]) -> None:
    """Write `head` and the bytes [begin, end) of `source`."""
    at = begin
    try:
        with source.open("rb") as reading, target.open("wb") as writing:
            writing.write(head)
            if source.is_local and target.is_local:
                writing.flush()
                at = _copy_in_kernel(reading.fileno(), writing.fileno(), at, end, done)
            at = _copy_through_here(reading, writing, at, end, done)
    except OSError as error:
        if error.filename is None:  # the system only knows handles
            error.filename, error.filename2 = str(source), str(target)
        raise
    if at < end:
        raise CheckpointError(
            f"{source} ended at byte {at} of {end} while it was copied\n"
            "  wait until what writes there is done, and convert it again"
        )


def _copy_in_kernel(source: int, target: int, at: int, end: int, done: Callable[[int], None]) -> int:
    """Copy [at, end) from file to file, as far as the kernel can; where that is."""
    for copy in _KERNEL_COPIES:
        while at < end:
            try:
                copied = copy(source, target, at, min(_CHUNK, end - at))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                break
            if copied == 0:  # the end of the file, or a filesystem in which that is all the kernel sees: reading tells
                break
            at += copied
            _start_writing(target, copied)
            done(copied)
    return at


def _start_writing(target: int, count: int) -> None:
    """Have the last `count` bytes written to the disk beside the copying of the next, instead of all at the end.

    That is what the system does with dirty pages that it is told nobody needs; they stay in memory all the same.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # a hint, which some filesystems don't take
            end = os.lseek(target, 0, os.SEEK_CUR)
            os.posix_fadvise(target, end - count, count, os.POSIX_FADV_DONTNEED)


def _copy_through_here(reading: IO[bytes], writing: IO[bytes], at: int, end: int, done: Callable[[int], None]) -> int:
    """Copy [at, end) block by block, up to where the file ends."""
    reading.seek(at)
    while at < end and (block := reading.read(min(_BLOCK, end - at))):
        writing.write(block)
        at += len(block)
        done(len(block))
    return at


def _copy_file_range(source: int, target: int, at: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset_src=at)


def _sendfile(source: int, target: int, at: int, count: int) -> int:
    return os.sendfile(target, source, at, count)


_KERNEL_COPIES = [
    copy for name, copy in (("copy_file_range", _copy_file_range), ("sendfile", _sendfile)) if hasattr(os, name)
]
"""The ways to copy that this system has, best first."""
_NOT_HERE = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ENOTSOCK}
"""What the kernel answers where it can't copy between two such files, and some sandboxes (EPERM)."""
