"""What is written of a converted network as ONNX is what is written of one in 4-D by hand, operator by operator."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from models.by_hand import RawAudio, Wrapped, pair
from torch import nn

import convsurgeon

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.toolchains, pytest.mark.filterwarnings("ignore")]  # what the exporter warns of is its own

NETWORKS = pytest.mark.parametrize("network", range(4), ids=list("ABCD"))
X = torch.randn(1, 4, 256)


def written(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """The graph that torch's own exporter writes, for the sizes of these inputs."""
    logging.disable(logging.WARNING)
    try:
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    return program.model_proto.graph


def operators(graph: Any) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def inside(graph: Any) -> Counter[str]:
    """The operators that change no data, but for those that take an input of the graph or make an output."""
    ends = {one.name for one in (*graph.input, *graph.output)}
    shaping = ("Unsqueeze", "Squeeze", "Transpose", "Reshape", "If")
    return Counter(n.op_type for n in graph.node if n.op_type in shaping and ends.isdisjoint((n.input[0], n.output[0])))


@NETWORKS
@pytest.mark.parametrize("io", ["1d", "2d"])
def test_as_many_operators_of_each_kind_as_by_hand(network: int, io: Any) -> None:
    original, hand = pair(network)
    module = convsurgeon.convert(original, X, io=io).module
    assert isinstance(module, convsurgeon.ConvertedModule)
    ours = written(module, *(module.inputs_2d(X)[0] if io == "2d" else (X,)))
    assert operators(ours) == operators(written(hand, X.unsqueeze(2)) if io == "2d" else written(Wrapped(hand), X))
    assert inside(ours) == ({"Reshape": 1} if network == 0 else {})  # A flattens before its last layer, also by hand


@NETWORKS
def test_the_file_with_open_axes_has_no_more_that_moves_data(network: int, tmp_path: Path) -> None:
    original, _ = pair(network)
    path = tmp_path / "model.onnx"
    checked = convsurgeon.convert(original, X).export(path)
    assert checked == "run by onnxruntime, and equal to the converted model on the sample"
    graph = onnx.load(path).graph
    assert {"Conv"} <= set(operators(graph))
    assert not {"Transpose", "GatherND", "If"} & set(operators(graph))


def test_linear_interpolation_is_one_operator_where_it_was_eight() -> None:
    original, _ = pair(3)
    before, after = operators(written(original, X)), operators(written(convsurgeon.convert(original, X).module, X))
    assert before["Transpose"] == 3
    assert before - after == {"Transpose": 3, "GatherND": 2, "Sub": 1, "Mul": 1, "Add": 1}
    assert after - before == {"Unsqueeze": 1, "Resize": 1, "Squeeze": 1}


def test_a_network_on_raw_sound_gains_an_unsqueeze_in_front_alone() -> None:
    raw, sound = RawAudio().eval(), torch.randn(1, 1, 4000)
    ours = written(convsurgeon.convert(raw, sound).module, sound)
    assert operators(ours) - operators(written(raw, sound)) == {"Unsqueeze": 1}
    assert operators(written(raw, sound)) - operators(ours) == {}
    assert inside(ours) == {}


def test_a_trained_detector_gains_a_squeeze_before_its_lstm_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("silero_vad") is None:
        pytest.skip("pip install 'convsurgeon[examples]'")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    from voice_activity import CHUNK, CONTEXT, STATE, trained_detector

    model, state = trained_detector(), torch.randn(1, STATE)
    inputs = torch.randn(1, CONTEXT + CHUNK), state, state.clone()
    ours = operators(written(convsurgeon.convert(model, inputs).module, *inputs))
    before = operators(written(model, *inputs))
    assert "Transpose" not in ours
    assert before - ours == {"Unsqueeze": 2}
    assert ours - before == {"Reshape": 2, "Squeeze": 1}  # both axes at once, where the original made one
