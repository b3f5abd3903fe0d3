"""A clone refers to its own modules and tensors, weakly too, and to nothing of the original's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon
from convsurgeon.clones.cloning import clone_module, own

X = torch.randn(2, 4, 16)


class Head(nn.Module):
    def __init__(self, parent: nn.Module, refer: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.parents = {"first": refer(parent)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parent = self.parents["first"]
        return self.conv(x) * (parent() if type(parent) is weakref.ref else parent).gain


class Net(nn.Module):
    def __init__(self, refer: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(1) + 1)
        self.head = Head(self, refer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x)
        return y


@pytest.mark.parametrize("capture", ["auto", "islands"])
@pytest.mark.parametrize("refer", [weakref.ref, weakref.proxy])
def test_a_weak_reference_to_the_module_above_is_to_the_clones(refer: Any, capture: Any) -> None:
    net, other = Net(refer).eval(), Net(refer).eval()
    module = convsurgeon.convert(net, X, copy_weights=True, capture=capture).module
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(X), other(X))
    module(X).sum().backward()
    assert module.get_parameter("gain").grad is not None
    assert net.gain.grad is None
    del net
    gc.collect()
    torch.testing.assert_close(module(X), other(X))


def test_a_weak_reference_to_what_is_outside_or_gone_stays() -> None:
    model, outside, gone = nn.Conv1d(4, 4, 3), nn.Linear(2, 2), nn.Linear(2, 2)
    vars(model).update(outside=weakref.ref(outside), near=weakref.proxy(outside), far=weakref.proxy(gone))
    vars(model)["gone"] = weakref.ref(gone)
    del gone
    gc.collect()
    clone = clone_module(model, own)
    assert vars(clone)["outside"]() is outside
    assert vars(clone)["near"].in_features == 2
    assert vars(clone)["gone"]() is None
    with pytest.raises(ReferenceError):
        _ = vars(clone)["far"].in_features


def test_a_recurrent_layer_knows_its_own_weights() -> None:
    clone = clone_module(nn.LSTM(4, 4), own)
    assert all(ref() is weight for ref, weight in zip(clone._flat_weight_refs, clone._flat_weights, strict=True))
    assert clone._flat_weights[0] is clone.weight_ih_l0
