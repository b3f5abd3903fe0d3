"""Distributed checkpoints move chunk by chunk, alone or in several processes, and come back bit by bit."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import convsurgeon
from convsurgeon import CheckpointError, WeightMap
from convsurgeon.checkpoints import Moved, Progress, convert_checkpoint
from convsurgeon.checkpoints.distributed import convert_distributed, is_distributed
from convsurgeon.checkpoints.location import Location

# torch says so whenever a checkpoint is saved or loaded by one process
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

_TIMEOUT = 120
"""Seconds after which processes that should have come to an end are ended."""


class Model(nn.Module):
    """Kernels of 5 and 3 channels: no four processes hold equally many."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.up = nn.ConvTranspose1d(5, 3, 2)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.norm(self.conv(x))).mean(-1))


MOVING = ["conv.weight", "up.weight"]
SHARDED_MOVING = [f"model.{name}" for name in MOVING] + [
    f"optim.state.{name}.{slot}" for name in MOVING for slot in ("exp_avg", "exp_avg_sq")
]


def trained(model: nn.Module, groups: Any = None) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters() if groups is None else groups)
    model(torch.randn(2, 3, 9)).sum().backward()
    optimizer.step()
    return optimizer


# ---------------------------------------------------------------------------------------------------------------- runs


def run(count: int, task: Callable[..., None], folder: Path, *args: Any) -> None:
    """Call ``task(rank, folder, *args)`` in the processes of one group, which meet in a file: no port is taken."""
    # all are forked from one that has imported torch, and does nothing else
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    context = mp.start_processes(
        _in_group, (count, meeting, task, folder, *args), nprocs=count, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + _TIMEOUT
    try:
        while not context.join(timeout=1):  # raises what a process raises
            assert time.monotonic() < deadline, f"{task.__name__} hangs"
    finally:
        for process in context.processes:
            process.kill()


def _in_group(rank: int, count: int, meeting: Path, task: Callable[..., None], folder: Path, *args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        task(rank, folder, *args)
    finally:
        dist.destroy_process_group()


def save_sharded(rank: int, folder: Path) -> None:
    torch.manual_seed(0)
    model, mesh = Model(), dist.init_device_mesh("cpu", (dist.get_world_size(),))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    by_length = {n: distribute_tensor(v, mesh, [Shard(2)]) if n in MOVING else v for n, v in plain.items()}
    dcp.save({"model": by_length}, checkpoint_id=folder / "by_length")
    lifted = {n: v.unsqueeze(-2) if n in MOVING else v for n, v in plain.items()}
    by_unit_axis = {n: distribute_tensor(v, mesh, [Shard(2)]) if n in MOVING else v for n, v in lifted.items()}
    dcp.save(by_unit_axis, checkpoint_id=folder / "by_unit_axis")
    if rank == 0:
        torch.save(plain, folder / "plain.pt")
    fully_shard(model, mesh=mesh)
    model_state, optimizer_state = get_state_dict(model, trained(model))
    content = {"model": model_state, "optim": optimizer_state, "epoch": 3, "words": ["a", torch.ones(2)]}
    dcp.save(content, checkpoint_id=folder / "sharded")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints that four processes saved."""
    folder = tmp_path_factory.mktemp("saved")
    run(4, save_sharded, folder)
    return folder


@pytest.fixture(scope="module")
def conversion() -> convsurgeon.Conversion:
    return convsurgeon.convert(Model(), torch.randn(2, 3, 9), copy_weights=True)


@pytest.fixture(scope="module")
def weight_map(conversion: convsurgeon.Conversion) -> WeightMap:
    return conversion.weight_map


def converted(
    source: Path,
    target: Path,
    weight_map: WeightMap,
    direction: Any = "2d",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Moved:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return convert_distributed(
            Location.of(source), Location.of(target), weight_map, direction, overwrite=overwrite, progress=progress
        )


def digests(folder: Path) -> list[str]:
    """SHA-256 of the bytes of every tensor, as torch gathers it."""
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(one.size, dtype=one.properties.dtype)
        for key, one in stored.items()
        if isinstance(one, dcp.TensorStorageMetadata)
    }
    dcp.load(tensors, checkpoint_id=folder)
    return [
        f"{key} {list(value.shape)} {hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy()).hexdigest()}"
        for key, value in sorted(tensors.items())
    ]


def gathered(folder: Path, tmp_path: Path) -> Any:
    """What torch makes of the folder, in one nested dict."""
    dcp_to_torch_save(folder, tmp_path / "gathered.pt")
    return torch.load(tmp_path / "gathered.pt")


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


# ------------------------------------------------------------------------------------------------------- what it moves


def test_the_folder_is_told_by_its_metadata(saved: Path, tmp_path: Path) -> None:
    assert is_distributed(Location.of(saved / "sharded"))
    assert not is_distributed(Location.of(tmp_path))
    assert not is_distributed(Location.of(saved / "plain.pt"))


def test_it_moves_and_comes_back_bit_by_bit(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    moved = converted(saved / "sharded", tmp_path / "2d", weight_map)
    assert sorted(moved.moved) == sorted(SHARDED_MOVING)
    assert moved.tensors == len(digests(saved / "sharded"))
    back = converted(tmp_path / "2d", tmp_path / "1d", weight_map, "1d")
    assert sorted(back.moved) == sorted(moved.moved)
    assert digests(tmp_path / "1d") == digests(saved / "sharded"), "\n".join(digests(tmp_path / "1d"))
    assert_same(gathered(tmp_path / "1d", tmp_path), gathered(saved / "sharded", tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1d", "2d", "gathered.pt"]


def test_every_chunk_moves_by_itself(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    converted(saved / "sharded", tmp_path / "2d", weight_map)
    before, after = (dcp.FileSystemReader(one).read_metadata() for one in (saved / "sharded", tmp_path / "2d"))
    assert after.planner_data == before.planner_data
    assert list(after.state_dict_metadata) == list(before.state_dict_metadata)
    assert after.storage_meta.checkpoint_id == str(tmp_path / "2d")
    sizes = [(tuple(c.offsets), tuple(c.sizes)) for c in after.state_dict_metadata["model.conv.weight"].chunks]
    assert sizes == [
        ((0, 0, 0, 0), (2, 3, 1, 3)),
        ((2, 0, 0, 0), (2, 3, 1, 3)),
        ((4, 0, 0, 0), (1, 3, 1, 3)),
        ((5, 0, 0, 0), (0, 3, 1, 3)),
    ]


def test_it_loads_into_the_converted_model_and_its_optimizer(
    saved: Path, conversion: convsurgeon.Conversion, tmp_path: Path
) -> None:
    converted(saved / "sharded", tmp_path / "2d", conversion.weight_map)
    optimizer = torch.optim.Adam(conversion.module.parameters())
    model_state, optimizer_state = get_state_dict(conversion.module, optimizer)
    state = {"model": model_state, "optim": optimizer_state}
    dcp.load(state, checkpoint_id=tmp_path / "2d")
    set_state_dict(conversion.module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    original = gathered(saved / "sharded", tmp_path)
    expected = conversion.weight_map.to_2d(original["model"])
    assert all(torch.equal(value, expected[name]) for name, value in conversion.module.state_dict().items())
    for name, parameter in conversion.module.named_parameters():
        for slot in ("exp_avg", "exp_avg_sq", "step"):
            value, before = optimizer.state[parameter][slot], original["optim"]["state"][name][slot]
            assert value.shape == (() if slot == "step" else parameter.shape)
            assert torch.equal(value.reshape(-1), before.reshape(-1))


@pytest.mark.parametrize(("name", "direction"), [("by_length", "2d"), ("by_unit_axis", "1d")])
def test_shards_along_other_axes(saved: Path, weight_map: WeightMap, tmp_path: Path, name: str, direction: Any) -> None:
    converted(saved / name, tmp_path / "moved", weight_map, direction)
    state, plain = gathered(tmp_path / "moved", tmp_path), torch.load(saved / "plain.pt")
    assert_same(state["model"] if direction == "2d" else state, weight_map.to_2d(plain) if direction == "2d" else plain)
    back: Any = "1d" if direction == "2d" else "2d"
    converted(tmp_path / "moved", tmp_path / "back", weight_map, back)
    assert digests(tmp_path / "back") == digests(saved / name)


def _nested(model: nn.Module) -> Any:
    model_state, optimizer_state = get_state_dict(model, trained(model))
    return {"app": {"model": model_state, "optim": optimizer_state}}


def _flattened(model: nn.Module) -> Any:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model_state, optimizer_state = get_state_dict(model, trained(model), options=options)
    return {"model": model_state, "optim": optimizer_state}


def _indexed(model: nn.Module) -> Any:
    return {"model": model.state_dict(), "optim": trained(model).state_dict()}


def _indexed_in_groups(model: nn.Module) -> Any:
    parameters = list(model.parameters())
    optimizer = trained(model, [{"params": parameters[3:], "lr": 0.1}, {"params": parameters[:3]}])
    return {"model": model.state_dict(), "optim": optimizer.state_dict()}


def _optimizer_alone(model: nn.Module) -> Any:
    return {"optimizer": get_state_dict(model, trained(model))[1]}


def _in_a_larger_model(model: nn.Module) -> Any:
    whole = nn.Sequential()
    whole.add_module("net", model)
    model_state, optimizer_state = get_state_dict(whole, trained(whole))
    return {"model": model_state, "optim": optimizer_state}


def _model_alone(model: nn.Module) -> Any:
    return model.state_dict()


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (_nested, 6),
        (_flattened, 6),
        (_indexed, 6),
        (_indexed_in_groups, 6),
        (_optimizer_alone, 4),
        (_in_a_larger_model, 6),
        (_model_alone, 2),
    ],
)
def test_states_however_they_are_nested(
    form: Callable[[nn.Module], Any], count: int, weight_map: WeightMap, tmp_path: Path
) -> None:
    state = form(Model())
    dcp.save(state, checkpoint_id=tmp_path / "saved")
    moved = converted(tmp_path / "saved", tmp_path / "2d", weight_map)
    assert len(moved.moved) == count
    assert all(any(name in key or key.startswith("optim.state.") for name in MOVING) for key in moved.moved)
    shapes = {line.split(" ", 1)[0]: line.count(",") + 1 for line in digests(tmp_path / "2d")}
    assert {key for key, rank in shapes.items() if rank == 4} == set(moved.moved)
    converted(tmp_path / "2d", tmp_path / "1d", weight_map, "1d")
    assert digests(tmp_path / "1d") == digests(tmp_path / "saved")
    assert_same(gathered(tmp_path / "1d", tmp_path), gathered(tmp_path / "saved", tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_numbers_of_every_kind(dtype: torch.dtype, weight_map: WeightMap, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in Model().state_dict().items()}
    dcp.save(state, checkpoint_id=tmp_path / "saved")
    converted(tmp_path / "saved", tmp_path / "2d", weight_map)
    converted(tmp_path / "2d", tmp_path / "1d", weight_map, "1d")
    assert digests(tmp_path / "1d") == digests(tmp_path / "saved")


def test_what_else_is_in_the_folder_is_copied(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    source = copy_of(saved / "sharded", tmp_path / "source")
    (source / "meta.json").write_text("{}")
    (source / "more").mkdir()
    (source / "more" / "notes.txt").write_text("notes")
    (source / "__9_0.distcp").write_bytes(b"left over")
    moved = converted(source, tmp_path / "2d", weight_map)
    assert moved.copied == ("meta.json", "more/notes.txt")
    assert (tmp_path / "2d" / "more" / "notes.txt").read_text() == "notes"
    assert not (tmp_path / "2d" / "__9_0.distcp").exists()


def test_progress_is_told_in_bytes(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    converted(saved / "sharded", tmp_path / "2d", weight_map, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert {total for _, total in told} == {told[-1][0]}
    assert told[-1][0] == sum(path.stat().st_size for path in (saved / "sharded").glob("*.distcp"))


@pytest.mark.filterwarnings("ignore:fsync not supported")  # torch 2.14 says so of files in memory
def test_folders_behind_a_url(weight_map: WeightMap, tmp_path: Path) -> None:
    state = Model().state_dict()
    dcp.save(state, storage_writer=FsspecWriter("memory://distributed/saved"))
    source, target = (Location.of(f"memory://distributed/{name}") for name in ("saved", "2d"))
    try:
        for overwrite in (False, True):
            convert_distributed(source, target, weight_map, "2d", overwrite=overwrite, progress=None)
        found = {name: torch.empty_like(value) for name, value in weight_map.to_2d(state).items()}
        dcp.load(found, storage_reader=FsspecReader("memory://distributed/2d"))
        assert_same(found, dict(weight_map.to_2d(state)))
        assert sorted(source.filesystem.ls("/distributed", detail=False)) == ["/distributed/2d", "/distributed/saved"]
        convert_distributed(target, Location.of(tmp_path / "1d"), weight_map, "1d", overwrite=False, progress=None)
        assert_same(gathered(tmp_path / "1d", tmp_path), dict(state))
    finally:
        source.filesystem.rm("/distributed", recursive=True)


# --------------------------------------------------------------------------------------------------- several processes


def convert_together(rank: int, folder: Path, source: Path, broken: Path) -> None:
    weight_map = WeightMap.load(folder / "map.json")
    moved = convert_checkpoint(source, folder / "2d", weight_map)
    (folder / f"moved-{rank}").write_text(str(moved))
    convert_checkpoint(folder / "2d", folder / "1d", weight_map, "1d")

    def failing(done: int, total: int) -> None:
        if rank == 1:
            raise RuntimeError("the second process fails")

    for wrong, options, words in [
        (source, {}, "2d exists" if rank == 0 else "rank 0 could not make the target"),
        (broken, {"overwrite": True}, "files that .metadata names are missing"),
        (source, {"overwrite": True, "progress": failing}, "the second process fails"),
    ]:
        with pytest.raises((CheckpointError, RuntimeError), match=words):
            convert_checkpoint(wrong, folder / "2d", weight_map, **options)


def test_processes_share_the_work(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    weight_map.save(tmp_path / "map.json")
    broken = copy_of(saved / "sharded", tmp_path / "broken")
    (broken / "__2_0.distcp").unlink()
    run(2, convert_together, tmp_path, saved / "sharded", broken)
    sizes = [(tmp_path / "2d" / f"__{rank}_0.distcp").stat().st_size for rank in range(2)]
    assert max(sizes) < 1.1 * min(sizes)
    assert (tmp_path / "moved-0").read_text() == (tmp_path / "moved-1").read_text()
    converted(saved / "sharded", tmp_path / "alone", weight_map)
    assert digests(tmp_path / "2d") == digests(tmp_path / "alone")
    assert digests(tmp_path / "1d") == digests(saved / "sharded"), "\n".join(digests(tmp_path / "1d"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# --------------------------------------------------------------------------------------------------- what it can't read


def test_torchrun_shares_the_work_of_the_command(saved: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    weight_map.save(tmp_path / "map.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convsurgeon"]
    words = ["checkpoint", saved / "sharded", tmp_path / "together", "--map", tmp_path / "map.json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tensors moved to 2D") == 1
    assert len(list((tmp_path / "together").glob("*.distcp"))) == 2
    convert_checkpoint(saved / "sharded", tmp_path / "alone", weight_map)
    assert digests(tmp_path / "together") == digests(tmp_path / "alone")


def copy_of(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return copy_of(saved / "sharded", tmp_path / "source")


def assert_refused(source: Path, weight_map: WeightMap, words: str, direction: Any = "2d") -> None:
    with pytest.raises(CheckpointError, match=words):
        converted(source, source.parent / "target", weight_map, direction)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_missing_files_are_named(source: Path, weight_map: WeightMap) -> None:
    (source / "__1_0.distcp").unlink()
    (source / "__3_0.distcp").unlink()
    assert_refused(source, weight_map, r"2 of the 4 files .* missing: __1_0\.distcp, __3_0\.distcp; copy the folder")


def test_truncated_files_are_named(source: Path, weight_map: WeightMap) -> None:
    path = source / "__1_0.distcp"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert_refused(source, weight_map, rf"truncated: __1_0\.distcp has {len(data) - 10} of {len(data)} bytes")


def test_a_broken_chunk_is_named(source: Path, weight_map: WeightMap) -> None:
    stored = dcp.FileSystemReader(source).read_metadata().storage_data
    place = next(one for index, one in stored.items() if index.fqn == "model.up.weight" and any(index.offset))
    path = source / place.relative_path
    data = path.read_bytes()
    path.write_bytes(data[: place.offset] + bytes(place.length) + data[place.offset + place.length :])
    assert_refused(source, weight_map, rf"{path.name}: the chunk of 'model\.up\.weight' at \[\d, 0, 0\] can't be read")


def test_a_chunk_of_another_shape_is_named(weight_map: WeightMap, tmp_path: Path) -> None:
    dcp.save(Model().state_dict(), checkpoint_id=tmp_path / "source")

    def change(metadata: Metadata) -> None:
        places = metadata.storage_data
        conv, up = (next(index for index in places if index.fqn == name) for name in MOVING)
        places[conv], places[up] = places[up], places[conv]

    rewrite(tmp_path / "source", change)
    assert_refused(tmp_path / "source", weight_map, r"the chunk of .*its shape is \[5, 3, [23]\], and the metadata")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_metadata(source: Path, weight_map: WeightMap, part: float) -> None:
    path = source / ".metadata"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert_refused(source, weight_map, r"\.metadata is not the metadata of a distributed checkpoint, or not whole")


def test_damaged_metadata_are_refused_or_read(source: Path, weight_map: WeightMap) -> None:
    path = source / ".metadata"
    data = path.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            converted(source, source.parent / "target", weight_map, overwrite=True)
        except CheckpointError:
            continue
    assert {path.name for path in source.parent.iterdir()} <= {"source", "target"}


def test_a_map_of_another_model(source: Path) -> None:
    other = convsurgeon.convert(nn.Sequential(nn.Conv1d(1, 1, 1)), torch.randn(1, 1, 3), verify=False).weight_map
    assert_refused(source, other, r"nothing in .*source belongs to Sequential: no entry '0\.weight'")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conv.weight": (5, 3, 4)}, r"'model\.conv\.weight' has shape \[5, 3, 3\]; expected \[5, 3, 4\] to go to 2d"),
        ({"tail.weight": (5, 3, 3)}, r"1 of the 3 entries that move are missing: model\.tail\.weight"),
    ],
)
def test_a_map_that_does_not_fit(source: Path, weight_map: WeightMap, change: Any, words: str) -> None:
    one = {entry.name: torch.empty(entry.shape_1d) for entry in weight_map.entries}
    one |= {name: torch.empty(shape) for name, shape in change.items()}
    two = {name: value.unsqueeze(-2) if name in (*MOVING, *change) else value for name, value in one.items()}
    assert_refused(source, WeightMap.between(one, two), words)


def test_weights_may_be_missing_where_that_is_said(weight_map: WeightMap, tmp_path: Path) -> None:
    state = Model().state_dict()
    del state["up.weight"]
    dcp.save({"model": state}, checkpoint_id=tmp_path / "source")
    assert_refused(tmp_path / "source", weight_map, r"1 of the 2 entries that move are missing: model\.up\.weight")
    source, target = Location.of(tmp_path / "source"), Location.of(tmp_path / "2d")
    moved = convert_distributed(source, target, weight_map, "2d", overwrite=False, progress=None, partial=True)
    assert moved.moved == ("model.conv.weight",)


def test_what_has_moved_already(source: Path, weight_map: WeightMap) -> None:
    assert_refused(source, weight_map, r"'model\.conv\.weight' has shape \[5, 3, 3\]; expected \[5, 3, 1, 3\]", "1d")


def test_a_target_that_exists(source: Path, weight_map: WeightMap, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match=r"target exists"):
        converted(source, target, weight_map)
    assert [path.name for path in target.iterdir()] == ["mine"]
    converted(source, target, weight_map, overwrite=True)
    assert not (target / "mine").exists()
    assert is_distributed(Location.of(target))


# ----------------------------------------------------------------------------------------------- what it must not trust


def rewrite(folder: Path, change: Callable[[Metadata], Any]) -> None:
    """Change the metadata in place, or put what `change` returns where they stood."""
    metadata = dcp.FileSystemReader(folder).read_metadata()
    other = change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata if other is None else other))


class Planted:
    """An object of which unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["whole", "planner_data", "storage_meta", "version", "fqn"])
def test_code_in_the_metadata_is_named_and_not_run(source: Path, weight_map: WeightMap, where: str) -> None:
    planted = source.parent / "planted"

    def change(metadata: Metadata) -> Any:
        if where == "whole":
            return Planted(planted)
        if where == "fqn":
            metadata.state_dict_metadata[Planted(planted)] = next(iter(metadata.state_dict_metadata.values()))  # type: ignore[index]
        else:
            setattr(metadata, where, Planted(planted))
        return None

    rewrite(source, change)
    assert_refused(source, weight_map, rf"\.metadata names {os.mkdir.__module__}\.mkdir, which is refused")


def test_classes_of_torch_are_not_changed_by_metadata(source: Path, weight_map: WeightMap) -> None:
    """A pickle may set attributes of whatever it names: here it names a class."""
    chunk = ChunkStorageMetadata
    data = b"\x80\x02c" + f"{chunk.__module__}\n{chunk.__name__}\n".encode() + b"N}X\x07\x00\x00\x00plantedK\x01s\x86b."
    pickle.loads(data)
    assert chunk.planted == 1  # type: ignore[attr-defined]  # the default does
    del chunk.planted  # type: ignore[attr-defined]
    (source / ".metadata").write_bytes(data)
    assert_refused(source, weight_map, "is not the metadata of a distributed checkpoint")
    assert not hasattr(chunk, "planted")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "C:\\secret", "more/../../secret", "..\\secret", ""])
