"""State finds its tensors by what they are, beside other models' too; what can't be told is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from support import assert_same
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

import convsurgeon
from convsurgeon import CheckpointError


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
    return _stepped(model).state_dict()


def _flattened(model: nn.Module) -> Any:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    return get_optimizer_state_dict(model, _stepped(model), options=options)


def _stepped(model: nn.Module) -> torch.optim.Optimizer:
    trained = torch.optim.Adam(model.parameters())
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    trained.step()
    return trained


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


@pytest.mark.parametrize("last", [14, 15])
def test_a_named_optimizer_of_one_layer_of_many(last: int) -> None:
    model, x = nn.Sequential(*[nn.Conv1d(4, 4, 3, padding=1) for _ in range(16)]), torch.randn(2, 4, 16)
    conversion = convsurgeon.convert(model, x)
    trained = torch.optim.Adam([(name, one) for name, one in model.named_parameters() if name.startswith(f"{last}.")])
    model(x).sum().backward()
    trained.step()
    state = {"model": model.state_dict(), "optimizer": trained.state_dict()}
    moved = conversion.weight_map.to_2d(state)
    assert [moved["optimizer"]["state"][at]["exp_avg"].dim() for at in (0, 1)] == [4, 1]
    assert_same(conversion.weight_map.to_1d(moved), state)
    held = conversion.weight_map.move_optimizer(trained, conversion.module).state
    assert all(slots["exp_avg"].shape == one.shape for one, slots in held.items())


@pytest.mark.parametrize("beside", [True, False])
def test_a_flattened_optimizer(beside: bool) -> None:
    model, other = Pair(), Other("last", 8)
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16), exclude=["encoder"]).weight_map
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    state: dict[str, Any] = {"optimizer": get_optimizer_state_dict(model, _stepped(model), options=options)}
    if beside:
        state |= {
            "model": model.state_dict(),
            "theirs": get_optimizer_state_dict(other, _stepped(other), options=options),
        }
    moved = weight_map.to_2d(state)
    ranks = {key: value.dim() for key, value in moved["optimizer"].items() if key.endswith(".exp_avg")}
    assert ranks == {
        "state.encoder.weight.exp_avg": 3,
        "state.encoder.bias.exp_avg": 1,
        "state.decoder.weight.exp_avg": 4,
        "state.decoder.bias.exp_avg": 1,
    }
    assert_same(moved.get("theirs"), state.get("theirs"))
    assert_same(weight_map.to_1d(moved), state)


def test_a_model_whose_layer_is_called_state_is_no_optimizer() -> None:
    model = nn.Sequential(OrderedDict(state=nn.Conv1d(8, 8, 3)))
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    assert weight_map.to_2d(model.state_dict())["state.weight"].dim() == 4


@pytest.mark.parametrize("width", [5, 8])
def test_an_unnamed_optimizer_of_a_model_and_another(width: int) -> None:
    """As Lightning builds one over a model and what its loss has: what is of one shape in both can't be told."""
    whole = nn.ModuleDict({"ours": Pair(), "loss": nn.Conv1d(8, width, 3)})
    weight_map = convsurgeon.convert(whole["ours"], torch.randn(2, 8, 16)).weight_map
    state = {"state_dict": whole.state_dict(), "optimizer_states": [adam_of(whole)]}
    if width == 8:
        with pytest.raises(CheckpointError, match=r"may be of Pair or of another model .*'param_names'"):
            weight_map.to_2d(state)
        return
    moved = weight_map.to_2d(state)
    assert [moved["optimizer_states"][0]["state"][at]["exp_avg"].dim() for at in (0, 2, 4)] == [4, 4, 3]
    assert [moved["state_dict"][name].dim() for name in ("ours.encoder.weight", "loss.weight")] == [4, 3]
    assert_same(weight_map.to_1d(moved), state)


def test_averages_of_all_that_the_state_has() -> None:
    """As a list, buffers among them."""
    model = nn.Sequential(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8))
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    state = {"model": model.state_dict(), "ema_weights": [*model.state_dict().values()]}
    moved = weight_map.to_2d(state)
    assert [one.dim() for one in moved["ema_weights"]] == [4, 1, 1, 1, 1, 1, 0]
    assert_same(weight_map.to_1d(moved), state)


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


def test_a_configuration_is_passed_on_as_it_is() -> None:
    """Of OmegaConf, which raises where a value isn't there yet."""

    class DictConfig(dict[str, Any]):
        __module__ = "omegaconf.dictconfig"

        def items(self) -> Any:
            raise ValueError("Missing mandatory value: data")

        values = items

    model, config = Pair(), DictConfig(data="???")
    weight_map = convsurgeon.convert(model, torch.randn(2, 8, 16)).weight_map
    moved = weight_map.to_2d({"state_dict": model.state_dict(), "hyper_parameters": {"cfg": config}})
    assert moved["hyper_parameters"]["cfg"] is config
    assert moved["state_dict"]["encoder.weight"].dim() == 4
