"""Tensors that forward makes of no input: a graph has one of each for all calls, and a cache keeps it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 20)


class Net(nn.Module):
    """Two convolutions, and what a test does between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.between(torch.relu(self.conv(x))))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


class FillsWhatItReturns(Net):
    def forward(self, x: torch.Tensor) -> Any:
        frames = torch.zeros(2, 4, 20)
        frames[:, :, 2:18] = super().forward(x)[:, :, 2:18]
        return frames


class SumsUp(Net):
    def forward(self, x: torch.Tensor) -> Any:
        penalty = torch.zeros(1)
        for conv in (self.conv, self.head):
            x = torch.tanh(conv(x))
            penalty += x.pow(2).mean()
        return x, penalty


class InASubmodule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = SumsUp(), nn.Conv1d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y, penalty = self.inner(x if float(x.sum()) > -1e9 else -x)
        return self.last(y), penalty


@pytest.mark.parametrize("kind", [FillsWhatItReturns, SumsUp, InASubmodule])
@pytest.mark.parametrize("verify", [True, False])
def test_a_tensor_that_forward_fills_is_another_in_each_call(kind: type[nn.Module], verify: bool) -> None:
    model, other = kind().eval(), torch.randn(2, 4, 20)
    expected = model(X), model(other)
    module = convsurgeon.convert(model, X, verify=verify).module
    found = module(X), module(other)
    torch.testing.assert_close(found, expected)


def test_a_trace_that_fills_a_constant_says_what_to_write() -> None:
    with pytest.raises(convsurgeon.CaptureError, match=r"fills a tensor that it makes of no input(.|\n)*x.new_zeros"):
        convsurgeon.convert(SumsUp().eval(), X, capture="trace")


@functools.cache
def low_pass(taps: int) -> torch.Tensor:
    return (torch.hann_window(taps) / taps).view(1, 1, taps).expand(4, 1, taps).contiguous()


WINDOWS: dict[int, torch.Tensor] = {}


class Filters(Net):
    """Only `torch.export` takes the branch; the cache is filled by whoever calls first."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        return F.conv1d(x, low_pass(5), padding=2, groups=4)


class Windows(Net):
    def between(self, x: torch.Tensor) -> torch.Tensor:
        if 20 not in WINDOWS:
            WINDOWS[20] = torch.hann_window(20).to(x)
        return x * WINDOWS[20]


@pytest.mark.parametrize("kind", [Filters, Windows])
def test_a_cache_beside_the_model_is_filled_with_tensors(kind: type[nn.Module]) -> None:
    low_pass.cache_clear()
    WINDOWS.clear()
    model = kind().eval()  # never called before
    module = convsurgeon.convert(model, X).module
    torch.testing.assert_close(module(X), model(X))
    assert {type(one) for one in (low_pass(5), *WINDOWS.values())} == {torch.Tensor}


class Counts(Net):
    """Nothing reads the count; the constant is another object in each trace."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def between(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * torch.linspace(0.5, 1.0, 4).view(1, 4, 1)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.window: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.window is None:
            self.window = torch.linspace(0.5, 1.0, 4)[:, None]
        return x * self.window


class HoldsLazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = Lazy()

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return self.lazy(x)


@pytest.mark.parametrize("kind", [Counts, HoldsLazy])
def test_a_constant_is_no_memory(kind: type[nn.Module]) -> None:
    model = kind().eval()
    module = convsurgeon.convert(model, X, capture="trace").module
    longer = torch.randn(3, 4, 31)
    torch.testing.assert_close(module(longer), model(longer))


def test_what_every_class_has_in_python_3_13_makes_no_layer_another() -> None:
    kind = type("Renamed", (nn.BatchNorm1d,), {"__firstlineno__": 3, "__static_attributes__": ("a",)})
    conversion = convsurgeon.convert(nn.Sequential(nn.Conv1d(4, 4, 3), kind(4)).eval(), X)
    assert [one.op for one in conversion.module.graph.nodes].count("call_module") == 2  # type: ignore[union-attr]
