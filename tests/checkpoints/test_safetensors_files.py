"""Safetensors files are converted by their header alone; the data arrive unchanged, whichever way they are copied."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from convsurgeon.checkpoints import safetensors_files
from convsurgeon.checkpoints.header import Header
from convsurgeon.checkpoints.location import Location, new_file
from convsurgeon.checkpoints.safetensors_files import (
    Index,
    copy_file,
    read_index,
    require_complete,
    shapes_of,
    write_moved,
)
from convsurgeon.errors import CheckpointError

TO_2D = {"conv.weight": (64, 32, 1, 5), "of.another.shard": (1, 1)}


@pytest.fixture
def source(tmp_path: Path) -> Location:
    tensors = {"conv.weight": torch.randn(64, 32, 5), "conv.bias": torch.randn(64), "n": torch.tensor(7)}
    save_file(tensors, tmp_path / "source.safetensors", {"format": "pt"})
    return Location.of(tmp_path / "source.safetensors")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that every file takes many."""
    monkeypatch.setattr(safetensors_files, "_CHUNK", 10_000)
    monkeypatch.setattr(safetensors_files, "_BLOCK", 3_000)


def convert(source: Location, target: Location, moved: Any = TO_2D) -> list[int]:
    """What was told of the progress."""
    told: list[int] = []
    with new_file(target, overwrite=False) as temporary:
        write_moved(source, shapes_of(source), temporary, moved, told.append)
    return told


def assert_converted(source: Location, target: Location) -> None:
    before, after = load_file(source.path), load_file(target.path)
    assert after["conv.weight"].shape == (64, 32, 1, 5)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name].view(before[name].shape)) for name in before)


@contextmanager
def untouched(source: Location) -> Iterator[None]:
    """The source is what it was, and nothing else is in its folder."""
    path = Path(source.path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    yield
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(path.parent.iterdir()) == [path]


def test_there_and_back_is_the_same_file(source: Location) -> None:
    there, back = source.beside("there.safetensors"), source.beside("back.safetensors")
    convert(source, there)
    assert_converted(source, there)
    convert(there, back, {"conv.weight": (64, 32, 5)})
    assert Path(back.path).read_bytes() == Path(source.path).read_bytes()


@pytest.mark.usefixtures("small_steps")
def test_progress_counts_the_bytes_of_the_source(source: Location) -> None:
    target = source.beside("target.safetensors")
    told = convert(source, target)
    assert told[0] == shapes_of(source).data_begin
    assert set(told[1:-1]) == {10_000}
    assert sum(told) == source.size()


def test_a_copy_as_it_is(source: Location) -> None:
    told: list[int] = []
    copy_file(source, source.beside("copy"), told.append)
    assert Path(source.beside("copy").path).read_bytes() == Path(source.path).read_bytes()
    assert sum(told) == source.size()


def failing(error: int, after: int = 0) -> Callable[..., int]:
    """A way to copy that works some times and then fails."""
    left = [after]
    copy = os.copy_file_range

    def fail(*args: Any, **kwargs: Any) -> int:
        if not left[0]:
            raise OSError(error, os.strerror(error))
        left[0] -= 1
        return copy(*args, **kwargs)

    return fail


def nothing(*_: Any, **__: Any) -> int:
    """A way to copy under which every file seems to be empty, as some filesystems have it."""
    return 0


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM])
@pytest.mark.parametrize("both", [False, True], ids=["sendfile", "through here"])
def test_where_the_kernel_can_not_copy(
    source: Location, monkeypatch: pytest.MonkeyPatch, error: int, after: int, both: bool
) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(error, after))
    if both:
        monkeypatch.setattr(os, "sendfile", failing(error))
    told = convert(source, source.beside("target.safetensors"))
    assert_converted(source, source.beside("target.safetensors"))
    assert sum(told) == source.size()
    assert max(told[1 + after :]) == (3_000 if both else 10_000)


