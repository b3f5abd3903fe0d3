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
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim.swa_utils import AveragedModel

import convsurgeon
from convsurgeon import CheckpointError, WeightMap
from convsurgeon.placement import moved_shapes


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


class Pair(nn.Module):
    """Two convolutions of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.relu(self.encoder(x)))


def test_that_an_optimizer_is_in_the_models_order_is_not_taken_for_granted() -> None:
    """Nothing tells an Adam over the decoder and the encoder from one over the model: of both, one kernel moves."""
    model = Pair()
    x = torch.randn(2, 8, 16)
    weight_map = convsurgeon.convert(model, x, exclude=["encoder"]).weight_map
    trained = torch.optim.Adam([*model.decoder.parameters(), *model.encoder.parameters()])
    model(x).sum().backward()
    trained.step()
    state = trained.state_dict()
    with pytest.raises(CheckpointError, match=r"'decoder.weight', which moves, or 'encoder.weight', .*'param_names'"):
        weight_map.to_2d(state)
    names = [f"{part}.{name}" for part in ("decoder", "encoder") for name in ("weight", "bias")]
    state["param_groups"][0]["param_names"] = names
    moved = weight_map.to_2d(state)
    assert [moved["state"][at]["exp_avg"].dim() for at in range(4)] == [4, 1, 3, 1]
    assert_same(weight_map.to_1d(moved), state)


class Other(nn.Module):
    """A discriminator, say: one convolution under a name of its own or of `Pair`."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.add_module(name, nn.Conv1d(8, width, 3))
        self.add_module("last", nn.Conv1d(width, 1, 1))


def adam_of(model: nn.Module) -> dict[str, Any]:
    trained = torch.optim.Adam(model.parameters())
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    trained.step()
    return trained.state_dict()


@pytest.mark.parametrize("name", ["decoder", "score"])
@pytest.mark.parametrize("width", [5, 8])
def test_another_model_and_its_optimizer_beside_are_left_alone(name: str, width: int) -> None:
    """It has one of the model's names, or an optimizer whose state has a shape of the model's, or has not."""
    model, other = Pair(), Other(name, width)
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    theirs = {"disc": other.state_dict(), "optim_d": adam_of(other)}
    state = {"gen": model.state_dict(), "optim_g": adam_of(model)}
    moved = weight_map.to_2d({**state, **theirs})
    assert_same({key: moved[key] for key in theirs}, theirs)
    assert_same({key: moved[key] for key in state}, weight_map.to_2d(state))
    assert moved["optim_g"]["state"][0]["exp_avg"].dim() == 4
    assert_same(weight_map.to_1d(moved), {**state, **theirs})


def test_an_optimizer_of_another_model_alone_is_left_alone() -> None:
    """Without ours beside: it has a shape of ours, and more than ours, and not all of ours."""
    model, other = Pair(), Other("score", 8)
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    state = {"gen": model.state_dict(), "disc": other.state_dict(), "optim_d": adam_of(other)}
    assert_same(weight_map.to_2d(state)["optim_d"], state["optim_d"])


def test_an_optimizer_of_either_of_two_models_is_refused() -> None:
    model, other = Pair(), Other("score", 8)
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    state = {"gen": model.state_dict(), "disc": other.state_dict(), "optim": adam_of(nn.ModuleList([other.score]))}
    words = r"state 'optim.state' may be of Pair or of another model .* both have tensors of shape \[8, 8, 3\]"
    with pytest.raises(CheckpointError, match=words):
        weight_map.to_2d(state)
    twin = nn.ModuleDict({"one": nn.Conv1d(8, 8, 3), "two": nn.Conv1d(8, 8, 3)})
    state = {"gen": model.state_dict(), "disc": twin.state_dict(), "g": adam_of(model), "d": adam_of(twin)}
    with pytest.raises(CheckpointError, match="may be of Pair or of another model"):
        weight_map.to_2d(state)


def test_a_copy_that_lacks_what_moves_is_refused_beside_a_whole_one(conversion: convsurgeon.Conversion) -> None:
    """It is no other model's: of three names that move it has two, or it has nothing else."""
    state = Model().state_dict()
    few = {name: value for name, value in state.items() if name.startswith("up.")}
    most = {name: value for name, value in state.items() if not name.startswith("up.")} | {"more": torch.ones(3)}
    for part in (most, few, few | {"decay": torch.tensor(0.9)}):
        with pytest.raises(CheckpointError, match="of the 3 entries that move are missing"):
            conversion.weight_map.to_2d({"model": state, "ema": part})


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "last"])
def test_averages_of_the_trained_parameters(frozen: str) -> None:
    model = Pair()
    model.add_module("last", nn.Linear(3, 2))
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    model.get_submodule(frozen).requires_grad_(False)
    shadow = [value.detach() for value in model.parameters() if value.requires_grad]
    state = {"model": model.state_dict(), "ema": {"decay": 0.9, "shadow_params": shadow, "collected_params": []}}
    moved = weight_map.to_2d(state)
    kernels = [value.dim() == 3 for value in shadow]
    assert [value.dim() == 4 for value in moved["ema"]["shadow_params"]] == kernels
    assert_same(weight_map.to_1d(moved), state)


