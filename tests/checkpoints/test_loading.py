"""Weights are loaded into a model from whatever holds all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from convsurgeon import CheckpointError
from convsurgeon.checkpoints.loading import load_weights
from convsurgeon.checkpoints.location import Location


class Net(nn.Module):
    """Tied weights, as of embeddings and a head, and a weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.body = nn.Sequential(weight_norm(nn.Conv1d(4, 4, 3)), nn.BatchNorm1d(4))


State = dict[str, torch.Tensor]


def without_head(state: State) -> State:
    return {name: value for name, value in state.items() if name != "head.weight"}


def of_an_older_torch(state: State) -> State:
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    return state


def compiled_inside(state: State) -> State:
    return {f"model.{name.replace('body.', 'body._orig_mod.')}": value for name, value in state.items()}


@pytest.mark.parametrize("change", [dict, without_head, of_an_older_torch, compiled_inside])
def test_what_holds_all_is_enough(tmp_path: Path, change: object) -> None:
    assert callable(change)
    trained, model = Net(), Net()
    torch.save({"epoch": 1, "state_dict": change(trained.state_dict())}, tmp_path / "one.ckpt")
    load_weights(model, Location.of(tmp_path / "one.ckpt"), trust=False)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    state = {name: value for name, value in Net().state_dict().items() if not name.endswith(("weight", "original0"))}
    torch.save(state, tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: embed.weight, head.weight, body.0.*original0, body.1.weight"):
        load_weights(Net(), Location.of(tmp_path / "one.ckpt"), trust=False)


def test_an_older_name_with_another_shape(tmp_path: Path) -> None:
    state = of_an_older_torch(Net().state_dict())
    torch.save({**state, "body.0.weight_v": torch.ones(4, 4, 9)}, tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)doesn't fit Net\n.*original1"):
        load_weights(Net(), Location.of(tmp_path / "one.ckpt"), trust=False)


def test_two_files_with_one_name_in_a_folder(tmp_path: Path) -> None:
    state = without_head(Net().state_dict())
    for name in ("ema.safetensors", "model.safetensors"):
        save_file(state, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"in model.safetensors and in another file: ema.safetensors, model"):
        load_weights(Net(), Location.of(tmp_path), trust=False)


class Counting(nn.Module):
    """Keeps more than tensors."""

    def __init__(self, steps: Any) -> None:
        super().__init__()
        self.conv, self.steps = nn.Conv1d(4, 4, 3), steps

    def get_extra_state(self) -> Any:
        return self.steps

    def set_extra_state(self, state: Any) -> None:
        self.steps = state


@pytest.mark.parametrize("steps", [{"steps": 7}, torch.tensor(7), 7])
def test_extra_state_is_loaded(tmp_path: Path, steps: Any) -> None:
    model = nn.Sequential(Counting(None), nn.ReLU())
    state = nn.Sequential(Counting(steps)).state_dict()
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, tmp_path / "one.ckpt")
    load_weights(model, Location.of(tmp_path / "one.ckpt"), trust=False)
    assert model[0].steps == steps
    assert torch.equal(model[0].conv.weight, state["0.conv.weight"])


def test_extra_state_that_is_missing_is_told(tmp_path: Path) -> None:
    state = nn.Sequential(Counting(7)).state_dict()
    del state["0._extra_state"]
    torch.save(state, tmp_path / "one.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: 0._extra_state"):
        load_weights(nn.Sequential(Counting(None)), Location.of(tmp_path / "one.ckpt"), trust=False)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_take_the_shapes_that_are_there(tmp_path: Path) -> None:
    trained, fresh = (nn.Sequential(nn.LazyConv1d(8, 3), nn.ReLU(), nn.LazyConv1d(2, 3)) for _ in range(2))
    trained(torch.randn(1, 4, 16))
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    load_weights(fresh, Location.of(tmp_path / "net.pt"), trust=False)
    assert torch.equal(fresh.state_dict()["0.weight"], trained.state_dict()["0.weight"])
