"""Questions about a value's shape, answered as for the 1-D value: no border is needed to ask."""

from __future__ import annotations

from typing import Any, Literal

import torch

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Lowered, Refusal, rule


@rule("size", "dim", "numel", query=True)
def lift_size(ask: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``size`` of (N, C, 1, L) is told without the unit axis: (N, C, L)."""
    return Lowered("size", position=axis.position)


@rule("sym_size", query=True)
def lift_sym_size(ask: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``sym_size`` along axis `dim` is the size along where `dim` stands."""
    if ask.input is None:
        return Refusal("the rank of its input was not observed")
    return Lowered("size", dim=axis.lifted_axis(ask.dim, ask.input.rank))


@rule("getattr", query=True, unpacks=True)
def lift_attribute(ask: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """The attributes ``shape``, ``ndim``, ``dtype`` and ``device`` of a value are those of the 1-D one.

    ``values`` and ``indices`` of a tuple of values have the form that all of them have.
    """
    if isinstance(ask.input, tuple):
        return Lifted("item") if ask.name in ("values", "indices") else Refusal("it takes a tuple of values as a whole")
    if ask.name not in ("shape", "ndim", "dtype", "device"):
        return Refusal(f"the attribute {ask.name!r} of a 2-D value may be another")
    return Lowered("attribute", position=axis.position)


def size_1d(input: torch.Tensor, dim: int | None = None, *, position: Literal[-2, -1]) -> Any:
    """``input.size(dim)`` as of the 1-D form of a 2-D value; stands in rewritten graphs."""
    behind = (input.shape[-1],) if position == -2 else ()
    shape = input.shape[:position] + behind
    return torch.Size(shape) if dim is None else shape[dim]


def rank_1d(input: torch.Tensor, *, position: Literal[-2, -1]) -> int:
    """``input.dim()`` as of the 1-D form of a 2-D value; stands in rewritten graphs."""
    return input.dim() - 1


def attribute_1d(input: torch.Tensor, name: str, *, position: Literal[-2, -1]) -> Any:
    """An attribute as of the 1-D form of a 2-D value; stands in rewritten graphs."""
    if name == "shape":
        return size_1d(input, position=position)
    return rank_1d(input, position=position) if name == "ndim" else getattr(input, name)
