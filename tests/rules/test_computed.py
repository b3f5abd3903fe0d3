"""Sizes, scales and ends that the graph computes: regions go on through what takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

Written = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

WRITTEN: dict[str, Written] = {
    "adaptive, to a length": lambda y, x: F.adaptive_avg_pool1d(y, x.shape[-1]),
    "adaptive, to a size": lambda y, x: F.adaptive_max_pool1d(y, x.shape[2:]),
    "adaptive, to a tuple": lambda y, x: F.adaptive_avg_pool1d(y, (x.size(2),)),
    "global, by a size": lambda y, x: F.avg_pool1d(y, y.size()[2:]) * y,
    "global, by a length": lambda y, x: F.max_pool1d(y, y.size(-1)) * y,
    "global, by name": lambda y, x: F.max_pool1d(y, kernel_size=y.shape[2:]) * y,
    "by a computed scale": lambda y, x: F.interpolate(y, scale_factor=2 * x.shape[-1] / x.shape[-1]),
    "up to a tensor": lambda y, x: y[..., : (x[0, 0] > -9).sum() - 5],
    "reshape by name": lambda y, x: y.reshape(shape=(x.shape[0], -1, 2, y.shape[-1])).flatten(1, 2),
    "repeat by name": lambda y, x: y.repeat(repeats=(1, 1, 2)),
}


class Net(nn.Module):
    def __init__(self, written: Written) -> None:
        super().__init__()
        self.a, self.b, self.written = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 2, 3), written

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.written(self.a(x), x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("written", WRITTEN)
def test_a_region_goes_on(written: str, unit_axis: Any) -> None:
    net = Net(WRITTEN[written])
    conversion = convsurgeon.convert(net, torch.randn(2, 3, 40), capture="trace", unit_axis=unit_axis)
    assert len(conversion.plan.borders) == 2, conversion.plan
    for shape in ((2, 3, 40), (1, 3, 57)):
        x = torch.randn(shape)
        torch.testing.assert_close(conversion.module(x), net(x))
