"""``convsurgeon fit`` as a user types it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from convsurgeon.commands import app
from convsurgeon.targets import target_names

MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(8, 16, 5, stride=2), nn.BatchNorm1d(16), nn.ReLU()).eval()

def with_sample():
    return net(), torch.randn(1, 8, 50)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("nets", None)  # another test's
    yield
    sys.modules.pop("nets", None)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["fit", *words])


def test_what_fits_ends_with_0_and_what_does_not_with_1() -> None:
    misfit = run("nets.py:net", "--target", "generic-4d", "--input", "1x8x50")
    assert misfit.exit_code == 1
    assert "rank is 3; accepted: 4" in misfit.stdout
    fitting = run("nets.py:with_sample", "-t", "generic-4d", "--convert")
    assert fitting.exit_code == 0
    assert "everything fits" in fitting.stdout


def test_square_fits_what_asks_for_equal_strides() -> None:
    assert run("nets.py:with_sample", "-t", "artpec-9", "--convert").exit_code == 1
    assert run("nets.py:with_sample", "-t", "artpec-9", "--convert", "--square").exit_code == 0
    alone = run("nets.py:with_sample", "-t", "artpec-9", "--square")
    assert alone.exit_code == 2
    assert "goes with --convert" in alone.stderr


def test_json() -> None:
    data = json.loads(run("nets.py:with_sample", "-t", "generic-4d", "--json").stdout)
    assert data["fits"] is False
    assert data["operators"][0]["misfits"][0]["quantity"] == "rank"
    strict = run("nets.py:with_sample", "-t", "generic-4d", "--json", "--strict")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["error"] == "MisfitError"


def test_converting_for_what_it_does_not_fit_ends_with_1(tmp_path: Path) -> None:
    words = ["convert", "nets.py:with_sample", "-t", "mine.toml", "--strict", "-o", "out"]
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "Mine"\nstatic_shapes = true\nsource = "here"\nranks = [7]\n'
        '[sources.here]\ndocument = "Test"\nkind = "convention"\ndate = 2026-01-01\n'
    )
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "strict=True asks that every operator fits" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    text = '[sources.here]\ndocument = "Test"\nkind = "convention"\ndate = 2026-01-01\n'
    head = 'name = "mine"\ntitle = "Mine"\nstatic_shapes = true\nsource = "here"\nranks = [1, 2, 3]\n'
    (tmp_path / "mine.toml").write_text(head + text)
    assert run("nets.py:with_sample", "-t", "mine.toml").exit_code == 0
    (tmp_path / "mine.toml").write_text(head + "rank = 3\n" + text)
    wrong = run("nets.py:with_sample", "-t", "mine.toml")
    assert wrong.exit_code == 2
    assert "mine.toml:6: the profile has 'rank'" in wrong.stderr


def test_wrong_words() -> None:
    unknown = run("nets.py:with_sample", "-t", "ethos")
    assert unknown.exit_code == 2
    assert "known: ane, artpec-8" in unknown.stderr
    for more in ([], ["--convert"]):
        bare = run("nets.py:net", "-t", "generic-4d", *more)
        assert bare.exit_code == 2
        assert "nets.py:net gives no sample; give --input" in bare.stderr


def test_the_known_accelerators_are_listed() -> None:
    shown = CliRunner().invoke(app, ["targets"])
    assert shown.exit_code == 0
    told = run("--help").stdout
    found = json.loads(CliRunner().invoke(app, ["targets", "--json"]).stdout)
    assert [one["name"] for one in found] == list(target_names())
    for one in found:
        assert one["name"] in shown.stdout
        assert one["name"] in told
        assert 0 <= one["confirmed"] <= one["limits"]
        assert one["sources"]


def test_a_program_with_an_open_length_asks_for_it(tmp_path: Path) -> None:
    dims = {"input": {2: torch.export.Dim("length", min=8, max=400)}}
    program = torch.export.export(
        nn.Sequential(nn.Conv1d(8, 8, 3)).eval(), (torch.randn(1, 8, 50),), dynamic_shapes=dims
    )
    torch.export.save(program, tmp_path / "net.pt2")
    convert = ["convert", "net.pt2", "-o", "out", "-t", "ethos-u55"]
    for words in (["fit", "net.pt2", "-t", "ethos-u55"], ["fit", "net.pt2", "-t", "ethos-u55", "--convert"], convert):
        asked = CliRunner().invoke(app, words)
        assert asked.exit_code == 2
        assert "axis 2 of input" in asked.stderr
        assert "(in a shell: --input) of the length" in asked.stderr
    assert run("net.pt2", "-t", "ethos-u55", "--input", "1x8x20", "--convert").exit_code == 0
    assert run("net.pt2", "-t", "generic-4d", "--convert").exit_code == 0
    assert CliRunner().invoke(app, [*convert, "--input", "1x8x20"]).exit_code == 0
