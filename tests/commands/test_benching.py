"""``bench`` as a user types it: which variants it times, and what it says of those that can't be."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import convsurgeon
from convsurgeon.commands import app, benching, runtimes
from convsurgeon.commands.runtimes import Exported

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv1d(8, 16, 5, padding=2), nn.Linear(16, 3)

    def forward(self, x, shift, scale=2.0):
        return self.head((self.stem(x) * scale + shift).mean(-1))

def net():
    return Net().eval(), {"shift": torch.randn(2, 1, 50), "x": torch.randn(2, 8, 50)}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(MODELS)
    yield
    torch.set_num_threads(threads)
    sys.modules.pop("nets", None)


def bench(*options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "nets.py:net", "--rounds", "3", "--no-compiled", *options])


def data(*options: str) -> Any:
    done = bench(*options, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def names(found: Any) -> list[str]:
    return [one["name"] for one in found]


def test_both_are_timed_in_turn() -> None:
    done = bench("--no-runtimes", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert "x faster" in done.stdout
    assert "float32, 1 thread, torch" in done.stdout
    found = data("--no-runtimes")
    figures = found["figures"]
    assert names(figures) == ["original", "converted"]
    assert (figures[0]["speedup"], figures[0]["noise"], found["refused"]) == (1.0, 0.0, [])
    assert all(0 < one["least_s"] <= one["median_s"] <= one["most_s"] for one in figures)
    assert all(one["peak_bytes"] >= 2 * 16 * 50 * 4 for one in figures)


@pytest.mark.parametrize("options", [(), ("--io", "2d")])
@pytest.mark.parametrize("tool", [("onnxruntime", "onnxscript"), ("openvino",)])
def test_other_tools_run_both(tool: tuple[str, ...], options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in tool:
        pytest.importorskip(package)
    monkeypatch.setattr(benching, "installed", lambda: {tool[0]: runtimes.installed()[tool[0]]})
    found = data(*options)
    assert found["refused"] == []
    assert names(found["figures"])[2:] == [f"original, {tool[0]}", f"converted, {tool[0]}"]
    assert all(one["peak_bytes"] is None for one in found["figures"][2:])


def test_what_a_tool_refuses_is_told_and_the_rest_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(exported: Exported) -> Any:
        raise NotImplementedError("no kernel\nfor this")

    def lies(exported: Exported) -> Any:
        return exported.checked(lambda: [torch.zeros(2, 3).numpy()])

    def crops(exported: Exported) -> Any:
        return exported.checked(lambda: [torch.zeros(2, 2).numpy()])

    monkeypatch.setattr(benching, "installed", lambda: {"strict": refuses, "wrong": lies, "short": crops})
    found = data()
    assert names(found["figures"]) == ["original", "converted"]
    assert names(found["refused"])[::2] == ["original, strict", "original, wrong", "original, short"]
    reasons = [one["reason"] for one in found["refused"]][::2]
    assert reasons[0] == "NotImplementedError: no kernel for this"
    assert "computes something else" in reasons[1]
    assert "other shapes" in reasons[2]
    assert "original, strict: refused: NotImplementedError" in bench().stdout


def test_what_is_asked_for_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def tune(conversion: convsurgeon.Conversion, samples: Any, *, budget_s: float) -> convsurgeon.Conversion:
        asked.append(budget_s)
        return conversion

    monkeypatch.setattr(convsurgeon, "tune", tune, raising=False)

    def compiled(module: torch.nn.Module, *, options: dict[str, bool] | None) -> torch.nn.Module:
        options_seen.append(options)
        return module

    options_seen: list[dict[str, bool] | None] = []
    monkeypatch.setattr(torch, "compile", compiled)
    found = data("--no-runtimes", "--compiled", "--tune", "--budget", "2", "--profile")
    plain = ["original", "converted", "tuned"]
    assert names(found["figures"]) == [*plain, *(f"{name}, compiled" for name in plain)]
    assert asked == [2.0]
    assert options_seen == [None, None, {"layout_optimization": False}]
    assert names(found["profile"]["costs"])
    assert "node by node" in bench("--no-runtimes", "--profile").stdout


def test_the_model_is_cast() -> None:
    assert "bfloat16" in data("--no-runtimes", "--dtype", "bfloat16")["machine"]
    done = bench("--dtype", "float8")
    assert done.exit_code == 2
    assert "accepted: float32, bfloat16, float16" in " ".join(done.stderr.split())


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert bench("--no-runtimes", "--plot", "bench.svg").exit_code == 0
    assert "times as fast" in (tmp_path / "bench.svg").read_text()
    done = bench("--plot", "bench.txt")
    assert done.exit_code == 2
    assert "accepted: a suffix among" in " ".join(done.stderr.split())
    done = bench("--plot", "nowhere/bench.svg")
    assert done.exit_code == 2
    assert "nowhere is no folder" in " ".join(done.stderr.split())


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = bench("--plot", "bench.png")
    assert done.exit_code == 2
    assert "pip install 'convsurgeon[plot]'" in " ".join(done.stderr.split())