def test_averages_that_can_not_be_told_apart_are_refused() -> None:
    model = Pair()
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16), exclude=["encoder"]).weight_map
    with pytest.raises(CheckpointError, match=r"'ema.shadow_params', averages of 2.*may be 'decoder.weight', which"):
        weight_map.to_2d({"ema": {"shadow_params": list(model.encoder.parameters())}})
    with pytest.raises(CheckpointError, match=r"no parameters of Pair are left for: \[7\]"):
        weight_map.to_2d({"ema": {"shadow_params": [torch.ones(7), torch.ones(8)]}})


class Teacher(nn.Module):
    """Frozen, and left out of checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return kwargs.get("destination") if kwargs.get("destination") is not None else {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_parameters_that_have_no_entry(grouped: bool, frozen: bool) -> None:
    model, x = nn.Sequential(Teacher(), nn.Conv1d(4, 4, 5)), torch.randn(2, 4, 16)
    model[0].requires_grad_(not frozen)
    weight_map = convsurgeon.convert(model, x).weight_map
    groups = [{"params": [model[1].weight]}, {"params": [*model[0].parameters(), model[1].bias]}]
    trained = torch.optim.AdamW(groups if grouped else model.parameters())
    model(x).sum().backward()
    trained.step()
    state = trained.state_dict()
    if not frozen:
        with pytest.raises(CheckpointError, match=r"state_dict leaves out|of shape \[4, 4, 3\], which no parameter"):
            weight_map.to_2d(state)
        return
    moved = weight_map.to_2d(state)
    assert moved["state"][0 if grouped else 2]["exp_avg"].shape == (4, 4, 1, 5)
    assert_same(weight_map.to_1d(moved), state)


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


class Renamed(nn.Module):
    """Keeps the name that its kernel had in older checkpoints; `anew`: and makes the entry anew."""

    def __init__(self, *, anew: bool = False) -> None:
        super().__init__()
        self.conv, self.anew = nn.Conv1d(4, 4, 3), anew
        self._register_state_dict_hook(self._out)
        self._register_load_state_dict_pre_hook(self._in)

    @staticmethod
    def _out(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
        kernel = state.pop(f"{prefix}conv.weight")
        state[f"{prefix}kernel"] = kernel.clone() if module.anew else kernel

    @staticmethod
    def _in(state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}conv.weight"] = state.pop(f"{prefix}kernel")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("name", ["0.weight", "0.kernel"])
def test_entries_that_are_named_unlike_the_tensors(name: str) -> None:
    first = checkpoint_wrapper(nn.Conv1d(4, 4, 3)) if name == "0.weight" else Renamed()
    model, x = nn.Sequential(first, nn.ReLU(), nn.Conv1d(4, 2, 1)), torch.randn(2, 4, 16)
    conversion = convsurgeon.convert(model, x, copy_weights=True)
    assert {entry.name for entry in conversion.weight_map.entries if entry.moves} == {name, "2.weight"}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    moved = conversion.weight_map.to_2d(state)
    assert moved[name].shape == conversion.module.state_dict()[name].shape == (4, 4, 1, 3)
    assert_same(dict(conversion.weight_map.to_1d(conversion.module.state_dict())), state)
    model.load_state_dict(conversion.weight_map.to_1d(moved))
    conversion.module.load_state_dict(moved)


def test_optimizers_where_entries_are_named_unlike_the_tensors() -> None:
    x = torch.randn(2, 4, 16)
    for named in (False, True):
        model = nn.Sequential(checkpoint_wrapper(nn.Conv1d(4, 4, 3)), nn.ReLU(), nn.Conv1d(4, 2, 1))
        conversion = convsurgeon.convert(model, x, copy_weights=True)
        trained = torch.optim.Adam(list(model.named_parameters() if named else model.parameters()))
        model(x).sum().backward()
        trained.step()
        moved = conversion.weight_map.to_2d(trained.state_dict())
        assert [moved["state"][at]["exp_avg"].dim() for at in range(4)] == [4, 1, 4, 1]
        conversion.module.load_state_dict(model.state_dict())
        theirs = conversion.weight_map.move_optimizer(trained, conversion.module)
        assert [theirs.state[one]["exp_avg"].shape == one.shape for one in conversion.module.parameters()] == [True] * 4
        model = nn.Sequential(Renamed(), nn.ReLU(), nn.Conv1d(4, 2, 1))
        weight_map = convsurgeon.convert(model, x).weight_map
        state = adam_of(model)
        if named:
            state["param_groups"][0]["param_names"] = [name for name, _ in model.named_parameters()]
        with pytest.raises(CheckpointError, match=r"state of '0.conv.weight' .* leaves out or gives another name"):
            weight_map.to_2d(state)


def test_an_entry_that_a_hook_makes_anew_is_not_moved_without_a_word() -> None:
    model, x = nn.Sequential(Renamed(anew=True), nn.Conv1d(4, 2, 1)), torch.randn(2, 4, 16)
    weight_map = convsurgeon.convert(model, x).weight_map
    with pytest.raises(CheckpointError, match=r"makes its state_dict, have baked 1 of 4 entries \(0.kernel\)"):
        weight_map.to_2d(model.state_dict())
