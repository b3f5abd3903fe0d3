"""No class or function of the user's is kept once the user has let it go."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

import convsurgeon
from convsurgeon.exact.surroundings import _has_flag


def converted() -> tuple[weakref.ref[type], weakref.ref[torch.Tensor]]:
    table = torch.randn(1)

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + table if x.sum() < 1e9 else x

    convsurgeon.convert(Local().eval(), torch.randn(2, 3, 8))
    return weakref.ref(Local), weakref.ref(table)


def test_a_class_and_what_it_closes_over_are_let_go() -> None:
    kind, table = converted()
    gc.collect()
    assert kind() is None
    assert table() is None


def test_a_function_is_let_go() -> None:
    def function(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return x

    assert _has_flag(function)
    held = weakref.ref(function)
    del function
    gc.collect()
    assert held() is None
