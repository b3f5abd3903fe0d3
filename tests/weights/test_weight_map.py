"""The weight map moves every kind of state there and back, exactly, and refuses what doesn't fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim.swa_utils import AveragedModel

import convsurgeon
from convsurgeon import CheckpointError, WeightMap
from convsurgeon.weights.placement import moved_shapes


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
        (lambda state: state.clear(), "nothing in this state belongs to Model: no entry 'conv.weight'"),
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


class Alike(nn.Module):
    """One parameter of the kernel's shape that no convolution uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(4, 3, 3))
        self.shift = nn.Parameter(torch.zeros(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.shift + self.scale.sum()


def test_an_optimizer_whose_parameters_can_not_be_told_apart() -> None:
    model = Alike()
    weight_map = convsurgeon.convert(model, torch.randn(2, 3, 9), copy_weights=True).weight_map
    partly = torch.optim.SGD([model.scale, model.conv.weight], 0.1, momentum=0.9)
    model(torch.randn(2, 3, 9)).sum().backward()
    partly.step()
    with pytest.raises(
        CheckpointError, match=r"'conv.weight', which moves, or 'scale', which doesn't.*named_parameters"
    ):
        weight_map.to_2d(partly.state_dict())


def test_a_copy_that_lacks_what_moves_is_refused_beside_a_whole_one(conversion: convsurgeon.Conversion) -> None:
    """It is no other model's: of three names that move it has two, or it has nothing else."""
    state = Model().state_dict()
    few = {name: value for name, value in state.items() if name.startswith("up.")}
    most = {name: value for name, value in state.items() if not name.startswith("up.")} | {"more": torch.ones(3)}
    for part in (most, few, few | {"decay": torch.tensor(0.9)}):
        with pytest.raises(CheckpointError, match="of the 3 entries that move are missing"):
            conversion.weight_map.to_2d({"model": state, "ema": part})


def test_unnamed_parameters_in_several_groups_are_told_by_their_shapes(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    trained = torch.optim.AdamW([{"params": decayed}, {"params": [p for p in model.parameters() if p.dim() == 1]}])
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    state = trained.state_dict()
    moved = conversion.weight_map.to_2d(state)
    assert [moved["state"][i]["exp_avg"].dim() for i in range(len(decayed))] == [4, 4, 2]
    assert_same(conversion.weight_map.to_1d(moved), state)
    state["state"][0]["exp_avg"] = torch.ones(7, 7, 7)
    with pytest.raises(CheckpointError, match=r"state of shape \[7, 7, 7\], which no parameter of Model has"):
        conversion.weight_map.to_2d(state)


@pytest.mark.parametrize("kind", [torch.optim.Rprop, torch.optim.ASGD])
def test_slots_of_any_name_tell_their_parameter_by_their_shapes(
    conversion: convsurgeon.Conversion, kind: type[torch.optim.Optimizer]
) -> None:
    model = Model()
    trained = kind([{"params": [p for p in model.parameters() if (p.dim() > 1) is heavy]} for heavy in (True, False)])
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    state = trained.state_dict()
    moved = conversion.weight_map.to_2d(state)
    assert [max(one.dim() for one in moved["state"][at].values()) for at in range(3)] == [4, 4, 2]
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_state_that_is_factored_is_refused(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    trained = torch.optim.Adafactor(model.parameters())
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    with pytest.raises(CheckpointError, match=r"row_var for 'conv.weight' has shape \[4, 3, 1\].*is factored"):
        conversion.weight_map.to_2d(trained.state_dict())


def test_optimizer_state_by_names(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    trained = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    state = get_optimizer_state_dict(model, trained)
    moved = conversion.weight_map.to_2d(state)
    assert {name for name, slots in moved["state"].items() if slots["exp_avg"].dim() == 4} == {
        "conv.weight",
        "up.weight",
    }
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_of_tied_entries_one_is_enough(conversion: convsurgeon.Conversion) -> None:
    state = Model().state_dict()
    for dropped in ("conv", "alias"):
        half = {name: value for name, value in state.items() if not name.startswith(dropped)}
        moved = conversion.weight_map.to_2d(half)
        assert {name for name in half if moved[name].dim() == 4} == {"conv.weight", "alias.weight", "up.weight"} & {
            *half
        }
        assert_same(conversion.weight_map.to_1d(moved), half)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.net."])
def test_whatever_stands_before_the_names(conversion: convsurgeon.Conversion, prefix: str) -> None:
    state = {prefix + name: value for name, value in Model().state_dict().items()}
    moved = conversion.weight_map.to_2d(state)
    assert moved[f"{prefix}conv.weight"].dim() == 4
    assert_same(conversion.weight_map.to_1d(moved), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net._orig_mod.", ""])
@pytest.mark.parametrize("part", ["", "up."])
def test_names_of_an_optimizer_have_prefixes_too(conversion: convsurgeon.Conversion, prefix: str, part: str) -> None:
    model = Model()
    named = [(prefix + name, one) for name, one in model.named_parameters() if name.startswith(part)]
    trained = torch.optim.Adam([*named, *([] if part else [("other.weight", nn.Parameter(torch.ones(4, 3, 3)))])])
    model(torch.randn(2, 3, 9)).sum().backward()
    trained.step()
    state = {"model": model.state_dict(), "optimizer": trained.state_dict()}
    moved = conversion.weight_map.to_2d(state)
    ranks = {name: moved["optimizer"]["state"][at]["exp_avg"].dim() for at, (name, _) in enumerate(named)}
    assert {name for name, rank in ranks.items() if rank == 4} == {
        f"{prefix}{name}" for name in ("conv.weight", "up.weight") if name.startswith(part)
    }
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_an_optimizer_of_another_model_with_some_of_our_names_is_left_alone(
    conversion: convsurgeon.Conversion,
) -> None:
    slots = {"step": torch.tensor(1.0), "exp_avg": torch.ones(4, 3, 3), "exp_avg_sq": torch.ones(4, 3, 3)}
    groups = [{"params": [0, 1], "param_names": ["conv.weight", "other.weight"]}]
    other = {"state": {0: slots, 1: slots}, "param_groups": groups}
    state = {"model": Model().state_dict(), "optimizer": other}
    assert_same(conversion.weight_map.to_2d(state)["optimizer"], other)


def test_averages_without_buffers_beside_the_model(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"ema.{name}": value.detach() for name, value in model.named_parameters()}
    moved = conversion.weight_map.to_2d(state)
    assert moved["model.conv.weight"].dim() == moved["ema.conv.weight"].dim() == 4
    assert_same(conversion.weight_map.to_1d(moved), state)


@pytest.mark.parametrize("left_out", ["num_batches_tracked", "running_mean", "head.weight"])
@pytest.mark.parametrize("prefixes", [("", "ema."), ("net.", "ema.")])
def test_two_copies_without_an_entry_that_stays(
    conversion: convsurgeon.Conversion, left_out: str, prefixes: tuple[str, str]
) -> None:
    """Neither of them is whole, and they lack the same: both move."""
    model = Model().state_dict()
    state = {f"{p}{name}": value for p in prefixes for name, value in model.items() if left_out not in name}
    moved = conversion.weight_map.to_2d(state)
    assert [moved[f"{prefix}conv.weight"].dim() for prefix in prefixes] == [4, 4]
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_averages_with_a_decay_beside_them(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"ema.{name}": value.detach() for name, value in model.named_parameters()}
    state |= {"ema.decay": torch.tensor(0.9), "ema.num_updates": torch.tensor([3])}
    moved = conversion.weight_map.to_2d(state)
    assert moved["model.conv.weight"].dim() == moved["ema.conv.weight"].dim() == 4
    assert_same(conversion.weight_map.to_1d(moved), state)


def test_what_may_be_a_copy_or_another_model_is_refused(conversion: convsurgeon.Conversion) -> None:
    model = Model().state_dict()
    state = {f"model.{name}": value for name, value in model.items()}
    state |= {f"other.{name}": value for name, value in model.items() if "norm.running" not in name}
    state["other.more.weight"] = torch.ones(4, 3)
    words = r"under 'other.' is Model can't be told.*lacks other.norm.running_mean.* and has other.more.weight beside"
    with pytest.raises(CheckpointError, match=words):
        conversion.weight_map.to_2d(state)
    state["other.up.weight"] = torch.ones(4, 2, 5)
    assert conversion.weight_map.to_2d(state)["other.conv.weight"].dim() == 3


def test_two_copies_that_lack_the_same_of_what_moves(conversion: convsurgeon.Conversion) -> None:
    shapes = {
        f"{prefix}.{name}": tuple(value.shape)
        for prefix in ("one", "two")
        for name, value in Model().state_dict().items()
    }
    some = {key: shape for key, shape in shapes.items() if not key.endswith("up.weight")}
    moved = moved_shapes(conversion.weight_map, some, "2d", partial=True)
    assert moved.keys() == {f"{prefix}.{name}.weight" for prefix in ("one", "two") for name in ("conv", "alias")}


def test_two_copies_that_lack_different_entries_are_refused(conversion: convsurgeon.Conversion) -> None:
    model = Model().state_dict()
    state = {f"one.{name}": value for name, value in model.items() if name != "head.weight"}
    state |= {f"two.{name}": value for name, value in model.items() if name != "head.bias"}
    with pytest.raises(CheckpointError, match=r"under 'one.' is Model can't be told.*lacks one.head.weight"):
        conversion.weight_map.to_2d(state)


def test_averages_without_names_in_the_order_of_parameters(conversion: convsurgeon.Conversion) -> None:
    model = Model()
    averages = [value.detach() for value in model.parameters()]
    state = {"model": model.state_dict(), "ema": {"decay": 0.9, "shadow_params": averages, "some": averages[:1]}}
    moved = conversion.weight_map.to_2d(state)
    assert [value.dim() for value in moved["ema"]["shadow_params"]] == [
        value.dim() for value in conversion.module.parameters()
    ]
    assert moved["ema"]["some"][0].dim() == 3
    assert conversion.weight_map.to_1d(moved)["ema"]["shadow_params"][0].shape == averages[0].shape


def test_wrappers_inside_names_are_seen_through(conversion: convsurgeon.Conversion) -> None:
    state = {name.replace("up.", "up._orig_mod."): value for name, value in Model().state_dict().items()}
    assert conversion.weight_map.to_2d(state)["up._orig_mod.weight"].dim() == 4


def test_a_map_between_two_states(conversion: convsurgeon.Conversion) -> None:
    found = WeightMap.between(Model().state_dict(), conversion.module.state_dict())
    assert found.unit_axis == conversion.weight_map.unit_axis
    assert [e.shape_2d for e in found.entries] == [e.shape_2d for e in conversion.weight_map.entries]


def test_states_between_which_there_is_no_map(conversion: convsurgeon.Conversion) -> None:
    state, other = Model().state_dict(), conversion.module.state_dict()
    with pytest.raises(CheckpointError, match=r"in one of the two states only: head.bias"):
        WeightMap.between({name: value for name, value in state.items() if name != "head.bias"}, other)
    with pytest.raises(CheckpointError, match=r"no unit axis makes one of the other: .*'up.weight' \[4, 2, 2\]"):
        WeightMap.between(state, {**other, "up.weight": torch.ones(4, 2, 1, 2, 1)})
    small = {"w": torch.ones(2, 2, 1)}
    with pytest.raises(CheckpointError, match="give unit_axis"):
        WeightMap.between(small, {"w": torch.ones(2, 2, 1, 1)})
    assert WeightMap.between(small, {"w": torch.ones(2, 2, 1, 1)}, -1).unit_axis == -1


def test_a_model_without_memory_gives_its_map() -> None:
    with torch.device("meta"):
        model, x = Model(), torch.empty(2, 3, 9)
    found = convsurgeon.convert(model, x, verify=False).weight_map
    assert found == convsurgeon.convert(Model(), torch.randn(2, 3, 9)).weight_map


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


def test_a_map_that_was_changed_by_hand(conversion: convsurgeon.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    conversion.weight_map.save(path)
    path.write_text(path.read_text().replace('"head.bias"', '"tail.bias"'))
    with pytest.raises(CheckpointError, match="names or shapes have been changed since it was written"):
        WeightMap.load(path)