def test_files_outside_the_folder_are_not_read(source: Path, weight_map: WeightMap, name: str) -> None:
    def change(metadata: Metadata) -> None:
        next(iter(metadata.storage_data.values())).relative_path = name

    rewrite(source, change)
    assert_refused(source, weight_map, "it names a file outside its folder")


def _forget(metadata: Metadata) -> None:
    del metadata.storage_data[next(index for index in metadata.storage_data if index.fqn == "model.up.weight")]


def _overlap(metadata: Metadata) -> None:
    metadata.state_dict_metadata["model.up.weight"].chunks[0].offsets = torch.Size((4, 0, 0))  # type: ignore[union-attr]


def _of_another_planner(metadata: Metadata) -> None:
    metadata.planner_data = ["what another planner keeps"]


def _of_another_version(metadata: Metadata) -> None:
    metadata.more = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_forget, r"doesn't say where 'model\.up\.weight' is stored at \[0, 0, 0\]"),
        (_overlap, r"a chunk of \[2, 3, 2\] at \[4, 0, 0\] of a tensor of \[5, 3, 2\]"),
        (_of_another_planner, "a list stands where a dict should"),
        (_of_another_version, "it has more, unknown here"),
        (lambda metadata: {"a": 1}, "a dict stands where a Metadata should"),
    ],
)
def test_metadata_of_another_form(source: Path, weight_map: WeightMap, change: Any, words: str) -> None:
    rewrite(source, change)
    assert_refused(source, weight_map, words)


def test_objects_pass_through_as_bytes(weight_map: WeightMap, tmp_path: Path) -> None:
    """What isn't a tensor is a pickle of any class: it is written again, and not loaded."""
    state = {"model": Model().state_dict(), "own": Planted(tmp_path / "planted")}
    dcp.save(state, checkpoint_id=tmp_path / "saved")
    converted(tmp_path / "saved", tmp_path / "2d", weight_map)
    assert not (tmp_path / "planted").exists()
    before, after = (dcp.FileSystemReader(tmp_path / name).read_metadata().storage_data for name in ("saved", "2d"))
    stored = [
        (tmp_path / name / place.relative_path).read_bytes()[place.offset : place.offset + place.length]
        for name, places in (("saved", before), ("2d", after))
        for index, place in places.items()
        if index.fqn == "own"
    ]
    assert stored[0] == stored[1]
