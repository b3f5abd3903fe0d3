from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact_support import CAPTURES
from torch import Tensor, nn

import convsurgeon


@CAPTURES
def test_nothing_is_read_again_behind_what_writes_to_it(capture: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y, padded = self.conv(x), F.pad(x, (1, 1))
            x = F.relu_(x)
            return self.norm(y) + x + self.conv(padded)[..., 1:-1]

    exact = ["fold_batch_norm", "merge_padding"]
    conversion = convsurgeon.convert(Net().eval(), torch.randn(2, 2, 12), exact=exact, capture=capture)
    assert conversion.exact is not None
    assert not conversion.exact.rewritten


class CopiedBefore(nn.Module):
    """The copy of what is transposed is taken before that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(3, 8, 3, padding=1), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        kept = y.transpose(1, 2).contiguous()
        y.mul_(2.0)
        return self.linear(kept).transpose(1, 2) + y


class CopiedBehind(CopiedBefore):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(self.conv(x).transpose(1, 2))
        kept = y.clone()
        y.mul_(2.0)
        return kept.transpose(1, 2) * 1.0, y


@pytest.mark.parametrize("kind", [CopiedBefore, CopiedBehind])
def test_a_copy_beside_what_is_written_stays_one(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(2, 3, 20)
    module = convsurgeon.convert(model, x, exact=["linear_as_convolution"]).module
    torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)


def test_weights_that_another_part_holds_do_not_part() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(self.conv(x).transpose(1, 2)).transpose(1, 2)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Block(), Block()
            self.two.linear.weight = self.one.linear.weight

        def forward(self, x: torch.Tensor) -> Any:
            y = self.one(x)
            return self.two(-y if float(y.detach().sum()) > 1e9 else y)

    conversion = convsurgeon.convert(
        Tied().eval(), torch.randn(1, 8, 30), capture="islands", exact=["linear_as_convolution"]
    )
    module = conversion.module
    assert module.get_parameter("one.linear.weight") is module.get_parameter("two.linear.weight")
    assert all("held outside this part" in left.reason for left in conversion.exact.left)
