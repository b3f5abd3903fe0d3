"""The same on an accelerator, by the same code; these run where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from tuning.chance import clock, for_last

import convsurgeon

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv1d(8, 64, 9, 2, 4), nn.BatchNorm1d(64), nn.ReLU()]
    for dilation in (1, 4):
        layers += [nn.Conv1d(64, 64, 15, padding=7 * dilation, dilation=dilation, groups=64), nn.Conv1d(64, 64, 1)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_computes_the_same_in_channels_last(dtype: torch.dtype) -> None:
    model, x = network().to("cuda", dtype), torch.randn(4, 8, 2000, device="cuda", dtype=dtype)
    with clock(for_last):
        conversion = convsurgeon.convert(model, x, tune=True)
    assert conversion.tuning is not None
    assert conversion.tuning.taken
    assert conversion.tuning.choice.machine.device == torch.cuda.get_device_name()
    torch.testing.assert_close(conversion.module(x), model(x), rtol=1e-2, atol=1e-2)


def test_it_is_timed_until_it_is_done() -> None:
    model, x = network().to("cuda", torch.float16), torch.randn(16, 8, 8000, device="cuda", dtype=torch.float16)
    tuned = convsurgeon.tune(convsurgeon.convert(model, x), budget_s=5.0)
    assert tuned.tuning is not None
    assert tuned.tuning.taken == (tuned.tuning.ratio is not None)
