"""What every test of an exact rewrite asks: the same result as the original in float64, at every length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

import convsurgeon
from convsurgeon.exact import Notes, rewrite_exactly


class Called(nn.Module):
    """A convolution that is called as a function, with the numbers and weights of a layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.transposed = isinstance(layer, nn.ConvTranspose1d)
        self.numbers = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        if self.transposed:
            self.numbers["output_padding"] = layer.output_padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function: Any = F.conv_transpose1d if self.transposed else F.conv1d
        return function(x, self.weight, self.bias, **self.numbers)


def rewritten(
    model: nn.Module,
    sample: torch.Tensor,
    names: Sequence[str],
    *,
    lengths: Iterable[int] = (),
    unit_axis: Literal[-2, -1] = -2,
    capture: Any = "trace",
    square: bool = False,
) -> tuple[torch.nn.Module, Notes]:
    """The converted and rewritten model and its notes, once it is known to be equal on the sample and other lengths."""
    conversion = convsurgeon.convert(model, sample, capture=capture, unit_axis=unit_axis, square=square, verify=False)
    notes = rewrite_exactly(conversion.module, names, sample)
    batches = sample.shape[:-1]
    for length in (sample.shape[-1], *lengths):
        x = sample if length == sample.shape[-1] else torch.randn(*batches, length, dtype=sample.dtype)
        torch.testing.assert_close(conversion.module(x), model(x), rtol=1e-12, atol=1e-12, check_stride=False)
    return conversion.module, notes


def wide(*shape: int, seed: int = 0) -> torch.Tensor:
    """A float64 input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def convolutions(
    draw: st.DrawFn, *, strides: int = 1, dilations: int = 1, transposed: bool = False, same: bool = False
) -> tuple[nn.Module, torch.Tensor]:
    """A convolution of any numbers, as a layer or a function, and an input, batched or not."""
    groups, taps = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    stride, dilation = draw(st.integers(1, strides)), draw(st.integers(1, dilations))
    padding: Any = draw(st.integers(0, 5))
    if same and stride == 1:
        padding = draw(st.one_of(st.just(padding), st.sampled_from(["same", "valid"])))
    channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    numbers: dict[str, Any] = {"groups": groups, "bias": draw(st.booleans()), "dtype": torch.float64}
    layer: nn.Module
    if transposed:
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        padding = draw(st.integers(0, 3))
        layer = nn.ConvTranspose1d(*channels, taps, stride, padding, extra, dilation=dilation, **numbers)
    else:
        layer = nn.Conv1d(*channels, taps, stride, padding, dilation, **numbers)
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    length = draw(st.integers(dilation * taps + 6, dilation * taps + 20))
    model = nn.Sequential(layer, nn.Tanh()) if draw(st.booleans()) else nn.Sequential(Called(layer), nn.Tanh())
    return model, wide(*batch, channels[0], length, seed=draw(st.integers(0, 9)))


AXES = st.sampled_from([-2, -1])
CAPTURES = pytest.mark.parametrize("capture", ["trace", "export"])
