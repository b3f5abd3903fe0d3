"""Checkpoints on disk move there and back, bit for bit; whatever is wrong with one is told, and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from support import Runs, assert_same
from torch import nn

import convsurgeon
from convsurgeon import CheckpointError, WeightMap, convert_checkpoint


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.up, self.head = nn.ConvTranspose1d(8, 4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(torch.relu(self.norm(self.conv(x)))).mean(-1))


MOVES = {"conv.weight", "up.weight"}


@pytest.fixture(scope="module")
def trained() -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if (p.dim() > 1) is heavy]} for heavy in (True, False)]
    )
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 20)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def weight_map() -> WeightMap:
    return convsurgeon.convert(Net(), torch.randn(2, 3, 9)).weight_map


def sha256_of_data(path: Path) -> dict[str, str]:
    """The digest of each storage in a checkpoint file, by its place in it."""
    if path.suffix == ".safetensors":
        data = path.read_bytes()
        return {path.name: hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()}
    with zipfile.ZipFile(path) as archive:
        return {
            entry.filename.partition("/")[2]: hashlib.sha256(archive.read(entry)).hexdigest()
            for entry in archive.infolist()
            if "/data/" in entry.filename
        }


def there_and_back(source: Path, weight_map: WeightMap, **options: Any) -> tuple[Path, Path]:
    there, back = source.with_name(f"there-{source.name}"), source.with_name(f"back-{source.name}")
    moved = convert_checkpoint(source, there, weight_map, **options)
    returned = convert_checkpoint(there, back, weight_map, "1d", **options)
    assert sorted(moved.moved) == sorted(returned.moved)
    assert moved.copied == returned.copied
    return there, back


def test_one_safetensors_file(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    save_file(trained[0].state_dict(), source, metadata={"format": "pt"})
    there, back = there_and_back(source, weight_map)
    assert back.read_bytes() == source.read_bytes()
    assert sha256_of_data(there).popitem()[1] == sha256_of_data(source).popitem()[1]
    with safe_open(there, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    moved = load_file(there)
    torch.testing.assert_close(moved, weight_map.to_2d(dict(trained[0].state_dict())), rtol=0, atol=0)
    assert {name for name, value in moved.items() if value.dim() == 4} == MOVES


def sharded(state: dict[str, torch.Tensor], folder: Path, form: str) -> None:
    """Shards as `transformers` writes them, with the index and other files beside them."""
    folder.mkdir()
    names, stem = list(state), "model" if form == "safetensors" else "pytorch_model"
    index = {}
    for at, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{at:05}-of-00002.{form}"
        shard = {f"model.{name}": state[name] for name in part}
        index |= dict.fromkeys(shard, file)
        save_file(shard, folder / file) if form == "safetensors" else torch.save(shard, folder / file)
    (folder / f"{stem}.{form}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    (folder / "config.json").write_text('{"d": 3}')


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_and_what_is_beside_them(trained: Any, weight_map: WeightMap, tmp_path: Path, form: str) -> None:
    source = tmp_path / "model"
    sharded(trained[0].state_dict(), source, form)
    there, back = there_and_back(source, weight_map)
    assert sorted(p.name for p in there.iterdir()) == sorted(p.name for p in source.iterdir())
    loaded: dict[str, torch.Tensor] = {}
    for file in sorted(there.glob(f"*.{form}")):
        loaded |= load_file(file) if form == "safetensors" else torch.load(file, weights_only=True)
        assert sha256_of_data(back / file.name) == sha256_of_data(source / file.name)
    assert {name for name, value in loaded.items() if value.dim() == 4} == {f"model.{name}" for name in MOVES}
    assert (there / "config.json").read_text() == '{"d": 3}'
    if form == "safetensors":
        assert all((back / p.name).read_bytes() == p.read_bytes() for p in source.iterdir())


def checkpoint(trained: Any) -> dict[str, Any]:
    """What training scripts save: nested states, optimizer, averages, scaler, numbers."""
    model, optimizer = trained
    state = model.state_dict()
    return {
        "epoch": 3,
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "shared": {"first": state["conv.weight"], "whole": state["head.weight"]},
        "ema": {"n_averaged": torch.tensor(3), **{f"module.{name}": value.clone() for name, value in state.items()}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.1]}],
        "scaler": {"scale": 65536.0, "_growth_tracker": 2},
    }


def test_a_checkpoint_with_optimizer_state(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "last.ckpt"
    torch.save(checkpoint(trained), source)
    there, back = there_and_back(source, weight_map)
    first, last = (torch.load(one, weights_only=True) for one in (source, back))
    assert_same(first, last)
    assert sorted(sha256_of_data(source).values()) == sorted(sha256_of_data(back).values())
    moved = torch.load(there, weights_only=True)
    assert moved["state_dict"]["module.conv.weight"].dim() == moved["ema"]["module.up.weight"].dim() == 4
    slots = moved["optimizer_states"][0]["state"]
    assert sorted(one["exp_avg"].dim() for one in slots.values()) == [1, 1, 1, 1, 1, 2, 4, 4]
    assert moved["lr_schedulers"] == first["lr_schedulers"]
    memory = moved["state_dict"]["module.conv.weight"].untyped_storage().data_ptr()
    assert moved["shared"]["first"].untyped_storage().data_ptr() == memory
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in Net().parameters() if (p.dim() > 1) is heavy]} for heavy in (True, False)]
    )
    optimizer.load_state_dict(last["optimizer_states"][0])


def test_a_trainers_folder(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint-500"
    source.mkdir()
    model, optimizer = trained
    save_file(model.state_dict(), source / "model.safetensors")
    torch.save(optimizer.state_dict(), source / "optimizer.pt")
    torch.save({"last_epoch": 3}, source / "scheduler.pt")
    torch.save(Runs(tmp_path / "ran"), source / "training_args.bin")
    torch.save({"python": (3, (1, 2), None)}, source / "rng_state_0.pth")
    (source / "trainer_state.json").write_text("{}")
    (source / "logs").mkdir()
    (source / "logs/events").write_bytes(b"x")
    (source / "5gram.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    (source / "counter.ckpt").write_text("5")
    moved = convert_checkpoint(source, tmp_path / "out", weight_map)
    assert moved.layout == "folder"
    assert set(moved.copied) == {
        "scheduler.pt",
        "training_args.bin",
        "rng_state_0.pth",
        "trainer_state.json",
        "events",
        "5gram.bin",
        "counter.ckpt",
    }
    assert torch.load(tmp_path / "out/optimizer.pt", weights_only=True)["state"][0]["exp_avg"].dim() == 4
    assert (tmp_path / "out/training_args.bin").read_bytes() == (source / "training_args.bin").read_bytes()
    assert (tmp_path / "out/logs/events").read_bytes() == b"x"
    assert not (tmp_path / "ran").exists()


def test_pickled_code_is_only_run_if_trusted(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "one.ckpt"
    torch.save({"state_dict": trained[0].state_dict(), "hyper_parameters": Runs(tmp_path / "ran")}, source)
    with pytest.raises(CheckpointError, match=r"holds more than weights: .*pathlib.*trust=True \(--trust\)"):
        convert_checkpoint(source, tmp_path / "two.ckpt", weight_map)
    assert not (tmp_path / "ran").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.ckpt"]
    convert_checkpoint(source, tmp_path / "two.ckpt", weight_map, trust=True)
    assert (tmp_path / "ran").exists()


def test_the_format_before_zip(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    torch.save(trained[0].state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert_checkpoint(tmp_path / "old.pth", tmp_path / "new.pth", weight_map)
    assert torch.load(tmp_path / "new.pth", weights_only=True)["conv.weight"].dim() == 4


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_urls(trained: Any, weight_map: WeightMap, name: str) -> None:
    memory, home = fsspec.filesystem("memory"), f"/{name.partition('.')[2]}"
    file = io.BytesIO()
    if name.endswith(".pt"):
        torch.save(trained[0].state_dict(), file)
    else:
        file.write(save(trained[0].state_dict()))
    memory.pipe(f"{home}/in/{name}", file.getvalue())
    convert_checkpoint(f"memory:/{home}/in/{name}", f"memory:/{home}/out/{name}", weight_map)
    convert_checkpoint(f"memory:/{home}/out/{name}", f"memory:/{home}/back/{name}", weight_map, "1d")
    assert memory.find(f"{home}/out") == [f"{home}/out/{name}"]
    if name == "model.safetensors":
        assert memory.cat(f"{home}/back/{name}") == file.getvalue()
    convert_checkpoint(f"memory:/{home}/in", f"memory:/{home}/folder", weight_map)
    assert memory.find(f"{home}/folder") == [f"{home}/folder/{name}"]
    with pytest.raises(CheckpointError, match="nowhere"):
        convert_checkpoint("nowhere://in", "memory://out", weight_map)


def test_progress_is_told(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    save_file(trained[0].state_dict(), source)
    told: list[tuple[int, int]] = []
    convert_checkpoint(source, tmp_path / "two", weight_map, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (source.stat().st_size, source.stat().st_size)


BROKEN: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "no such file": (lambda path, state: None, "doesn't exist"),
    "empty": (lambda path, state: path.touch(), "it has 0 bytes"),
    "cut": (lambda path, state: (save_file(state, path), os.truncate(path, path.stat().st_size - 9)), "cut off"),
    "another model's": (
        lambda path, state: save_file({"a": torch.ones(3)}, path),
        "belongs to Net: no entry 'conv.weight'",
    ),
    "a part": (
        lambda path, state: save_file({"conv.weight": state["conv.weight"]}, path),
        "1 of the 2 entries that move are missing: up.weight",
    ),
    "another shape": (
        lambda path, state: save_file({**state, "up.weight": torch.ones(8, 4, 5)}, path),
        r"'up.weight' has shape \[8, 4, 5\]; expected \[8, 4, 2\]",
    ),
    "in 2-D": (
        lambda path, state: save_file({**state, "up.weight": torch.ones(8, 4, 1, 2)}, path),
        "and it has been there",
    ),
    "a cut zip": (
        lambda path, state: (torch.save(state, path), os.truncate(path, path.stat().st_size // 2)),
        "can't be read by torch.load",
    ),
    "a number": (lambda path, state: torch.save(3, path), "belongs to Net"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_told_and_no_target_left(
    trained: Any, weight_map: WeightMap, tmp_path: Path, name: str
) -> None:
    make, words = BROKEN[name]
    source = tmp_path / "source"
    make(source, trained[0].state_dict())
    before = source.read_bytes() if source.exists() else None
    with pytest.raises(CheckpointError, match=words):
        convert_checkpoint(source, tmp_path / "target", weight_map)
    assert sorted(p.name for p in tmp_path.iterdir()) == ([] if before is None else ["source"])
    assert before is None or source.read_bytes() == before


def test_shards_that_are_not_there_or_not_what_was_promised(
    trained: Any, weight_map: WeightMap, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    sharded(trained[0].state_dict(), source, "safetensors")
    (first, second) = sorted(source.glob("*.safetensors"))
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(CheckpointError, match=f"not beside it: {second.name}"):
        convert_checkpoint(source, tmp_path / "out", weight_map)
    state = load_file(first)
    name = next(name for name in state if not name.endswith("conv.weight"))
    second.write_bytes(kept)
    save_file({key: value for key, value in state.items() if key != name}, first)
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        convert_checkpoint(source, tmp_path / "out", weight_map)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_wrong_arguments(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    save_file(trained[0].state_dict(), source)
    with pytest.raises(ValueError, match="direction is '3d'; accepted: '2d', '1d'"):
        convert_checkpoint(source, tmp_path / "b", weight_map, "3d")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is the source or inside it"):
        convert_checkpoint(source, source, weight_map, overwrite=True)
    with pytest.raises(CheckpointError, match="is not a weight map"):
        convert_checkpoint(source, tmp_path / "b", source)
    (tmp_path / "b").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="b exists; remove it"):
        convert_checkpoint(source, tmp_path / "b", weight_map)
    assert (tmp_path / "b").read_bytes() == b"precious"
    convert_checkpoint(source, tmp_path / "b", weight_map, overwrite=True)
    assert load_file(tmp_path / "b")["conv.weight"].dim() == 4


def test_nothing_that_is_needed_is_replaced(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    source, held = tmp_path / "runs/1/a.safetensors", tmp_path / "runs/map.json"
    source.parent.mkdir(parents=True)
    save_file(trained[0].state_dict(), source)
    weight_map.save(held)
    elsewhere = tmp_path / "elsewhere.safetensors"
    shutil.copy(source, elsewhere)
    (tmp_path / "link.safetensors").symlink_to(elsewhere)
    (tmp_path / "linked").symlink_to(tmp_path / "runs")
    for one, target, told in [
        (source, tmp_path / "runs", "is or holds"),
        (source.parent, tmp_path / "runs", "is or holds"),
        (source.parent, tmp_path / "linked", "is or holds"),
        (source.parent, tmp_path / "linked/1", "is the source or inside it"),
        (elsewhere, tmp_path / "runs", "which is or holds .*map.json"),
        (tmp_path / "link.safetensors", elsewhere, "is the source or inside it"),
    ]:
        with pytest.raises(ValueError, match=told):
            convert_checkpoint(one, target, held, overwrite=True)
    assert load_file(source)["conv.weight"].dim() == 3
    assert load_file(elsewhere)["conv.weight"].dim() == 3


@pytest.mark.parametrize("name", ["one.pt", "one.safetensors"])
def test_a_map_in_which_nothing_moves_copies(trained: Any, tmp_path: Path, name: str) -> None:
    """As that of a model whose weights are all computed."""
    state = trained[0].state_dict()
    (torch.save if name.endswith("pt") else save_file)(state, tmp_path / name)
    moved = convert_checkpoint(tmp_path / name, tmp_path / "out", WeightMap.between(state, state))
    assert moved.moved == ()
    assert (tmp_path / "out").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", ["new/folder/a.safetensors", f"{'n' * 243}.safetensors", f"{'€' * 80}.st"])
def test_targets_in_new_folders_and_of_long_names(
    trained: Any, weight_map: WeightMap, tmp_path: Path, name: str
) -> None:
    save_file(trained[0].state_dict(), tmp_path / "a.safetensors")
    for overwrite in (False, True):
        convert_checkpoint(tmp_path / "a.safetensors", tmp_path / name, weight_map, overwrite=overwrite)
    assert load_file(tmp_path / name)["conv.weight"].dim() == 4
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2


def test_dots_in_paths(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    save_file(trained[0].state_dict(), tmp_path / "a/b/a.safetensors")
    convert_checkpoint(f"{tmp_path}/a/b/.", f"{tmp_path}/a/b/../c", weight_map)
    assert load_file(tmp_path / "a/c/a.safetensors")["conv.weight"].dim() == 4


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_target_that_is_replaced_is_replaced_whole(
    trained: Any, weight_map: WeightMap, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "source"
    if kind == "folder":
        sharded(trained[0].state_dict(), source, "safetensors")
    else:
        save_file(trained[0].state_dict(), source)
    if kind == "file":
        (tmp_path / "out").write_bytes(b"old")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/old").touch()
    convert_checkpoint(source, tmp_path / "out", weight_map, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]
    assert (tmp_path / "out").is_dir() is (kind == "folder")
    assert not (tmp_path / "out/old").exists()


def test_a_file_never_replaces_a_folder(trained: Any, weight_map: WeightMap, tmp_path: Path) -> None:
    save_file(trained[0].state_dict(), tmp_path / "source")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").touch()
    with pytest.raises(CheckpointError, match="out is a folder; name a file in it"):
        convert_checkpoint(tmp_path / "source", tmp_path / "out", weight_map, overwrite=True)
    assert (tmp_path / "out/precious").exists()


def test_no_permission(trained: Any, weight_map: WeightMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "one.safetensors"
    save_file(trained[0].state_dict(), source)
    if os.geteuid() == 0:  # root may write anywhere: the system's answer is what is tested
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        convert_checkpoint(source, tmp_path / "two.safetensors", weight_map)
    tmp_path.chmod(0o700)
    assert [p.name for p in tmp_path.iterdir()] == ["one.safetensors"]


def test_a_full_disk(trained: Any, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no small filesystem can be mounted here")
    try:
        model = nn.Conv1d(64, 64, 9)
        weight_map = convsurgeon.convert(model, torch.randn(1, 64, 9)).weight_map
        for name in ("model.safetensors", "model.pt"):
            save_file(model.state_dict(), tmp_path / name) if name != "model.pt" else torch.save(
                model.state_dict(), tmp_path / name
            )
            before = (tmp_path / name).read_bytes()
            with pytest.raises(OSError, match="No space left"):
                convert_checkpoint(tmp_path / name, small / name, weight_map)
            assert list(small.iterdir()) == []
            assert (tmp_path / name).read_bytes() == before
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_kill_in_mid_write_leaves_no_target(weight_map: WeightMap, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    save_file({**Net().state_dict(), "more": torch.zeros(1 << 24)}, source)
    weight_map.save(tmp_path / "map.json")
    slow = (
        "import sys, time, convsurgeon\n"
        "def tell(done, total):\n"
        "    print(done, flush=True)\n"
        "    time.sleep(60)\n"
        "convsurgeon.convert_checkpoint(*sys.argv[1:], progress=tell)\n"
    )
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    command = [sys.executable, "-c", slow, source, tmp_path / "target", tmp_path / "map.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
    assert not (tmp_path / "target").exists()
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    convert_checkpoint(source, tmp_path / "target", weight_map)
    assert load_file(tmp_path / "target")["up.weight"].dim() == 4
