"""Computed weights stay computed and trainable, are folded on request, or their convolutions are kept; never broken."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import assert_same, converted_and_equal, ranks_of_convolutions
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import convsurgeon

X = torch.randn(2, 4, 16)


class Symmetric(nn.Module):
    """A user's own parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mix + weight.flip(-1) * (1 - self.mix)


def users(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "bias", 0.5)
    return prune.ln_structured(layer, "weight", 0.3, n=2, dim=0)


def hooked(norm: str) -> Callable[..., nn.Module]:
    def apply(layer: nn.Module, **options: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in most published checkpoints
            return getattr(nn.utils, norm)(layer, **options)

    return apply


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm dim=1": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight_norm dim=-1": lambda layer: parametrizations.weight_norm(layer, dim=-1),
    "weight_norm dim=None": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "a user's own": users,
    "two": lambda layer: users(parametrizations.weight_norm(layer)),
    "hooks: weight_norm": hooked("weight_norm"),
    "hooks: weight_norm dim=1": lambda layer: hooked("weight_norm")(layer, dim=1),
    "hooks: spectral_norm": hooked("spectral_norm"),
    "pruned": pruned,
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv1d(6, 6, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose1d(6, 6, 4, 2, 1),
}


def network(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 6, 3), nn.Tanh(), layer, nn.Tanh(), nn.Conv1d(6, 4, 3))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_computed_weights_stay_computed_and_train_alike(way: str, layer: str, unit_axis: Any) -> None:
    model = network(WAYS[way](LAYERS[layer]()))
    conversion = converted_and_equal(model.eval(), X, unit_axis=unit_axis, copy_weights=True)
    assert conversion.plan.capture.mode is None
    flowing = [border for border in conversion.plan.borders if not border.constant]
    assert len(flowing) == 2
    module = conversion.module
    state = model.state_dict()
    assert list(module.state_dict()) == list(state)
    assert {k: v.shape for k, v in conversion.weight_map.to_1d(module.state_dict()).items()} == {
        k: v.shape for k, v in state.items()
    }
    assert_trains_alike(model.train(), module.train())
    module.load_state_dict(state)
    torch.testing.assert_close(module.eval()(X), model.eval()(X))


def assert_trains_alike(model: nn.Module, module: nn.Module) -> None:
    """Three steps of SGD lower both losses by as much."""
    losses: list[list[float]] = []
    for one in (model, module):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(one.parameters(), 0.05)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = one(X).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(*losses)
    assert losses[0][2] < losses[0][0]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", WAYS)
def test_fold_keeps_the_computed_weight_and_leaves_the_model_alone(way: str, layer: str) -> None:
    model = network(WAYS[way](LAYERS[layer]())).eval()
    before, expected = list(model.state_dict()), model(X)
    conversion = converted_and_equal(model, X, fold=True)
    names = list(network(LAYERS[layer]()).state_dict())
    assert sorted(conversion.module.state_dict()) == sorted(names)
    assert len(conversion.plan.borders) == 2
    assert type(conversion.module.get_submodule("2")) in (nn.Conv2d, nn.ConvTranspose2d)
    assert list(model.state_dict()) == before
    torch.testing.assert_close(model(X), expected, rtol=0, atol=0)


def test_fold_of_what_changes_in_each_call_is_refused() -> None:
    model = network(hooked("spectral_norm")(nn.Conv1d(6, 6, 3))).train()
    with pytest.raises(convsurgeon.EquivalenceError):
        convsurgeon.convert(model, X, fold=True)


def test_a_layer_for_quantisation_aware_training_is_kept() -> None:
    qat = pytest.importorskip("torch.ao.nn.qat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, deprecated
        layer = nn.Conv1d(6, 6, 3)
        layer.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        model = network(qat.Conv1d.from_float(layer.train())).train()
        conversion = convsurgeon.convert(model, X)
        assert "computes something of its own on top of Conv1d" in " ".join(str(conversion.plan).split())
        assert len(conversion.plan.convolutions) == 2
        torch.testing.assert_close(conversion.module(X), copy.deepcopy(model)(X))


class LoRA(nn.Module):
    """A convolution whose weights are frozen, beside a trainable one of low rank, as adapters are written."""

    def __init__(self, base: nn.Conv1d, rank: int) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Conv1d(base.in_channels, rank, 3, padding=1, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv1d(rank, base.out_channels, 1, bias=False)})
        self.active = ["default"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base_layer(x)
        for name in self.active:
            result = result + self.lora_B[name](self.lora_A[name](x)) * 0.5
        return result


class Merged(nn.Conv1d):
    """One that adds the product of two matrices to its weight in forward."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.down, self.up = nn.Parameter(torch.randn(2, 18)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight + (self.up @ self.down).view(self.weight.shape), self.bias)


@pytest.mark.parametrize("layer", [LoRA(nn.Conv1d(6, 6, 3, padding=1), 2), Merged(6, 6, 3)])
def test_adapters_are_converted_and_train_alike(layer: nn.Module) -> None:
    model = network(layer)
    conversion = converted_and_equal(model, X, copy_weights=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name, p in conversion.module.named_parameters() if not p.requires_grad} == frozen
    optimized = [p for p in model.parameters() if p.requires_grad]
    assert optimized
    assert set(ranks_of_convolutions(conversion.module, X)) == {(4, 4)}


@pytest.mark.parametrize("unwrapped", [True, False])
def test_wrappers_are_taken_off_or_refused(unwrapped: bool) -> None:
    model = network(nn.Conv1d(6, 6, 3)).eval()
    if unwrapped:
        conversion = convsurgeon.convert(torch.compile(model), X)
        assert "torch.compile was taken off" in " ".join(str(conversion).split())
        torch.testing.assert_close(conversion.module(X), model(X))
        return
    with pytest.raises(convsurgeon.UnsupportedError, match="model is wrapped in DataParallel"):
        convsurgeon.convert(nn.DataParallel(model), X)
    with pytest.raises(convsurgeon.UnsupportedError, match="0 is wrapped in DataParallel"):
        convsurgeon.convert(nn.Sequential(nn.DataParallel(model)), X)


def test_a_part_that_is_compiled_is_refused_and_what_compiles_in_place_is_not() -> None:
    part = network(nn.BatchNorm1d(6)).train()
    before = copy.deepcopy(part.state_dict())
    model = nn.Sequential(torch.compile(part, backend="eager"), nn.ReLU())
    with pytest.raises(convsurgeon.UnsupportedError, match=r"0 is compiled by torch.compile; .*submodule\('0'\)"):
        convsurgeon.convert(model, X)
    model[0] = model.get_submodule("0")._orig_mod
    model[0].compile(backend="eager")
    assert convsurgeon.convert(model, X).plan.lifted
    assert_same(part.state_dict(), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_frozen_weight_that_a_hook_computes_is_folded_into_a_frozen_one(wrap: Any) -> None:
    model, x = nn.Sequential(wrap(nn.Conv1d(4, 4, 3))).eval().requires_grad_(False), torch.randn(2, 4, 20)
    module = convsurgeon.convert(model, x, fold=True).module
    assert not any(one.requires_grad for one in module.parameters())
