from __future__ import annotations

from typing import Any

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
