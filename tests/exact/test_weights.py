from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
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


class Window(nn.Module):
    """A filter bank, which no state has where it isn't persistent."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        window = torch.hann_window(9).expand(2, 1, 9).clone()
        self.register_buffer("window", window, persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.get_buffer("window"))


@pytest.mark.parametrize("persistent", [False, True])
def test_parts_of_a_buffer_are_saved_where_it_was(persistent: bool) -> None:
    conversion = convsurgeon.convert(Window(persistent=persistent), torch.randn(2, 1, 40), exact=["split_kernel:4"])
    assert conversion.exact.rewritten
    parts = dict(conversion.module.named_buffers())
    assert len(parts) > 1
    assert conversion.module.state_dict().keys() == (parts.keys() if persistent else set())