def test_where_the_kernel_sees_nothing_or_has_no_way(source: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", nothing)
    monkeypatch.setattr(os, "sendfile", nothing)
    convert(source, source.beside("a.safetensors"))
    assert_converted(source, source.beside("a.safetensors"))
    monkeypatch.setattr(safetensors_files, "_KERNEL_COPIES", [])
    convert(source, source.beside("b.safetensors"))
    assert_converted(source, source.beside("b.safetensors"))


@pytest.mark.parametrize("way", ["copy_file_range", "sendfile"])
def test_any_other_failure_is_one(source: Location, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(os, "copy_file_range", failing(errno.ENOSPC if way == "copy_file_range" else errno.EXDEV))
    monkeypatch.setattr(os, "sendfile", failing(errno.ENOSPC))
    with untouched(source), pytest.raises(OSError, match=r"No space left on device: '.*source.* -> '.*target"):
        convert(source, source.beside("target.safetensors"))


def test_any_filesystem(source: Location) -> None:
    memory = fsspec.filesystem("memory")
    far, back = Location.of("memory://folder/far.safetensors"), source.beside("back.safetensors")
    try:
        convert(source, far)
        assert shapes_of(far).shapes == {**shapes_of(source).shapes, "conv.weight": (64, 32, 1, 5)}
        convert(far, far.beside("again.safetensors"), {})
        convert(far.beside("again.safetensors"), back, {"conv.weight": (64, 32, 5)})
        assert memory.ls("/folder", detail=False) == ["/folder/again.safetensors", "/folder/far.safetensors"]
        assert Path(back.path).read_bytes() == Path(source.path).read_bytes()
    finally:
        memory.rm("/folder", recursive=True)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("ways", [safetensors_files._KERNEL_COPIES, []], ids=["in the kernel", "through here"])
def test_a_source_that_shrinks(source: Location, monkeypatch: pytest.MonkeyPatch, ways: list[Any]) -> None:
    monkeypatch.setattr(safetensors_files, "_KERNEL_COPIES", ways)
    header, target = shapes_of(source), source.beside("target.safetensors")
    ended = header.data_begin + 25_000

    def cut(copied: int) -> None:
        if copied != header.data_begin:
            os.truncate(source.path, ended)

    with (
        pytest.raises(
            CheckpointError,
            match=rf"source\.safetensors ended at byte {ended} of {source.size()} while it was copied",
        ),
        new_file(target, overwrite=False) as temporary,
    ):
        write_moved(source, header, temporary, TO_2D, cut)
    assert [path.name for path in Path(source.path).parent.iterdir()] == ["source.safetensors"]


def test_a_callback_that_raises_leaves_nothing(source: Location) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    target = source.beside("target.safetensors")
    with untouched(source), pytest.raises(KeyboardInterrupt), new_file(target, overwrite=False) as temporary:
        write_moved(source, shapes_of(source), temporary, TO_2D, interrupt)


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("ways", [safetensors_files._KERNEL_COPIES, []], ids=["in the kernel", "through here"])
def test_a_file_that_may_not_grow_further(source: Location, monkeypatch: pytest.MonkeyPatch, ways: list[Any]) -> None:
    monkeypatch.setattr(safetensors_files, "_KERNEL_COPIES", ways)
    with untouched(source), pytest.raises(OSError, match="File too large"), limited_file_size(30_000):
        convert(source, source.beside("target.safetensors"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
@pytest.mark.parametrize("ways", [safetensors_files._KERNEL_COPIES, []], ids=["in the kernel", "through here"])
def test_a_full_disk(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: list[Any]) -> None:
    monkeypatch.setattr(safetensors_files, "_KERNEL_COPIES", ways)
    (tmp_path / "in").mkdir()
    save_file({"conv.weight": torch.randn(64, 32, 1000)}, tmp_path / "in" / "source.safetensors")
    source, target = (Location.of(one) for one in (tmp_path / "in" / "source.safetensors", small_disk / "target"))
    with untouched(source), pytest.raises(OSError, match="No space left on device"):
        convert(source, target, {"conv.weight": (64, 32, 1, 1000)})
    assert list(small_disk.iterdir()) == []
    save_file({"conv.weight": torch.randn(64, 32, 5)}, tmp_path / "in" / "source.safetensors")
    convert(source, target)  # from one filesystem to another
    assert shapes_of(target).shapes == {"conv.weight": (64, 32, 1, 5)}


def test_no_torch_is_imported() -> None:
    code = "import convsurgeon.checkpoints.safetensors_files, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


INDEX = {
    "metadata": {"total_size": 1.5e3},
    "weight_map": {"b": "m-2.safetensors", "a": "m-1.safetensors", "c": "m-2.safetensors"},
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(1)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.ones(2), "c": torch.ones(3)}, tmp_path / "m-2.safetensors")
    return tmp_path


def indexed(folder: Path, content: object) -> Index:
    path = folder / "m.safetensors.index.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_index(Location.of(path))


def headers(folder: Path, index: Index) -> dict[str, Header]:
    return {name: shapes_of(Location.of(folder / name)) for name in index.shards}


def test_an_index_and_its_shards(shards: Path) -> None:
    index = indexed(shards, INDEX)
    assert index.shards == ("m-2.safetensors", "m-1.safetensors")
    assert index.weight_map == INDEX["weight_map"]
    require_complete(index, {name: one.tensors for name, one in headers(shards, index).items()})


def test_an_index_of_pickles(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model-00001-of-00001.bin").touch()
    index = indexed(tmp_path, {"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}})
    require_complete(index, {"pytorch_model-00001-of-00001.bin": ["a"]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", r"its JSON is \[\]; expected an object"),
        (b'{"weight_map"', "not JSON: Expecting ':' delimiter"),
        (b"\xff", "not UTF-8: invalid start byte"),
        (b'{"a":' + b"[" * 100_000, "its JSON is nested too deeply"),
        (b'{"weight_map":{"a":"m-1.safetensors","a":"m-2.safetensors"}}', "the key 'a' stands 2 times"),
        (b'{"weight_map":{"a":"m-1.safetensors"},"x":NaN}', "NaN in its JSON"),
        ({}, "its weight_map is None; expected an object that gives each tensor its file"),
        ({"weight_map": {}}, "its weight_map is {}; expected an object"),
        ({"weight_map": ["m-1.safetensors"]}, r"its weight_map is \['m-1.safetensors'\]; expected an object"),
        ({"weight_map": {"a": 1}}, "tensor 'a' is in 1; accepted: the name of a file in the same folder"),
        *(
            ({"weight_map": {"a": name}}, "tensor 'a' is in .*; accepted: the name of a file in the same folder")
            for name in (
                "",
                ".",
                "..",
                "../m",
                "/m",
                "x/m",
                "./m",
                "m/",
                "..\\m",
                "C:m",
                "C:\\m",
                "\\\\host\\share\\m",
                "m\0",
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_an_index_that_is_none(shards: Path, content: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"m\.safetensors\.index\.json is not a sound index of shards: {words}"):
        indexed(shards, content)


def test_an_index_that_is_too_large(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_files, "LARGEST", 10)
    with pytest.raises(CheckpointError, match="has 124 bytes; an index of shards has at most 10"):
        indexed(shards, INDEX)


def test_shards_that_are_not_there(shards: Path) -> None:
    (shards / "m-2.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"names 1 files that are not beside it: m-2\.safetensors\n  download them"
    ):
        indexed(shards, INDEX)


def test_shards_that_do_not_fit_their_index(shards: Path) -> None:
    index = indexed(shards, INDEX)
    held = {"m-1.safetensors": ["a", "d"], "m-2.safetensors": ["b"]}
    with pytest.raises(CheckpointError) as caught:
        require_complete(index, held)
    assert str(caught.value) == (
        f"{index.name} and its shards don't fit together; were they saved at once?\n"
        "  m-2.safetensors lacks c\n"
        "  m-1.safetensors has, and the index doesn't say so, d"
    )
