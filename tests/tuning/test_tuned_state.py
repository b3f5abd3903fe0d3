"""A tuned module is copied, saved and loaded as any: its weights are its own, and its hooks know it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from tuning.chance import clock, for_last

import convsurgeon


class Snaky(nn.Module):
    """Depthwise layers, and a parameter of the root that gains the unit axis; with branches, each layer is alone."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches = branches
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 5, padding=2, groups=4) for _ in range(2))
        self.alpha = nn.Parameter(torch.ones(1, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
            x = x + torch.sin(self.alpha * x) ** 2
        return x * 2 if self.branches and float(x.detach().sum()) > 1e9 else x


X = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(0))


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def tuned(branches: bool) -> tuple[Snaky, nn.Module]:
    model = Snaky(branches).eval()
    with clock(for_last):
        conversion = convsurgeon.convert(model, X, tune=True)
    assert conversion.tuning is not None
    assert conversion.tuning.taken
    return model, conversion.module


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, saved_and_loaded])
def test_every_copy_computes_and_loads(branches: bool, how: Any) -> None:
    model, module = tuned(branches)
    again = how(module)
    other = Snaky(branches).eval()
    other.alpha.data.uniform_()
    torch.testing.assert_close(again(X), model(X))
    again.load_state_dict(copy.deepcopy(other).state_dict())
    torch.testing.assert_close(again(X), other(X))


@pytest.mark.parametrize("branches", [False, True])
def test_it_loads_what_it_was_made_of(branches: bool) -> None:
    model, module = tuned(branches)
    converted = convsurgeon.convert(model, X).module
    for state in (model.state_dict(), converted.state_dict(), module.state_dict()):
        module.load_state_dict(state)
        torch.testing.assert_close(module(X), model(X))


def test_changing_the_original_changes_no_weight_that_is_laid_out() -> None:
    model, module = tuned(branches=False)
    before = module.get_parameter("layers.0.weight").clone()
    nn.init.zeros_(model.layers[0].weight)
    assert torch.equal(module.get_parameter("layers.0.weight"), before)
