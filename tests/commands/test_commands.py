"""The command line as a user types it: what it writes, says, and how it ends."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import Runs
from tuning.chance import clock, for_last
from typer.testing import CliRunner, Result

import convsurgeon
from convsurgeon import commands
from convsurgeon.commands import app

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv1d(8, 16, 5, padding=2), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x, mask=None):
        y = torch.relu(self.norm(self.stem(x)))
        return self.head((y if mask is None else y * mask).mean(-1))

def net(seed=0):
    torch.manual_seed(seed)
    return Net().eval()

def other():
    return net(1)

def with_sample():
    return net(), [torch.randn(2, 8, 50), {"x": torch.randn(1, 8, 31)}]

ready = net()

class Grows(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv1d(8, 8, 3), 0

    def forward(self, x):
        self.seen += 1
        return self.conv(x) if x.sum() > float("-inf") else x

def grows():
    return Grows().eval(), torch.randn(1, 8, 9)

def without():
    return nn.Linear(3, 3), torch.randn(2, 3)

def fails():
    return net().absent

class Loud(Net):
    def forward(self, x):
        print("running")
        return super().forward(x) / 0

def loud():
    print("building")
    return Loud().eval(), torch.randn(2, 8, 50)

def number():
    return 3

def quits():
    raise SystemExit(0)

constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("nets", None)  # another test's
    yield tmp_path
    sys.modules.pop("nets", None)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def data(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


def test_convert_writes_model_map_and_report(here: Path) -> None:
    done = run("convert", "nets.py:with_sample", "-o", "out")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (here / "out").iterdir()) == [
        "model.pt2",
        "report.html",
        "report.json",
        "report.txt",
        "weight_map.json",
    ]
    assert "1 x Conv1d -> Conv2d" in done.stdout
    assert (here / "out/report.txt").read_text() in done.stdout
    assert json.loads((here / "out/report.json").read_text())["verification"]["passed"] is True
    assert [e.name for e in convsurgeon.WeightMap.load(here / "out/weight_map.json").entries if e.moves] == [
        "stem.weight"
    ]
    assert run("verify", "nets.py:with_sample", "out/model.pt2", "-i", "2x8x50").exit_code == 0
    program = torch.export.load(str(here / "out/model.pt2")).module()
    assert program(torch.randn(3, 8, 77)).shape == (3, 3)


def test_what_is_tuned_is_written_with_its_choice(here: Path) -> None:
    with clock(for_last):
        done = run("convert", "nets.py:with_sample", "-o", "out", "--tune")
        assert done.exit_code == 0, done.output
        assert "tuned       2.00 x as fast as converted" in done.stdout
        assert (here / "out/tuning.json").exists()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("convsurgeon.tuning.tuner.decide", None)
            again = run("convert", "nets.py:with_sample", "-o", "again", "--choice", "out/tuning.json")
    assert again.exit_code == 0, again.output
    assert "tuned       carried out as it was saved" in again.stdout
    assert run("verify", "nets.py:with_sample", "again/model.pt2", "-i", "2x8x50").exit_code == 0
    assert run("convert", "nets.py:with_sample", "-o", "third", "--choice", "none.json").exit_code == 2
    assert not (here / "third").exists()


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
def test_convert_to_onnx(here: Path) -> None:
    pytest.importorskip("onnxscript")
    done = run("convert", "nets.py:net", "-i", "1x8x40", "-o", "out", "--to", "onnx")
    assert done.exit_code == 0, done.output
    assert "run by onnxruntime, and equal" in done.stdout
    import onnx

    operators = {node.op_type for node in onnx.load(here / "out/model.onnx").graph.node}
    assert "Conv" in operators


def test_convert_to_weights_with_a_checkpoint(here: Path) -> None:
    state = {f"model.{name}": value for name, value in _net(here).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, here / "trained.ckpt")
    done = run(
        "convert", "nets.py:other", "--checkpoint", "trained.ckpt", "-i", "1x8x40", "--to", "safetensors", "-o", "out"
    )
    assert done.exit_code == 0, done.output
    found = load_file(here / "out/model.safetensors")
    assert found["stem.weight"].shape == (16, 8, 1, 5)
    torch.testing.assert_close(found["stem.weight"].squeeze(2), state["model.stem.weight"])
    assert set(found) == set(_net(here).state_dict())


@pytest.mark.parametrize("name", ["whole.safetensors", "folder"])
def test_a_checkpoint_of_safetensors(here: Path, name: str) -> None:
    state = _net(here).state_dict()
    if name == "folder":
        (here / name).mkdir()
        save_file({k: v for k, v in state.items() if "norm" in k}, here / name / "a.safetensors")
        save_file({k: v for k, v in state.items() if "norm" not in k}, here / name / "b.safetensors")
    else:
        save_file(state, here / name)
    done = run("convert", "nets:other", "--checkpoint", name, "-i", "1x8x40", "--to", "safetensors", "-o", "out")
    assert done.exit_code == 0, done.output
    assert torch.equal(load_file(here / "out/model.safetensors")["head.weight"], state["head.weight"])


def _net(here: Path) -> torch.nn.Module:
    model: torch.nn.Module = runpy.run_path(str(here / "nets.py"))["net"]()
    return model


def test_a_checkpoint_that_does_not_fit(here: Path) -> None:
    state = _net(here).state_dict()
    torch.save({**state, "stem.weight": torch.ones(16, 8, 7)}, here / "long.pt")
    del state["head.bias"]
    torch.save(state, here / "short.pt")
    done = run("convert", "nets:net", "--checkpoint", "long.pt", "-i", "1x8x9", "-o", "out")
    assert done.exit_code == 2
    assert "'stem.weight' has shape [16, 8, 7]; expected [16, 8, 5]" in done.stderr
    done = run("convert", "nets:net", "--checkpoint", "short.pt", "-i", "1x8x9", "-o", "out")
    assert done.exit_code == 2
    assert "missing: head.bias" in done.stderr
    assert not (here / "out").exists()


def test_a_program_comes_in_and_goes_out(here: Path) -> None:
    model, x = _net(here), torch.randn(2, 8, 50)
    torch.export.save(torch.export.export(model, (x,)), here / "one.pt2")
    assert run("convert", "one.pt2", "-o", "out").exit_code == 0
    assert run("verify", "one.pt2", "out/model.pt2").exit_code == 0


def test_what_stands_there_is_not_overwritten_unless_asked(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/precious").touch()
    words = ("convert", "nets:with_sample", "-o", "out", "--to", "safetensors")
    assert run(*words).exit_code == 2
    assert (here / "out/precious").exists()
    assert run(*words, "--overwrite").exit_code == 0
    assert not (here / "out/precious").exists()
    assert sorted(p.name for p in here.iterdir() if not p.name.startswith("__")) == ["nets.py", "out"]


@pytest.mark.parametrize(
    ("model", "options", "precious"),
    [
        ("pkg.nets:with_sample", (), "pkg/nets.py"),
        ("nets:with_sample", ("--target", "pkg/mine.toml"), "pkg/mine.toml"),
        ("nets:with_sample", ("--choice", "pkg/tuning.json"), "pkg/tuning.json"),
    ],
)
def test_a_folder_that_holds_what_is_read_is_not_replaced(
    here: Path, model: str, options: tuple[str, ...], precious: str
) -> None:
    (here / "pkg").mkdir()
    (here / precious).write_text(MODELS)
    done = run("convert", model, "-o", "pkg", "--to", "safetensors", "--overwrite", *options)
    assert done.exit_code == 2
    assert "write elsewhere" in done.stderr
    assert (here / precious).exists()


def test_plan_says_what_would_be_done_and_writes_nothing(here: Path) -> None:
    done = run("plan", "nets:net", "-i", "1x8x40", "--exclude", "norm")
    assert done.exit_code == 0
    assert "excluded by exclude=['norm']" in " ".join(done.stdout.split())
    assert data("plan", "nets:ready", "-i", "1x8x40")["capture"]["how"] == "trace"
    assert [p.name for p in here.iterdir() if not p.name.startswith("__")] == ["nets.py"]


def test_a_model_whose_python_stays(here: Path) -> None:
    assert data("plan", "nets:grows")["capture"]["how"] in ("export", "islands")


@pytest.mark.parametrize("command", [("plan",), ("convert", "-o", "out")])
def test_nothing_to_convert_has_a_code_of_its_own(here: Path, command: tuple[str, ...]) -> None:
    done = run(command[0], "nets:without", *command[1:])
    assert done.exit_code == 3
    assert not (here / "out").exists()


def test_verify_tells_models_apart(here: Path) -> None:
    assert run("verify", "nets:net", "nets:ready", "-i", "1x8x40").exit_code == 0
    done = run("verify", "nets:net", "nets:other", "-i", "1x8x40", "--gradients")
    assert done.exit_code == 1
    assert "DIFFERENT" in done.stdout
    assert data("verify", "nets:net", "nets:other", "-i", "1x8x40")["passed"] is False
    assert run("verify", "nets:net", "nets:other", "-i", "1x8x40", "--rtol", "1", "--atol", "10").exit_code == 0


def test_two_files_whose_neighbours_have_one_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, seed in (("old", 0), ("new", 1)):
        (here / folder).mkdir()
        (here / folder / "net.py").write_text("from layers_beside import build")
        (here / folder / "layers_beside.py").write_text(f"{MODELS}\n\ndef build():\n    return net({seed})\n")
    monkeypatch.delitem(sys.modules, "layers_beside", raising=False)
    assert run("verify", "old/net.py:build", "old/net.py:build", "-i", "1x8x9").exit_code == 0
    done = run("verify", "old/net.py:build", "new/net.py:build", "-i", "1x8x9")
    assert done.exit_code == 2
    assert "would import 'layers_beside' from" in done.stderr


def test_standard_output_is_for_the_result_whatever_the_model_prints(here: Path) -> None:
    done = run("plan", "nets:loud")
    assert done.stdout.startswith("  captured by")
    assert "building" in done.stderr
    assert "running" in done.stderr


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_json_is_json_where_figures_are_infinite(here: Path) -> None:
    found = json.loads(run("verify", "nets:net", "nets:loud", "-i", "1x8x9", "--json").stdout, parse_constant=_refuse)
    assert "inf" in {one["error"] for one in found["comparisons"]}
    assert run("convert", "nets:loud", "-o", "out").exit_code == 0
    json.loads((here / "out/report.json").read_text(), parse_constant=_refuse)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "nets"), "MODEL is 'nets'; accepted: package.module:callable"),
        (("plan", "absent.py:net"), "absent.py is no file"),
        (("plan", "absent:net"), "importing absent failed"),
        (("plan", "nets:absent"), "it has "),
        (("plan", "nets:fails"), "in fails: return net().absent"),
        (("plan", "nets:quits"), "calling nets:quits failed"),
        (("plan", "nets:number"), "gives a int; accepted: a torch.nn.Module"),
        (("plan", "nets:constant"), "is a int"),
        (("plan", "nets:net", "-i", "1x7x40"), "can't run on (float32[1, 7, 40])"),
        (("plan", "nets:net", "-i", "1x8x40", "--unit-axis", "3"), "unit_axis is 3; accepted: -2, -1"),
        (("plan", "nets:net", "-i", "1x8x40", "--lift", "up"), "lift is 'up'"),
        (("plan", "nets:net", "-i", "1x8x40", "--exclude", "absent.*"), "matches no module"),
        (("convert", "nets:net", "-i", "1x8x40", "-o", "out", "--to", "exe"), "--to is 'exe'; accepted: pt2"),
        (("convert", "nets:net", "-i", "1x8x40", "-o", ".", "--overwrite"), "write elsewhere"),
        (("convert", "nets.py:net", "-i", "1x8x40", "-o", "nets.py", "--overwrite"), "write elsewhere"),
        (("convert", "nets:with_sample", "-o", "out", "--strict"), "strict asks that every operator fits a target"),
        (("convert", "nets:with_sample", "-o", "out", "--threads", "2"), "--threads says what to tune for"),
        (("convert", "nets:with_sample", "-o", "out", "--budget", "9"), "--budget says for how many seconds to tune"),
        (("convert", "nets:net", "-o", "out", "--to", "safetensors", "--tune"), "--tune and --choice take one"),
        (("plan", "nets:net", "-i", "1x8x99999999999999"), "--input 1x8x99999999999999:float32 can't be made"),
        (("bench", "nets:with_sample", "--budget", "9"), "--budget says for how many seconds to tune"),
        (("convert", "nets:net", "-o", "out"), "nets:net gives no sample, and --to pt2 takes one"),
        (("verify", "nets:net", "nets:net"), "there is nothing to call the models with"),
        (("verify", "nets:net", "nets:net", "-i", "1x8x9", "--rtol", "1"), "--rtol and --atol go together"),
        (("plan", "absent.pt2"), "absent.pt2"),
    ],
)
def test_bad_input_is_told_in_words(here: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    answer = json.loads(run(*words, "--json").stdout)
    assert said in " ".join(answer["message"].split())


def test_a_program_with_pickled_code_is_not_loaded(here: Path) -> None:
    torch.export.save(torch.export.export(_net(here), (torch.randn(2, 8, 50),)), here / "one.pt2")
    with zipfile.ZipFile(here / "one.pt2") as old, zipfile.ZipFile(here / "two.pt2", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if "sample_inputs" in entry.filename:
                torch.save(Runs(here / "ran"), here / "evil.pt")
                content = (here / "evil.pt").read_bytes()
            new.writestr(entry, content)
    done = run("plan", "two.pt2")
    assert done.exit_code == 2
    assert "pathlib" in done.stderr or "touch" in done.stderr
    assert "--trust" in done.stderr
    assert not (here / "ran").exists()
    (here / "cut.pt2").write_bytes((here / "one.pt2").read_bytes()[:900])
    assert run("plan", "cut.pt2").exit_code == 2


def test_rules_are_listed() -> None:
    assert "conv1d" in run("rules").stdout
    assert any("nn.Conv1d" in one["spellings"] for one in data("rules"))


def test_checkpoint_moves_there_and_back_without_torch(here: Path) -> None:
    assert run("convert", "nets:with_sample", "-o", "out", "--to", "safetensors").exit_code == 0
    save_file(_net(here).state_dict(), here / "one.safetensors")
    script = (
        "import sys; from convsurgeon.commands import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    for words in (("one.safetensors", "two.safetensors"), ("two.safetensors", "three.safetensors", "--to-1d")):
        command = [sys.executable, "-c", script, "checkpoint", *words, "--map", "out/weight_map.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "1 of 9 tensors moved" in done.stdout
        assert done.stderr.strip() == "False"
    assert load_file(here / "two.safetensors")["stem.weight"].shape == (16, 8, 1, 5)
    assert (here / "three.safetensors").read_bytes() == (here / "one.safetensors").read_bytes()


def test_a_defect_is_no_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr(commands, "app", broken)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 70
    assert "nobody foresaw this" in capsys.readouterr().err
