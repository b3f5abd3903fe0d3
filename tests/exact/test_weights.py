from __future__ import annotations

import pytest
import torch
from torch import nn

import convsurgeon


@pytest.mark.parametrize(
    ("model", "rewrite"),
    [
        (nn.Sequential(nn.Conv1d(2, 4, 3, bias=False), nn.BatchNorm1d(4, eps=1e-12)).eval(), "fold_batch_norm"),
        (nn.ConvTranspose1d(2, 2, 3, groups=2), "transposed_as_convolution"),
    ],
)
def test_what_is_baked_follows_from_the_rewrite_and_not_from_the_numbers(model: nn.Module, rewrite: str) -> None:
    with torch.no_grad():
        weight = next(model.parameters())
        weight.copy_(weight + weight.flip(-1))  # a transposed convolution's is the same flipped
    conversion = convsurgeon.convert(model, torch.randn(2, 2, 12), exact=[rewrite])
    trained = {name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    with pytest.raises(convsurgeon.CheckpointError, match="baked"):
        conversion.weight_map.to_2d(trained)
