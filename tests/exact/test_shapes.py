"""What is known of a graph's values after rewrites is what another run of all of it would tell."""

from __future__ import annotations

import pytest
import torch
from exact_support import CAPTURES
from torch import nn

import convsurgeon
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.exact import passes
from convsurgeon.exact.shapes import Shapes, shapes_of
from convsurgeon.samples import Sample

NAMES = (
    *("fold_batch_norm", "transposed_as_convolution", "ungroup_dense", "ungroup_split", "fold_dilation"),
    *("fold_into_channels", "fold_stride", "split_kernel:5", "split_pool:3", "convolution_as_product"),
    "separate_padding",
)


def network() -> nn.Module:
    """One place at least for each of the rewrites."""
    return nn.Sequential(
        nn.Conv1d(4, 8, 9, padding=8, dilation=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 16, stride=8, padding=4),
        nn.ConvTranspose1d(8, 8, 16, stride=8, padding=4),
        nn.Conv1d(8, 8, 3, groups=4, padding=1),
        nn.Conv1d(8, 8, 1),
        nn.MaxPool1d(6, 1),
    ).eval()


@CAPTURES
@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES, NAMES[4:8]], ids="+".join)
def test_the_shapes_that_are_kept_are_those_of_another_run(
    names: tuple[str, ...], capture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Shapes] = []

    def noted(module: ConvertedModule, sample: Sample) -> Shapes:
        kept.append(shapes_of(module, sample))
        return kept[-1]

    monkeypatch.setattr(passes, "shapes_of", noted)
    x = torch.randn(2, 4, 192)
    module = convsurgeon.convert(network(), x, capture=capture).module
    assert isinstance(module, ConvertedModule)
    assert passes.rewrite_exactly(module, names, x).rewritten
    (known,), another = kept, shapes_of(module, Sample((x,), {}))
    assert {node: known.get(node) for node in another} == another
