"""The two orders in which memory holds a value: by length, as torch does if nobody asks, or by channels.

*plain*: the last axis varies fastest. *last*: axis 1 does, as in ``torch.channels_last`` of (N, C, 1, L), and in what
was (N, L, C) before it was transposed. Values of other ranks have no layout to choose.
"""

from __future__ import annotations

from typing import Literal

import torch

from convsurgeon.converted.origin import Form

Layout = Literal["plain", "last"]
LAYOUTS: tuple[Layout, Layout] = ("plain", "last")
_RANKS: dict[Form, int] = {"1d": 3, "2d": 4}


def other(layout: Layout) -> Layout:
    """The layout that it isn't."""
    return "last" if layout == "plain" else "plain"


def has_layout(value: object, form: Form) -> bool:
    """Whether a value is (N, C, L), or (N, C, 1, L)."""
    return isinstance(value, torch.Tensor) and value.ndim == _RANKS[form] and value.layout is torch.strided


def layout_of(value: torch.Tensor) -> Layout | None:
    """The layout of a value that has one; None where both are the same.

    >>> layout_of(torch.zeros(2, 3, 4)), layout_of(torch.zeros(2, 4, 3).mT), layout_of(torch.zeros(2, 1, 4))
    ('plain', 'last', None)
    """
    _, first, last = (at % value.ndim for at in (0, 1, -1))
    along = last if value.shape[last] != 1 else value.ndim - 2
    if value.shape[first] == 1 or value.shape[along] == 1 or along == first:
        return None
    return "last" if value.stride(first) < value.stride(along) else "plain"


def laid_out(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The value in a layout: itself if it has it already, else a copy."""
    return value if layout_of(value) in (None, layout) else copied(value, layout)


def copied(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """A copy in a layout, whatever the value has."""
    if layout == "plain":
        return value.clone(memory_format=torch.contiguous_format)
    return value.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)
