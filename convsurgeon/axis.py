"""Where the unit axis goes, and what it does to axes, shapes, sizes and arguments: all axis arithmetic lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class UnitAxis:
    """The axis of size 1 that makes a 1-D value 2-D, counted from the right of the 2-D value.

    ``-2``: (N, C, L) <-> (N, C, 1, L), kernels (1, K). ``-1``: (N, C, L) <-> (N, C, L, 1), kernels (K, 1).
    """

    position: Literal[-2, -1]

    def has_form(self, rank: int) -> bool:
        """Whether a value of this rank takes part; a lower one broadcasts against both forms as it is."""
        return rank >= -self.position

    def lifted_axis(self, axis: int, rank: int) -> int:
        """Where axis `axis` of a rank-`rank` value stands once the unit axis is in: (N, C, L) -> (N, C, 1, L).

        A negative axis stays negative, so that the answer doesn't depend on the rank where the question didn't.
        """
        if axis < 0:
            return axis if axis > self.position else axis - 1
        return axis if axis <= rank + self.position else axis + 1

    def lifted_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(N, C, L) -> (N, C, 1, L), or (N, C, L, 1)."""
        at = len(shape) + self.position + 1
        return (*shape[:at], 1, *shape[at:])

    def lifted_stride(self, shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
        """The strides that ``unsqueeze`` gives the 2-D form."""
        at = len(shape) + self.position + 1
        unit = 1 if at == len(shape) else shape[at] * stride[at]
        return (*stride[:at], unit, *stride[at:])

    def pair(self, value: Any, *, unit: int) -> Any:
        """A hyper-parameter of the length as one of both spatial axes: s -> (unit, s), or (s, unit).

        A string ("same", "valid") and a plain integer that equals `unit` already mean the same for both axes.
        """
        if isinstance(value, str) or value is None or (isinstance(value, int) and value == unit):
            return value
        (length,) = value if isinstance(value, (tuple, list)) else (value,)
        return (unit, length) if self.position == -2 else (length, unit)

    def pads(self, pads: Sequence[int]) -> list[int]:
        """Pads as ``F.pad`` takes them, last axis first: [l, r] -> [l, r, 0, 0], or [0, 0, l, r]."""
        return [*pads, 0, 0] if self.position == -2 else [0, 0, *pads]

    def all_pads(self, pads: Sequence[Any]) -> list[Any]:
        """``F.pad``'s pads over any number of axes, last first: the unit axis gets (0, 0) where its turn is."""
        at = -2 * (self.position + 1)
        return [*pads[:at], 0, 0, *pads[at:]] if len(pads) > at else list(pads)

    def lifted_index(self, index: Sequence[Any], rank: int) -> tuple[Any, ...]:
        """An index of slices and at most one Ellipsis, that takes the unit axis whole."""
        behind = -self.position - 1
        if Ellipsis in index:
            at = len(index) - behind
            covered = len(index) - list(index).index(Ellipsis) - 1 > behind
        else:
            at = rank + self.position + 1
            covered = len(index) > at
        return (*index[:at], slice(None), *index[at:]) if covered else tuple(index)

    def lift(self, value: torch.Tensor) -> torch.Tensor:
        """The 2-D form of a 1-D value, as a view."""
        return value.unsqueeze(self.position)

    def lower(self, value: torch.Tensor) -> torch.Tensor:
        """The 1-D form of a 2-D value, as a view."""
        return value.squeeze(self.position)


def lifted_size(size: Sequence[Any], position: Literal[-2, -1]) -> list[Any]:
    """A size that is asked for, of the length alone or of all axes: (L,) -> [1, L], (N, C, L) -> [N, C, 1, L].

    Stands in rewritten graphs where the size is only known when the graph runs.
    """
    return list(UnitAxis(position).lifted_shape(size))
