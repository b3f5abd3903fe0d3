"""A kernel of torch's for CPUs that never returns, which tuning keeps away from. Knows no graph.

oneDNN 3.12, in torch 2.13, writes the code of a depthwise convolution in half precision and channels_last for as many
rows as there are registers, and goes round for ever where none is left for a weight (``brdgmm_microkernel``, on CPUs
with AVX-512). Found by shapes drawn at random, its condition read in the source: kernels of 15 elements or more on the
last axis, of stride 1 there and no dilation, where a thread may have a single block of 16 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_LONG, _BLOCK = 15, 16
_AT_ONCE = 4
"""How many blocks of channels a thread takes where their number can't be shared out evenly."""


class EndlessError(RuntimeError):
    """A convolution was about to be computed that would never return."""


class WithoutEndless(TorchDispatchMode):
    """While active, a convolution that would never return raises `EndlessError` instead."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            value, weight, _, stride, _, dilation, transposed, *_ = args
            if is_endless(value, weight, stride, dilation, transposed=transposed):
                raise EndlessError(f"a depthwise convolution of {tuple(value.shape)} with {tuple(weight.shape)}")
        return func(*args, **(kwargs or {}))


def is_endless(
    value: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    transposed: bool = False,
) -> bool:
    """Whether a convolution of (N, C, H, W) with (C_out, C/groups, kH, kW) may never return, on torch's threads.

    The length and the batch don't count: they may be others when the model runs.
    """
    channels = weight.shape[0]
    depthwise = not transposed and weight.shape[1] == 1 and channels == value.shape[1] > 1
    return (
        depthwise
        and weight.ndim == 4
        and weight.shape[-1] >= _LONG
        and stride[-1] == 1
        and max(dilation) == 1
        and value.device.type == "cpu"
        and value.dtype in (torch.bfloat16, torch.float16)
        and 1 in (value.stride(1), weight.stride(1))  # either asks for channels_last
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and _gets_one_block(channels, torch.get_num_threads())
    )


def _gets_one_block(channels: int, threads: int) -> bool:
    """Whether a thread may have one block: because there is one, or as its share, or as what is left over."""
    blocks = -(-channels // _BLOCK)
    left = channels % (_AT_ONCE * _BLOCK)
    return blocks == 1 or (threads > 1 and (threads % blocks == 0 or 1 <= left <= _BLOCK))
