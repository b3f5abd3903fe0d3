"""Strides and dilations that are asked to be equal on both axes stay so, whatever exact rewrites write."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_support import AXES, CAPTURES, convolutions, rewritten, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convsurgeon.exact import REWRITES

pytestmark = [
    # torch says so of "same" with an even kernel, in 1-D and in 2-D
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]
aten = torch.ops.aten


class Steps(TorchDispatchMode):
    """Sees the strides and dilations of all convolutions and plain pools that are computed, however they are spelled.

    Where a pool is given none, its stride is its window.
    """

    _PLACES = ((aten.convolution, (3, 5)), (aten.max_pool2d_with_indices, (2, 4)), (aten.avg_pool2d, (2,)))

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for packet, places in self._PLACES:
            if func.overloadpacket is packet:
                self.seen += [tuple(args[at] or args[1]) for at in places if at < len(args)]
        return func(*args, **kwargs or {})


def unequal(module: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    with torch.no_grad(), Steps() as steps:
        module(x)
    assert steps.seen
    return [one for one in steps.seen if len(one) != 2 or one[0] != one[1]]


class Spectrum(nn.Module):
    """A linear layer over the channels, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.linear, self.after = nn.Conv1d(4, 4, 5, 3), nn.Linear(4, 4), nn.Conv1d(4, 2, 3, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.linear(self.before(x).transpose(1, 2)).transpose(1, 2))


def after_convolution(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(4, 4, 1), pool, nn.Conv1d(4, 4, 1))


STEPPING: dict[str, nn.Module] = {
    "fold_batch_norm": nn.Sequential(nn.Conv1d(4, 4, 5, stride=2, dilation=3), nn.BatchNorm1d(4)),
    "merge_padding": nn.Sequential(nn.ZeroPad1d(2), nn.Conv1d(4, 4, 5, stride=2, dilation=3)),
    "fix_pool": after_convolution(nn.AdaptiveAvgPool1d(4)),
    "linear_as_convolution": Spectrum(),
    "crop_padding": nn.Sequential(nn.ConvTranspose1d(4, 4, 5, stride=3, padding=2, dilation=2)),
    "transposed_as_convolution": nn.Sequential(nn.ConvTranspose1d(4, 4, 5, stride=3, padding=2, dilation=2)),
    "ungroup_dense": nn.Sequential(nn.Conv1d(4, 8, 5, stride=2, dilation=3, groups=2)),
    "ungroup_split": nn.Sequential(nn.ConvTranspose1d(4, 8, 5, stride=2, dilation=3, groups=2)),
    "repeat_inputs": nn.Sequential(nn.Conv1d(4, 8, 5, stride=2, dilation=3, groups=4)),
    "fold_dilation": nn.Sequential(nn.Conv1d(4, 4, 1, stride=2, dilation=3), nn.Conv1d(4, 4, 3, dilation=3)),
    "fold_into_channels": nn.Sequential(nn.Conv1d(4, 4, 5, stride=2), nn.Conv1d(4, 4, 5, dilation=3)),
    "fold_stride": nn.Sequential(nn.Conv1d(4, 4, 5, stride=2), nn.Conv1d(4, 4, 5, dilation=3)),
    "split_kernel:3": nn.Sequential(nn.Conv1d(4, 4, 8, stride=2, dilation=3)),
    "split_pool_stride:3": after_convolution(nn.MaxPool1d(9, 6, 2)),
    "split_pool:4": after_convolution(nn.Sequential(nn.MaxPool1d(9, 3, 2), nn.AvgPool1d(6))),
    "convolution_as_product": nn.Sequential(nn.Conv1d(4, 4, 5, stride=2), nn.ConvTranspose1d(4, 4, 5, stride=3)),
    "separate_padding": nn.Sequential(nn.Conv1d(4, 4, 5, stride=2, padding=2, dilation=3)),
}
"""For each exact rewrite a model with strides and dilations where it is done."""


def test_every_exact_rewrite_has_a_model_with_strides_and_dilations() -> None:
    assert {name.partition(":")[0] for name in STEPPING} == set(REWRITES)


@CAPTURES
@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", STEPPING)
def test_square_outlasts_every_exact_rewrite(name: str, unit_axis: Any, capture: str) -> None:
    model, x = STEPPING[name].double().eval(), wide(2, 4, 64)
    module, notes = rewritten(model, x, [name], unit_axis=unit_axis, capture=capture, square=True)
    done = name != "linear_as_convolution" or unit_axis == -2
    assert {one.rewrite for one in notes.rewritten} == {name.partition(":")[0]} if done else not notes.rewritten
    assert unequal(module, x) == []


@given(
    convolutions(strides=4, dilations=3, same=True) | convolutions(strides=4, dilations=3, transposed=True),
    st.sets(st.sampled_from(list(STEPPING))),
    AXES,
    st.sampled_from(["trace", "export"]),
)
@settings(max_examples=80)
def test_square_outlasts_exact_rewrites_together(drawn: Any, names: set[str], unit_axis: Any, capture: str) -> None:
    (first, _), x = drawn
    x = x if x.ndim == 3 else x[None]
    channels = first(x).shape[-2]
    behind = nn.BatchNorm1d(channels), nn.MaxPool1d(5, 4, 2), nn.Conv1d(channels, 2, 1, 2), nn.AdaptiveAvgPool1d(1)
    model = nn.Sequential(nn.ZeroPad1d(2), first, *behind).double().eval()
    module, _ = rewritten(model, x, sorted(names), unit_axis=unit_axis, capture=capture, square=True)
    assert unequal(module, x) == []
