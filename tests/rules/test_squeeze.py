"""A squeeze of a length that is 1 by construction is a flatten in 2-D; any other squeezes what the input brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convsurgeon

aten = torch.ops.aten
AXES = st.sampled_from([-2, -1])

ONE_LONG: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "an adaptive pool": lambda net, x: net.average(x),
    "the largest": lambda net, x: F.adaptive_max_pool1d(x, (1,)),
    "a kept mean": lambda net, x: x.mean(-1, keepdim=True),
    "a kept maximum": lambda net, x: x.amax(dim=(-1,), keepdim=True),
    "a kept norm": lambda net, x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
}

BETWEEN: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "nothing": lambda net, x: x,
    "pointwise": lambda net, x: torch.sigmoid(F.relu(x) * 2),
    "dropout": lambda net, x: net.dropout(x),
    "in place": lambda net, x: x.clone().mul_(2),
    "a convolution of one": lambda net, x: net.one(x),
}

SQUEEZED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "method": lambda x: x.squeeze(-1),
    "keyword": lambda x: x.squeeze(dim=-1),
    "function": lambda x: torch.squeeze(x, -1),
    "axes": lambda x: torch.squeeze(input=x, dim=(-1,)),
}


class Net(nn.Module):
    def __init__(self, tail: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.one = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 1)
        self.average, self.dropout = nn.AdaptiveAvgPool1d(1), nn.Dropout(0.3)
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self, self.conv(x))


def targets(conversion: convsurgeon.Conversion) -> set[Any]:
    assert isinstance(conversion.module, convsurgeon.ConvertedModule)
    return {node.target for node in conversion.module.graph.nodes}


@settings(max_examples=60, deadline=None)
@given(
    *(st.sampled_from(sorted(table)) for table in (ONE_LONG, BETWEEN, SQUEEZED)),
    st.sampled_from([(), (1,), (2,)]),
    st.integers(3, 9),
    AXES,
)
def test_a_length_of_one_by_construction_is_flattened(
    made: str, between: str, squeezed: str, batch: tuple[int, ...], length: int, unit_axis: Any
) -> None:
    net = Net(lambda net, x: SQUEEZED[squeezed](BETWEEN[between](net, ONE_LONG[made](net, x)))).eval()
    conversion = convsurgeon.convert(net, torch.randn(*batch, 3, length), unit_axis=unit_axis)
    assert torch.flatten in targets(conversion)
    assert targets(conversion).isdisjoint({torch.squeeze, "squeeze"})
    for other in (3, length, length + 5):
        x = torch.randn(*batch, 3, other)
        expected, found = net(x), conversion.module(x)
        torch.testing.assert_close(found, expected)
        assert found.stride() == expected.stride()


NOT_BY_CONSTRUCTION: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "a convolution that happens to": lambda net, x: x.squeeze(-1),
    "a sum over the channels": lambda net, x: x.sum(1, keepdim=True).squeeze(-1),
    "a pool to one for each sample": lambda net, x: F.adaptive_avg_pool1d(x, x.shape[-1]).squeeze(-1),
    "broadcast again": lambda net, x: (x.mean(-1, keepdim=True) + x).squeeze(-1),
    "another axis": lambda net, x: x.mean(1, keepdim=True).squeeze(1),
    "all axes": lambda net, x: net.average(x).squeeze(),
}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(NOT_BY_CONSTRUCTION)), st.sampled_from([1, 2]), AXES)
def test_any_other_follows_the_input(name: str, batch: int, unit_axis: Any) -> None:
    net = Net(NOT_BY_CONSTRUCTION[name]).eval()
    conversion = convsurgeon.convert(net, torch.randn(batch, 3, 3), unit_axis=unit_axis)
    assert torch.flatten not in targets(conversion)
    for size in ((batch, 3, 3), (batch, 3, 8), (3, 3, 5)):
        x = torch.randn(size)
        torch.testing.assert_close(conversion.module(x), net(x))


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch's own, in its export
@pytest.mark.parametrize("axes", [-1, (2,)], ids=str)
def test_a_program_has_the_overload_that_flattens(axes: Any) -> None:
    net, x = Net(lambda net, x: net.average(x).squeeze(axes)).eval(), torch.randn(2, 3, 9)
    conversion = convsurgeon.convert(torch.export.export(net, (x,)), x)
    assert aten.flatten.using_ints in targets(conversion)
    torch.testing.assert_close(conversion.exported_program.module()(x), net(x))


def test_it_can_be_trained_and_pickled(tmp_path: Any) -> None:
    net, x = Net(lambda net, x: net.average(x).squeeze(-1)), torch.randn(2, 3, 9)
    conversion = convsurgeon.convert(net, x)
    convsurgeon.verify(net, conversion.module, x, gradients=True, train=True).require()
    torch.save(conversion.module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    torch.testing.assert_close(again(x), conversion.module(x))
