"""Numbers that forward changes in each call: to count by is nothing, to decide by them is memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 3, 20)


class Counting(nn.Module):
    """Counts its calls; `branches` is what torch.fx can't trace, and torch.export can."""

    def __init__(self, decide: Callable[[Any], bool], branches: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 2, 3)
        self.calls, self.decide, self.branches = 0, decide, branches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.branches and x.shape[-1] > 1000:
            return x
        self.calls += 1
        y = torch.relu(self.a(x))
        if self.decide(self.calls):
            y = y * 0.5
        return self.b(y)  # type: ignore[no-any-return]


DECISIONS: dict[str, Callable[[Any], bool]] = {
    "from the fifth call on": lambda calls: calls > 4,
    "the fifth call": lambda calls: calls == 5,
    "every third": lambda calls: not calls % 3,
    "half of it": lambda calls: (calls - 1) // 2 > 1,
}


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("decision", DECISIONS)
def test_a_graph_does_not_freeze_what_a_later_call_decides(decision: str, branches: bool) -> None:
    net = Counting(DECISIONS[decision], branches)
    conversion = convsurgeon.convert(net, X)
    assert conversion.plan.capture.how == "islands"
    for _ in range(7):
        torch.testing.assert_close(conversion.module(X), net(X))
    with pytest.raises(convsurgeon.CaptureError, match=r"by calls|'calls'"):
        convsurgeon.convert(Counting(DECISIONS[decision], branches), X, capture="export" if branches else "trace")


@pytest.mark.parametrize("branches", [False, True])
def test_a_part_that_decides_by_a_count_is_no_island(branches: bool) -> None:
    net = nn.Sequential(nn.Conv1d(3, 3, 3), Counting(DECISIONS["from the fifth call on"], branches))
    conversion = convsurgeon.convert(net, X)
    for _ in range(7):
        torch.testing.assert_close(conversion.module(X), net(X))


@pytest.mark.parametrize(("branches", "how"), [(False, "trace"), (True, "export")])
def test_what_only_counts_is_a_graph(branches: bool, how: str) -> None:
    net = Counting(lambda calls: False, branches)
    conversion = convsurgeon.convert(net, X)
    assert conversion.plan.capture.how == how
    torch.testing.assert_close(conversion.module(X), net(X))


class ActNorm(nn.Module):
    """Initialises itself by what it is called with first, as Glow does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 4, 1))
        self.initialized = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.initialized:
            self.shift.copy_(-x.mean((0, 2), keepdim=True))
            self.initialized = True
        return x + self.shift


def test_a_first_call_that_initialises_is_not_done_again() -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3), ActNorm(), nn.Conv1d(4, 2, 3)).requires_grad_(False)
    module = convsurgeon.convert(net, X, copy_weights=True).module
    for x in (X, X + 5, X):
        torch.testing.assert_close(module(x), net(x))
