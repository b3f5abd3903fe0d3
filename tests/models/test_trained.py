"""Trained weights that packages ship: converted, proven equal, and their checkpoints moved there and back."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ranks_of_convolutions

import convsurgeon

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]  # what the package warns of is its own


@pytest.fixture
def pesto(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """PESTO, a trained pitch estimator (the package pesto-pitch), which imports torchaudio to read sound files."""
    if importlib.util.find_spec("pesto") is None:
        pytest.skip("pip install --no-deps pesto-pitch")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    import pesto as package

    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "pesto"]:
        del sys.modules[name]


def sine(hertz: float, batch: int = 1, length: int = 40000) -> torch.Tensor:
    time = torch.arange(length) / 16000
    return 0.5 * torch.sin(2 * torch.pi * hertz * time).repeat(batch, 1)


def test_a_trained_pitch_estimator_hears_the_same(pesto: Any) -> None:
    model = pesto.load_model("mir-1k_g7", step_size=20.0, sampling_rate=16000)
    conversion = convsurgeon.convert(model, (sine(220.0),))
    assert conversion.verification is not None
    assert conversion.verification.passed
    ranks = ranks_of_convolutions(conversion.module, sine(220.0))
    assert ranks
    assert all(weight == 4 for _, weight in ranks), conversion.plan
    for hertz in (110.0, 440.0):
        with torch.no_grad():
            pitch, *_ = conversion.module(sine(hertz))
            expected, *_ = model(sine(hertz))
        torch.testing.assert_close(pitch, expected, rtol=1e-4, atol=1e-3)
        semitones = 69 + 12 * math.log2(hertz / 440)
        assert abs(pitch.median() - semitones) < 0.5


def test_its_checkpoint_comes_back_into_its_own_class(pesto: Any, tmp_path: Path) -> None:
    shipped = Path(pesto.__file__).parent / "weights/mir-1k_g7.ckpt"
    model = pesto.load_model(str(shipped), step_size=20.0, sampling_rate=16000)
    weight_map = convsurgeon.convert(model, (sine(220.0),)).weight_map
    there, back = tmp_path / "there.ckpt", tmp_path / "back.ckpt"
    with pytest.raises(convsurgeon.CheckpointError, match=r"omegaconf.*--trust"):
        convsurgeon.convert_checkpoint(shipped, there, weight_map)
    with pytest.raises(convsurgeon.CheckpointError, match=r"missing: preprocessor.*--partial"):
        convsurgeon.convert_checkpoint(shipped, there, weight_map, trust=True)
    moved = convsurgeon.convert_checkpoint(shipped, there, weight_map, trust=True, partial=True)
    convsurgeon.convert_checkpoint(there, back, weight_map, "1d", trust=True, partial=True)
    assert moved.moved
    again = pesto.load_model(str(back), step_size=20.0, sampling_rate=16000)
    state = torch.load(back, weights_only=False)["state_dict"]
    assert again.load_state_dict(state, strict=False).unexpected_keys == []
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    with torch.no_grad():
        torch.testing.assert_close(again(sine(330.0)), model(sine(330.0)), rtol=0, atol=0)


def test_all_its_weights_come_back_strictly(pesto: Any, tmp_path: Path) -> None:
    model = pesto.load_model("mir-1k_g7", step_size=20.0, sampling_rate=16000)
    weight_map = convsurgeon.convert(model, (sine(220.0),)).weight_map
    save_file(model.state_dict(), tmp_path / "one.safetensors")
    convsurgeon.convert_checkpoint(tmp_path / "one.safetensors", tmp_path / "two.safetensors", weight_map)
    convsurgeon.convert_checkpoint(tmp_path / "two.safetensors", tmp_path / "back.safetensors", weight_map, "1d")
    again = pesto.load_model("mir-1k_g7", step_size=20.0, sampling_rate=16000)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(load_file(tmp_path / "back.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(again(sine(330.0)), model(sine(330.0)), rtol=0, atol=0)
