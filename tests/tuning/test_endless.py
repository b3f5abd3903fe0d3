"""Tuning keeps away from a kernel of torch's that never returns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from tuning.chance import clock, for_last

import convsurgeon
from convsurgeon.tuning.endless import EndlessError, WithoutEndless, is_endless


@pytest.fixture(autouse=True)
def _with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


SEEN = [(1, 16), (1, 5), (2, 26), (2, 336), (2, 976), (3, 15), (4, 64), (4, 208), (4, 334), (8, 67), (8, 592), (8, 463)]
"""Threads and channels with which it was seen not to return, with some length."""

RETURNED = [(1, 17), (1, 32), (1, 256), (2, 64), (2, 128), (2, 160), (4, 128), (4, 256), (8, 512)]


def drawn(channels: int, taps: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    value, weight = torch.zeros(1, channels, 1, 99, dtype=dtype), torch.zeros(channels, 1, 1, taps, dtype=dtype)
    return value.to(memory_format=torch.channels_last), weight


@pytest.mark.parametrize(
    ("threads", "channels", "expected"), [*((*one, True) for one in SEEN), *((*one, False) for one in RETURNED)]
)
def test_what_was_seen(monkeypatch: pytest.MonkeyPatch, threads: int, channels: int, expected: bool) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        value, weight = drawn(channels, 31, dtype)
        half = dtype != torch.float32
        assert is_endless(value, weight, (1, 1), (1, 1)) is (expected and half)
        assert not is_endless(value, weight, (1, 2), (1, 1))
        assert not is_endless(value, weight, (1, 1), (1, 2))
        assert not is_endless(value, weight, (1, 1), (1, 1), transposed=True)
        assert not is_endless(value, weight.transpose(-1, -2), (1, 1), (1, 1))
        assert not is_endless(*drawn(channels, 13, dtype), (1, 1), (1, 1))
        assert not is_endless(value.contiguous(), weight.repeat(1, 2, 1, 1), (1, 1), (1, 1))


def test_it_raises_instead() -> None:
    layer = nn.Conv2d(16, 16, (1, 31), groups=16).bfloat16()
    value, _ = drawn(16, 31, torch.bfloat16)
    with WithoutEndless():
        layer.to(memory_format=torch.contiguous_format)(value.contiguous()[:, :, :, :40])
        with pytest.raises(EndlessError, match=r"\(1, 16, 1, 99\) with \(16, 1, 1, 31\)"):
            layer(value)


def test_a_model_is_tuned_without_it() -> None:
    model = nn.Sequential(nn.Conv1d(16, 16, 31, groups=16), nn.Conv1d(16, 16, 1), nn.ReLU()).eval().bfloat16()
    x = torch.randn(1, 16, 99).bfloat16()
    with clock(for_last):
        tuned = convsurgeon.tune(convsurgeon.convert(model, x))
    assert tuned.tuning is not None
    seen: list[bool] = []
    for layer in tuned.module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_pre_hook(
                lambda one, given: seen.append(is_endless(given[0], one.weight, one.stride, one.dilation))
            )
    torch.testing.assert_close(tuned.module(x), model(x), rtol=0.1, atol=0.1)
    assert not any(seen)
