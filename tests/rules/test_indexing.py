"""An index is that of the 1-D value at every length, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

CUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a start that covers the sample": lambda y: y[:, :, :8, ...],
    "an end that covers the sample": lambda y: y[:, :, -8:, ...],
    "all but the first": lambda y: y[:, :, 1:, ...],
    "in the middle": lambda y: y[:, ..., :, ::2],
    "in front": lambda y: y[..., :, :, 1:],
    "beside a new axis": lambda y: y[:, None, :, 1:, ...].squeeze(1),
    "an axis behind it": lambda y: y[:, :, 1:, ..., None].squeeze(-1),
    "one element": lambda y: y[:, :, 2, ...].unsqueeze(-1),
}


class Cut(nn.Module):
    def __init__(self, cut: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.cut(self.a(x)))
        return y


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", CUTS)
def test_an_ellipsis_may_stand_for_no_axis(name: str, unit_axis: Any) -> None:
    model = Cut(CUTS[name]).eval()
    module = convsurgeon.convert(model, torch.randn(2, 4, 8), unit_axis=unit_axis).module
    for length in (5, 8, 12):
        x = torch.randn(3, 4, length)
        torch.testing.assert_close(module(x), model(x))
