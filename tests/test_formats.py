"""One call writes the converted model for other tools, and what was written is compared with it."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import Decays, assert_same, states_of
from torch import nn

import convsurgeon
from convsurgeon import EquivalenceError, UnsupportedError, formats, toolchains


class Two(nn.Module):
    """Two inputs, one of them with a default, and a dict of outputs; a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.again.weight = self.conv.weight

    def forward(
        self, x: torch.Tensor, scale: float = 2.0, *, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        y = self.again(torch.relu(self.conv(x))) * scale
        return {"y": y if mask is None else y * mask, "mean": y.mean(-1)}


X = torch.randn(1, 4, 20)
SAMPLES = {
    "by place": (X,),
    "by name": convsurgeon.Sample((X,), {"mask": torch.ones(1, 1, 20)}),
    "a flag": convsurgeon.Sample((X, 3.0), {}),
}


@pytest.fixture
def conversion() -> convsurgeon.Conversion:
    return convsurgeon.convert(Two().eval(), X)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("io", ["1d", "2d"])
def test_a_program_of_open_sizes(tmp_path: Path, name: str, io: str) -> None:
    conversion = convsurgeon.convert(Two().eval(), SAMPLES[name], io=io)
    assert "equal to the converted model" in conversion.export(tmp_path / "two.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["two.pt2"]
    if name == "by place" and io == "1d":
        other = torch.randn(3, 4, 33)
        found = torch.export.load(str(tmp_path / "two.pt2")).module()(other)
        torch.testing.assert_close(found, conversion.module(other))


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
@pytest.mark.parametrize("name", ["by place", "by name"])
def test_onnx(tmp_path: Path, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    conversion = convsurgeon.convert(Two().eval(), SAMPLES[name])
    assert "run by onnxruntime, and equal" in conversion.export(tmp_path / "two.onnx")
    graph = onnx.load(tmp_path / "two.onnx").graph
    assert [node.op_type for node in graph.node].count("Conv") == 2
    assert not {"Transpose"} & {node.op_type for node in graph.node}


def test_weights(tmp_path: Path, conversion: convsurgeon.Conversion) -> None:
    conversion.export(tmp_path / "two.safetensors")
    assert {name: tuple(value.shape) for name, value in load_file(tmp_path / "two.safetensors").items()} == {
        name: tuple(value.shape) for name, value in conversion.module.state_dict().items()
    }


@pytest.mark.parametrize(("suffix", "package"), [("pte", "executorch"), ("tflite", "litert")])
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, conversion: convsurgeon.Conversion, suffix: str, package: str
) -> None:
    if importlib.util.find_spec({"litert": "litert_torch"}.get(package, package)) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(UnsupportedError, match=rf"is not installed; pip install 'convsurgeon\[{package}\]'"):
        conversion.export(tmp_path / f"two.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path: Path, conversion: convsurgeon.Conversion) -> None:
    with pytest.raises(ValueError, match=r"accepted: a suffix among .pt2, .onnx, .safetensors, .pte, .tflite"):
        conversion.export(tmp_path / "two.exe")
    alone = convsurgeon.convert(nn.Conv1d(2, 2, 3), verify=False)
    with pytest.raises(ValueError, match=r"no sample to export a .pt2 by; give sample_inputs"):
        alone.export(tmp_path / "two.pt2")
    with pytest.raises(ValueError, match="partitioner is 'vulkan'; accepted: xnnpack"):
        conversion.export(tmp_path / "two.pte", partitioner="vulkan")
    alone.export(tmp_path / "two.pt2", torch.randn(1, 2, 9))
    assert (tmp_path / "two.pt2").exists()


def test_what_stood_there_stays_if_what_was_written_is_wrong(
    tmp_path: Path, conversion: convsurgeon.Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two.pt2").write_text("precious")
    other = torch.export.export(Two().eval(), (X,))
    monkeypatch.setattr(formats, "program_for", lambda module, given, *, fixed: other)
    with pytest.raises(EquivalenceError):
        conversion.export(tmp_path / "two.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["two.pt2"]
    assert (tmp_path / "two.pt2").read_text() == "precious"


def test_a_model_that_python_runs_says_what_can_be_written(tmp_path: Path) -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if float(x.sum()) > -1e9 else x

    conversion = convsurgeon.convert(Decides().eval(), X, capture="islands")
    with pytest.raises(UnsupportedError, match=r"(?s)can't be exported by torch.export.*weights alone can be written"):
        conversion.export(tmp_path / "one.pt2")
    conversion.export(tmp_path / "one.safetensors")


class Trains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(x)))


def test_another_default_device_than_the_models_is_nothing_to_it(
    tmp_path: Path, conversion: convsurgeon.Conversion
) -> None:
    with torch.device("meta"):
        assert "read again, and equal" in conversion.export(tmp_path / "two.pt2")


def test_weights_that_forward_writes_are_not_the_models(tmp_path: Path) -> None:
    model = Decays().eval()
    conversion = convsurgeon.convert(model, X)
    before = states_of(conversion, model)
    conversion.export(tmp_path / "decays.pt2")
    assert_same(states_of(conversion, model), before)
    written = torch.export.load(str(tmp_path / "decays.pt2")).state_dict
    assert torch.equal(written["conv.weight"], conversion.module.get_parameter("conv.weight"))


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
def test_weights_that_forward_writes_are_equal_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = Decays().eval()
    conversion = convsurgeon.convert(model, X)
    before = states_of(conversion, model)
    assert "run by onnxruntime, and equal" in conversion.export(tmp_path / "decays.onnx")
    assert_same(states_of(conversion, model), before)


@pytest.mark.parametrize("only", ["", "norm"])
@pytest.mark.parametrize("suffix", ["pt2", "pte"])
def test_a_model_in_training_mode_is_not_trained(tmp_path: Path, only: str, suffix: str) -> None:
    if suffix == "pte" and importlib.util.find_spec("executorch") is not None:
        pytest.skip("executorch is installed")
    model = Trains().train(not only)
    model.norm.train()
    conversion = convsurgeon.convert(model, X)
    before, streams = states_of(conversion, model), (torch.get_rng_state(), random.getstate())
    if suffix == "pt2":
        conversion.export(tmp_path / "trains.pt2")
        written = torch.export.load(str(tmp_path / "trains.pt2")).state_dict
        assert written["norm.num_batches_tracked"] == 0
    else:
        with pytest.raises(UnsupportedError, match="executorch is not installed"):
            conversion.export(tmp_path / "trains.pte")
    assert_same(states_of(conversion, model), before)
    assert_same((torch.get_rng_state(), random.getstate()), streams)


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
def test_what_draws_random_numbers_can_not_be_compared_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    conversion = convsurgeon.convert(Trains(), X)
    with pytest.raises(
        UnsupportedError, match=r"(?s)Trains draws random numbers, and onnxruntime draws others.*eval mode"
    ):
        conversion.export(tmp_path / "trains.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
def test_what_trains_is_not_what_runs_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    conversion = convsurgeon.convert(nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)).train(), X)
    conversion.module.get_submodule("0").eval()
    with pytest.raises(
        UnsupportedError, match=r"(?s)a part of it, is in training mode, and onnxruntime computes.*eval mode"
    ):
        conversion.export(tmp_path / "trains.onnx")
    conversion.module.eval()
    assert "run by onnxruntime, and equal" in conversion.export(tmp_path / "trains.onnx")


class Halves(nn.Module):
    """What writes its input, and returns what is no tensor as well."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, dict[str, Any]]:
        y = self.conv(self.relu(x))
        return y, None, {"half": y / 2, "other": None}


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
def test_onnx_of_results_that_are_no_tensors_and_of_an_input_that_is_written(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    conversion = convsurgeon.convert(Halves().eval(), X)
    assert "run by onnxruntime, and equal" in conversion.export(tmp_path / "halves.onnx")


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # torch's own, in its exporter
def test_what_another_tool_refuses_is_told_in_words(tmp_path: Path) -> None:
    pytest.importorskip("onnx")

    class Median(nn.Conv1d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).median(-1)[0]

    with pytest.raises(UnsupportedError, match=r"(?s)torch.onnx can't write the model: .*a .pt2 keeps all of it"):
        convsurgeon.convert(Median(4, 4, 3).eval(), X).export(tmp_path / "median.onnx")
    assert list(tmp_path.iterdir()) == []
    half = convsurgeon.convert(nn.Conv1d(4, 4, 3).eval().bfloat16(), X.bfloat16())
    assert "not run: onnxruntime can't load it" in half.export(tmp_path / "half.onnx")


def test_a_weight_that_is_another_one_transposed_is_written(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 6, 3)
            self.register_buffer("basis", torch.randn(6, 4))
            self.register_buffer("back", self.get_buffer("basis").T)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.get_buffer("back") @ (self.get_buffer("basis") @ x))

    conversion = convsurgeon.convert(Tied().eval(), X)
    conversion.export(tmp_path / "tied.safetensors")
    assert_same(load_file(tmp_path / "tied.safetensors"), dict(sorted(conversion.module.state_dict().items())))


def test_a_package_that_is_there_and_can_not_be_imported_is_not_called_missing() -> None:
    error = toolchains.not_imported(ImportError("cannot import name 'absent' from 'torch'", name="torch"), "litert")
    assert "can't be imported: cannot import name 'absent'" in str(error)
    error = toolchains.not_imported(ModuleNotFoundError("No module named 'absent'", name="absent"), "litert")
    assert "absent is not installed; pip install 'convsurgeon[litert]'" in str(error)


def test_a_sample_that_forward_writes_is_the_users(tmp_path: Path) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.mul_(2))

    x = torch.randn(1, 4, 20)
    given = x.clone()
    convsurgeon.convert(Scales().eval(), x).export(tmp_path / "scales.pt2", given)
    assert torch.equal(given, x)
