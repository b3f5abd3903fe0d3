"""Axes that are moved by another name than ``transpose`` and ``permute``: regions go on through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convsurgeon

TURNED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mT": lambda x: x.mT,
    "moveaxis, a method": lambda x: x.moveaxis(1, 2),
    "moveaxis, by keywords": lambda x: torch.moveaxis(input=x, source=-1, destination=1),
    "movedim, a method": lambda x: x.movedim(-1, -2),
    "movedim of two": lambda x: torch.movedim(x, (1, 2), destination=(2, 1)),
}


class Turning(nn.Module):
    """A layer over the channels between two convolutions."""

    def __init__(self, turned: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(4, 6, 3), nn.LayerNorm(6), nn.Conv1d(6, 4, 3)
        self.turned = turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.turned(self.norm(self.turned(self.a(x)))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("turned", TURNED)
def test_a_region_goes_on_where_axes_are_moved(turned: str, capture: Any, unit_axis: Any) -> None:
    net, x = Turning(TURNED[turned]), torch.randn(2, 4, 30)
    conversion = convsurgeon.convert(net, x, capture=capture, unit_axis=unit_axis)
    assert len(conversion.plan.borders) == 2
    for other in (x, torch.randn(2, 4, 17)):
        torch.testing.assert_close(conversion.module(other), net(other))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-4, 3), min_size=1, max_size=4, unique_by=lambda dim: dim % 4),
    st.permutations(range(4)),
    st.sampled_from([-2, -1]),
)
def test_movedim_orders_the_axes_as_torch_does(source: list[int], places: list[int], unit_axis: Any) -> None:
    destination = places[: len(source)]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(6, 6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.movedim(self.conv(x).unflatten(1, (2, 3)), source, destination) * 2

    net, x = Net(), torch.randn(2, 6, 9)
    found, expected = convsurgeon.convert(net, x, unit_axis=unit_axis).module(x), net(x)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_parts_of_given_sizes(capture: Any) -> None:
    class Net(Turning):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, gate = torch.split_with_sizes(self.a(x), [2, 4], dim=1)
            more, last = gate.split_with_sizes((1, 3), 1)
            return self.b(torch.cat([values, last, more], 1))  # type: ignore[no-any-return]

    net, x = Net(torch.relu), torch.randn(2, 4, 30)
    conversion = convsurgeon.convert(net, x, capture=capture)
    assert len(conversion.plan.borders) == 2
    torch.testing.assert_close(conversion.module(x), net(x))
