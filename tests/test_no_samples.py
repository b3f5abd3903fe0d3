"""Without samples each convolution is converted alone, and what the graph computes for its arguments still counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon
from convsurgeon.exported import module_of_program


class Net(nn.Module):
    def __init__(self, run: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.down = nn.Conv1d(4, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3))
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


LIFTED: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "an output size": lambda net, x: net.up(net.down(x), output_size=x.size()),
    "an output size by place": lambda net, x: net.up(net.down(x), x.size()),
    "an output size as a list": lambda net, x: net.up(net.down(x), output_size=[x.size(-1)]),
    "a padding in a tuple": lambda net, x: F.conv1d(x, net.weight, padding=(x.size(-1) % 2 + 1,)),
    "a reshape": lambda net, x: torch.reshape(net.up(net.down(x)).mean() + x, x.shape),
    "a broadcast": lambda net, x: net.down(x) + torch.broadcast_to(x.mean(), x.size())[..., :1],
}


@pytest.mark.parametrize("name", LIFTED)
def test_what_is_computed_in_the_graph_is_carried_along(name: str) -> None:
    model = Net(LIFTED[name]).eval()
    conversion = convsurgeon.convert(model, verify=False)
    assert conversion.plan.lifted
    assert not conversion.plan.kept
    for length in (8, 9):
        x = torch.randn(2, 4, length)
        torch.testing.assert_close(conversion.module(x), model(x))


def test_what_may_be_one_number_or_several_stays() -> None:
    model = Net(lambda net, x: F.conv1d(x, net.weight, None, 1, x.size(-1) % 2 + 1)).eval()
    conversion = convsurgeon.convert(model, verify=False)
    (kept,) = conversion.plan.kept
    assert "its padding is computed in the graph" in kept.reason
    for length in (8, 9):
        x = torch.randn(2, 4, length)
        torch.testing.assert_close(conversion.module(x), model(x))


def test_the_graph_of_a_program_with_dynamic_sizes() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.down(x)
        return y.reshape(y.shape[0], y.shape[1] * y.shape[2])

    model, x = Net(run).eval(), torch.randn(2, 4, 8)
    sizes = {"x": {0: torch.export.Dim("n"), 2: torch.export.Dim("l", min=4)}}
    program = torch.export.export(model, (x,), dynamic_shapes=sizes)
    module = convsurgeon.convert(module_of_program(program), verify=False).module
    torch.testing.assert_close(module(x), model(x))
