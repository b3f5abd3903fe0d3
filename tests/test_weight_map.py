"""The weight map moves every kind of state there and back, exactly, and refuses what doesn't fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import convsurgeon
from convsurgeon import CheckpointError, WeightMap


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.up = nn.ConvTranspose1d(4, 2, 2)
        self.alias = self.conv
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.norm(self.conv(x))).mean(-1))


@pytest.fixture(params=[-2, -1])
def conversion(request: pytest.FixtureRequest) -> convsurgeon.Conversion:
    return convsurgeon.convert(Model(), torch.randn(2, 3, 9), unit_axis=request.param, copy_weights=True)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_a_state_dict_there_and_back(conversion: convsurgeon.Conversion) -> None:
    state = Model().state_dict()
    moved = conversion.weight_map.to_2d(state)
    assert conversion.module.load_state_dict(moved, strict=True) == ([], [])
    assert moved._metadata is state._metadata
    assert {name for name in state if moved[name].shape != state[name].shape} == {
        "conv.weight",
        "alias.weight",
        "up.weight",
    }
    assert_same(conversion.weight_map.to_1d(moved), state)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizer_state_there_and_back(
    conversion: convsurgeon.Conversion, named: bool, optimizer: type[torch.optim.Optimizer]
) -> None:
    options = {"lr": 0.1, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {})}
    model = Model()
    parameters = list(model.named_parameters() if named else model.parameters())
    groups = [{"params": parameters[3:]}, {"params": parameters[:3]}] if named else parameters
    trained = optimizer(groups, **options)
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    state = trained.state_dict()
    moved = conversion.weight_map.to_2d(state)
    theirs = list(conversion.module.named_parameters() if named else conversion.module.parameters())
    groups = [{"params": theirs[3:]}, {"params": theirs[:3]}] if named else theirs
    optimizer(groups, **options).load_state_dict(moved)
    shapes = [p.shape for _, p in theirs[3:] + theirs[:3]] if named else [p.shape for p in theirs]
    for index, slots in moved["state"].items():
        for value in slots.values():
            assert value is None or value.dim() == 0 or value.shape == shapes[index]
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_an_averaged_model_and_a_nested_checkpoint_there_and_back(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    averaged = AveragedModel(model)
    checkpoint = {"epoch": 3, "model": model.state_dict(), "ema": averaged.state_dict(), "scaler": {"scale": 2.0}}
    moved = conversion.weight_map.to_2d(checkpoint)
    assert moved["ema"]["module.conv.weight"].dim() == 4
    assert moved["epoch"] == 3
    assert_same(conversion.weight_map.to_1d(moved), checkpoint)


def test_what_came_in_is_left_alone(conversion: convsurgeon.Conversion) -> None:
    state = Model().state_dict()
    before = copy.deepcopy(state)
    conversion.weight_map.to_2d(state)
    assert_same(state, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("up.weight"), "1 of the 3 entries that move are missing: up.weight"),
        (
            lambda state: state.update({"up.weight": torch.ones(4, 2, 5)}),
            r"'up.weight' has shape \[4, 2, 5\]; expected",
        ),
        (lambda state: state.clear(), "nothing here belongs to Model: no entry 'conv.weight'"),
    ],
)
def test_what_does_not_fit_is_named(conversion: convsurgeon.Conversion, change: Any, words: str) -> None:
    state = Model().state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=words):
        conversion.weight_map.to_2d(state)


def test_state_that_has_moved_already_is_refused(conversion: convsurgeon.Conversion) -> None:
    with pytest.raises(CheckpointError, match="to go to 2d"):
        conversion.weight_map.to_2d(conversion.module.state_dict())


def test_an_optimizer_whose_parameters_can_not_be_told_apart(conversion: convsurgeon.Conversion) -> None:
    partly = torch.optim.SGD(Model().conv.parameters(), 0.1)
    with pytest.raises(CheckpointError, match=r"holds 2 parameters in 1 group\(s\) and Model has 8.*named_parameters"):
        conversion.weight_map.to_2d(partly.state_dict())


def test_a_saved_map_is_the_same_map(conversion: convsurgeon.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text("what stood here before")
    conversion.weight_map.save(path)
    assert WeightMap.load(path) == conversion.weight_map
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "other", "version": 1}', '{"format": "convsurgeon weight map", "version": 2}']
)
def test_a_file_that_is_no_map(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"map\.json is not a weight map"):
        WeightMap.load(path)


def test_a_map_with_shapes_that_do_not_follow(conversion: convsurgeon.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    conversion.weight_map.save(path)
    content = json.loads(path.read_text())
    content["entries"][0]["shape_2d"] = [4, 3, 3, 3]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="a shape that doesn't follow from the unit axis"):
        WeightMap.load(path)
