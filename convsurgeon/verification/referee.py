"""The float64 run that judges: the original on a clone, carried in double precision from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convsurgeon.clones.cloning import clone_module
from convsurgeon.samples import Sample


def widened(module: nn.Module) -> nn.Module:
    """A clone of `module` in float64 and complex128, tensor by tensor; whole numbers as they are."""
    return clone_module(module, lambda tensor, _: widened_dtype(tensor.dtype))


def widened_sample(sample: Sample) -> Sample:
    """`sample` in float64 and complex128."""
    return sample.map(lambda tensor: tensor.detach().to(widened_dtype(tensor.dtype)))


def widened_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for real floating dtypes, complex128 for complex ones, else the dtype itself."""
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, new tensors are float64 by default, and casts to narrower floating dtypes go to float64 instead."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with _NoNarrowing():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            yield
    finally:
        torch.set_default_dtype(before)


class _NoNarrowing(TorchDispatchMode):
    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.view.dtype:
            return func(*args, **(kwargs or {}))
        wide = [widened_dtype(arg) if isinstance(arg, torch.dtype) else arg for arg in args]
        named = {k: widened_dtype(v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        return func(*wide, **named)
