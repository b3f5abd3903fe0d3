"""The compilers of accelerators take converted networks as they take networks written in 4-D by hand.

Each toolchain has an environment of its own, which is made when it isn't there (a minute each).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from accelerators.environments import EXECUTORCH, LITERT, python_with, rows

pytestmark = [pytest.mark.slow, pytest.mark.toolchains, pytest.mark.xdist_group("networks")]
FOLDED_BY_HAND = 369_000
"""Cycles of M5 on 16000 samples, its first stride folded and its length seen as rows by hand."""
NETWORKS = pytest.mark.parametrize("network", ["A", "B", "C", "D"])


@pytest.fixture(scope="module")
def xnnpack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = python_with(*EXECUTORCH)
    return rows(python, "worker_executorch.py", str(tmp_path_factory.mktemp("executorch")))


@pytest.fixture(scope="module")
def vela(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    python = python_with(*LITERT)
    silero = importlib.util.find_spec("silero_vad")  # found, not imported: importing it would need torchaudio
    assert silero is not None
    assert silero.origin is not None
    weights = Path(silero.origin).parent / "data/silero_vad_16k.safetensors"
    return rows(python, "worker_vela.py", str(tmp_path_factory.mktemp("vela")), str(weights))


@pytest.mark.xdist_group("executorch")
@NETWORKS
def test_executorch_delegates_it_as_if_it_were_written_by_hand(xnnpack: dict[str, Any], network: str) -> None:
    row = xnnpack[network]
    assert row["checked"] == "run by the runtime of ExecuTorch, and equal to the converted model on the sample"
    assert row["converted"]["subgraphs"] <= row["original"]["subgraphs"]
    assert row["converted"] == row["by hand"]


@pytest.mark.xdist_group("executorch")
def test_executorch_takes_a_network_on_raw_sound_in_one_piece(xnnpack: dict[str, Any]) -> None:
    assert xnnpack["M5"]["converted"]["subgraphs"] < xnnpack["M5"]["original"]["subgraphs"]


@pytest.mark.xdist_group("vela")
@NETWORKS
def test_vela_gives_it_the_cycles_of_one_written_by_hand(vela: dict[str, Any], network: str) -> None:
    row = vela[network]
    assert row["checked"] == "run by the runtime of LiteRT, and equal to the converted model on the sample"
    assert row["converted"]["cpu"] <= row["by hand"]["cpu"] <= row["original"]["cpu"]
    assert row["converted"]["cycles"] <= 1.02 * row["by hand"]["cycles"]
    assert row["converted"]["cycles"] <= row["original"]["cycles"]


@pytest.mark.xdist_group("vela")
def test_vela_takes_a_network_on_raw_sound_whole_once_it_is_aimed_at_it(vela: dict[str, Any]) -> None:
    row = vela["M5"]
    assert row["original"]["cpu"] == row["converted"]["cpu"] == 1  # the long first stride
    assert row["aimed"]["cpu"] == 0
    assert row["aimed"]["cycles"] <= 1.1 * FOLDED_BY_HAND


@pytest.mark.xdist_group("vela")
@pytest.mark.parametrize(
    "network", ["wav2vec", "wav2vec 2", "SincNet", "patches", "stereo", "padded strides", "averages"]
)
def test_vela_does_better_with_what_is_aimed_at_it(vela: dict[str, Any], network: str) -> None:
    row = vela[network]
    assert row["exact"]
    assert row["aimed"]["cpu"] == 0
    for other in (row["original"], row["converted"]):
        # what runs on the CPU isn't counted in cycles
        assert "refused" in other or other["cpu"] > 0 or row["aimed"]["cycles"] < other["cycles"]


@pytest.mark.xdist_group("vela")
def test_what_is_cheap_as_it_is_stays_as_it_is(vela: dict[str, Any]) -> None:
    row = vela["SampleCNN"]
    assert not row["exact"]
    assert row["aimed"] == row["converted"]


@pytest.mark.xdist_group("vela")
def test_vela_takes_more_of_a_trained_voice_activity_detector(vela: dict[str, Any]) -> None:
    row = vela["detector"]
    assert row["converted"]["cycles"] <= row["original"]["cycles"]
    assert row["aimed"]["cpu"] < row["converted"]["cpu"] < row["original"]["cpu"]
