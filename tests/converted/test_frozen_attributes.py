"""Attributes that a graph holds at a value: to set another is told."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Block(nn.Module):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.conv, self._causal, self.note, self.device = nn.Conv1d(4, 4, 5), False, "", "cpu"

    @property
    def causal(self) -> bool:
        return self._causal

    @causal.setter
    def causal(self, value: bool) -> None:
        self._causal = value

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (4, 0) if self.causal else (2, 2))

    @torch.enable_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.padded(x.to(x.device))).relu() * self.gain


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.scale = Block(), 2.0

    def set_causal(self, causal: bool) -> None:
        self.block.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) * self.scale


class Decides(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.detach().abs().mean()) > 1e6 else self.block(x)


COPIES = [lambda one: one, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]


@pytest.mark.parametrize("copied", COPIES)
def test_to_set_what_an_island_holds_is_told(copied: Any) -> None:
    module = copied(convsurgeon.convert(Decides().eval(), X, capture="islands").module)
    with pytest.warns(UserWarning, match=r"Block\._causal was False when .* doesn't follow True"):
        module.set_causal(True)
    assert module.block._causal


@pytest.mark.parametrize("copied", COPIES)
def test_to_set_what_a_graph_holds_is_told(copied: Any) -> None:
    first = convsurgeon.convert(Net().eval(), X).module
    for module in (copied(first), copied(convsurgeon.convert(first, X).module)):
        with pytest.warns(UserWarning, match=r"Net\.scale was 2\.0 when") as told:
            module.scale = 3.0
        assert {one.filename for one in told} == {__file__}
        with pytest.warns(UserWarning, match=r"Scope\[Block\]\.gain was 1\.0 when") as told:
            module.block.gain = 2.0
        assert {one.filename for one in told} == {__file__}
        with pytest.warns(UserWarning, match=r"Scope\[Block\]\._causal was False when"):
            module.block._causal = True


def test_what_forward_does_not_read_and_what_stays_are_set_in_silence() -> None:
    module = convsurgeon.convert(Net().eval(), X).module
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.scale = 2.0
        module.block.note, module.block.device = "seen", "meta"  # of its module, forward reads neither
        module.train().eval().requires_grad_(False).double()


def test_a_tuple_that_forward_reads_is_told_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scales = nn.Conv1d(4, 4, 5), (1.0, 2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) * self.scales[0] + self.scales[1]

    module = convsurgeon.convert(Scaled().eval(), X).module
    with pytest.warns(UserWarning, match=r"scales was \(1.0, 2.0\) when the model was captured"):
        module.scales = (3.0, 4.0)
