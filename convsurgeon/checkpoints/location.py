"""Where checkpoints are: files and folders, here or behind a URL, written under another name and renamed when whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from convsurgeon.errors import CheckpointError

Where = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder in a filesystem that fsspec knows; `path` is absolute in it."""

    filesystem: Any
    path: str

    @classmethod
    def of(cls, where: Where) -> Location:
        """The location of a path or of a URL such as ``s3://bucket/folder``.

        Raises:
            CheckpointError: fsspec knows no such protocol, or the package that it needs is not installed.
        """
        try:
            filesystem, path = fsspec.url_to_fs(os.fspath(where))
        except (ValueError, ImportError) as error:
            raise CheckpointError(
                f"{os.fspath(where)}: {error}; accepted: a path, or a URL that fsspec knows"
            ) from error
        if isinstance(filesystem, LocalFileSystem) and {".", ".."} & set(path.split("/")):
            path = _real(path)  # what lies behind a link and ".." only the system knows
        return cls(filesystem, path.rstrip("/") or "/")

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.filesystem.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def beside(self, name: str) -> Location:
        """Another name in the same folder."""
        return Location(self.filesystem, f"{self.path.rpartition('/')[0]}/{name}")

    def inside(self, name: str) -> Location:
        """A name in this folder."""
        return Location(self.filesystem, f"{self.path}/{name}")

    def holds(self, other: Location) -> bool:
        """Whether `other` is this file or folder, or in it, whatever links lead there."""
        mine, theirs = (_real(one.path) if one.is_local else str(one) for one in (self, other))
        return f"{theirs}/".startswith(f"{mine.rstrip('/')}/")

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self.filesystem.exists(self.path))

    def is_folder(self) -> bool:
        """Whether a folder is there."""
        return bool(self.filesystem.isdir(self.path))

    def size(self) -> int:
        """The file's size in bytes."""
        return int(self.filesystem.size(self.path))

    def files(self) -> list[str]:
        """The names of all files in this folder and those inside it, as seen from it."""
        return sorted(path.removeprefix(self.path).lstrip("/") for path in self.filesystem.find(self.path))

    def open(self, mode: str) -> IO[bytes]:
        """The file, opened; one that is written is whole and safe only once it is renamed."""
        file: IO[bytes] = self.filesystem.open(
            self.path, mode, **({} if self.is_local else {"cache_type": "readahead"})
        )
        return file


@contextmanager
def new_file(target: Location, *, overwrite: bool) -> Iterator[Location]:
    """A temporary name beside `target`, which is renamed to it if all goes well, and removed if not.

    Raises:
        CheckpointError: something is there already, or a folder, which no file replaces.
        OSError: it can't be written.
    """
    if target.is_folder():
        raise CheckpointError(f"{target} is a folder; name a file in it, or remove it")
    with _renamed(target, overwrite=overwrite) as temporary:
        yield temporary
        _synchronise(temporary)


@contextmanager
def new_folder(target: Location, *, overwrite: bool) -> Iterator[Location]:
    """Likewise, a folder, which exists inside."""
    with _renamed(target, overwrite=overwrite) as temporary:
        temporary.filesystem.makedirs(temporary.path)
        yield temporary
        for name in temporary.files():
            _synchronise(temporary.inside(name))


@contextmanager
def _renamed(target: Location, *, overwrite: bool) -> Iterator[Location]:
    require_free(target, overwrite=overwrite)
    temporary = _hidden(target, "tmp")
    if target.is_local:
        os.makedirs(os.path.dirname(target.path), exist_ok=True)
    try:
        yield temporary
        require_free(target, overwrite=overwrite)
        _put(temporary, target)
    finally:
        if temporary.exists():
            temporary.filesystem.rm(temporary.path, recursive=temporary.is_folder())


def _hidden(target: Location, ending: str) -> Location:
    """A name beside the target that nothing has, cut so that it isn't too long where the target's isn't."""
    return target.beside(f".{target.name[:_SHOWN]}.{uuid.uuid4().hex[:8]}.{ending}")


_SHOWN = 50
"""How many characters of the target's name, of up to four bytes each, a temporary name shows; systems admit 255."""


def require_free(target: Location, *, overwrite: bool) -> None:
    """Refuse to write where something is, unless it may be replaced.

    Raises:
        CheckpointError: something is there.
    """
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; remove it, choose another name, or say overwrite=True (--overwrite)")


def require_apart(target: Location, *needed: Location) -> None:
    """Refuse a target whose replacement would remove what is needed.

    Raises:
        ValueError: it is, or holds, something of that.
    """
    for one in needed:
        if target.holds(one):
            raise ValueError(f"target is {target}, which is or holds {one}; write elsewhere")


def _real(path: str) -> str:
    return Path(path).resolve().as_posix()


def _put(temporary: Location, target: Location) -> None:
    """Give what is whole its name; a folder that stood there goes once the new one is in its place."""
    if not target.is_local:
        if target.exists():
            target.filesystem.rm(target.path, recursive=True)
        target.filesystem.mv(temporary.path, target.path, recursive=temporary.is_folder())
        return
    if not (target.is_folder() or (target.exists() and temporary.is_folder())):
        os.replace(temporary.path, target.path)
    else:
        old = _hidden(target, "old")
        os.rename(target.path, old.path)
        os.rename(temporary.path, target.path)
        old.filesystem.rm(old.path, recursive=True)
    _synchronise_folder(os.path.dirname(target.path))


def _synchronise(file: Location) -> None:
    """Bring what was written to the disk, where it is one of this machine's."""
    if file.is_local:
        with open(file.path, "rb") as opened:
            os.fsync(opened.fileno())


def _synchronise_folder(path: str) -> None:
    if os.name == "posix":  # elsewhere a folder can't be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
