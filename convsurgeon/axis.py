"""Where the unit axis goes, and what it does to axes, shapes, sizes and arguments: all axis arithmetic lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class UnitAxis:
    """The axis of size 1 that makes a 1-D value 2-D, counted from the right of the 2-D value.

    ``-2``: (N, C, L) <-> (N, C, 1, L), kernels (1, K). ``-1``: (N, C, L) <-> (N, C, L, 1), kernels (K, 1). `square`:
    strides and dilations are to be equal on both axes.
    """

    position: Literal[-2, -1]
    square: bool = False

    @property
    def of_length(self) -> Literal[-1, -2]:
        """The axis of the length in a 2-D value, counted from the right."""
        return -1 if self.position == -2 else -2

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

    def lowered_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(N, C, 1, L), or (N, C, L, 1), -> (N, C, L): undoes `lifted_shape`, and `lifted_offsets`.

        >>> UnitAxis(-2).lowered_shape((4, 3, 1, 5)), UnitAxis(-1).lowered_shape((4, 3, 5, 1))
        ((4, 3, 5), (4, 3, 5))
        """
        at = len(shape) + self.position
        return (*shape[:at], *shape[at + 1 :])

    def lifted_offsets(self, offsets: Sequence[int]) -> tuple[int, ...]:
        """Where a part of a value begins, which the unit axis has whole: (n, c, l) -> (n, c, 0, l), or (n, c, l, 0).

        >>> UnitAxis(-2).lifted_offsets((2, 0, 1)), UnitAxis(-1).lifted_offsets((2, 0, 1))
        ((2, 0, 0, 1), (2, 0, 1, 0))
        """
        at = len(offsets) + self.position + 1
        return (*offsets[:at], 0, *offsets[at:])

    def lifted_stride(self, shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
        """The strides that ``unsqueeze`` gives the 2-D form."""
        at = len(shape) + self.position + 1
        unit = 1 if at == len(shape) else shape[at] * stride[at]
        return (*stride[:at], unit, *stride[at:])

    def pair(self, value: Any, *, unit: float) -> Any:
        """A hyper-parameter of the length as one of both spatial axes: s -> (unit, s), or (s, unit).

        A string ("same", "valid") and a plain integer that equals `unit` already mean the same for both axes.
        """
        if isinstance(value, str) or value is None or (isinstance(value, int) and value == unit):
            return value
        (length,) = value if isinstance(value, (tuple, list)) else (value,)
        return (unit, length) if self.position == -2 else (length, unit)

    def steps(self, value: Any) -> Any:
        """A stride or dilation: s -> (1, s), or (s, s) if they are to be equal.

        On an axis of one element, under a kernel of one, every step means the same.
        """
        if not self.square or value is None:
            return self.pair(value, unit=1)
        (length,) = value if isinstance(value, (tuple, list)) else (value,)
        return (length, length)

    def pads(self, pads: Sequence[int]) -> list[int]:
        """Pads as ``F.pad`` takes them, last axis first: [l, r] -> [l, r, 0, 0], or [0, 0, l, r]."""
        return [*pads, 0, 0] if self.position == -2 else [0, 0, *pads]

    def all_pads(self, pads: Sequence[Any]) -> list[Any]:
        """``F.pad``'s pads over any number of axes, last first: the unit axis gets (0, 0) where its turn is."""
        at = -2 * (self.position + 1)
        return [*pads[:at], 0, 0, *pads[at:]] if len(pads) > at else list(pads)

    def inserted_axis(self, axis: int, rank: int) -> int | None:
        """Where ``unsqueeze`` of a rank-`rank` value inserts an axis in the 2-D form; None behind the length.

        There, the unit axis of what results would have to stand elsewhere: (N, C, L) -> (N, C, L, 1).
        """
        if axis % (rank + 1) == rank:
            return None
        return axis - 1 if axis < 0 else axis

    def unsqueezed_with_unit(self, axis: int, rank: int) -> tuple[int, tuple[int, int, int]] | None:
        """``unflatten``'s axis and sizes that insert `axis` and the unit axis at once; None if they are not neighbours.

        (N, L) -> (N, 1, 1, L) is ``unflatten(-1, (1, 1, -1))``, (C, L) -> (1, C, 1, L) ``unflatten(-2, (1, -1, 1))``,
        and (N, C) -> (N, C, 1, 1) ``unflatten(-1, (-1, 1, 1))``.
        """
        behind = rank - axis % (rank + 1)
        if behind == 0:
            return -1, (-1, 1, 1)
        if self.position == -2:
            return {1: (-1, (1, 1, -1)), 2: (-2, (1, -1, 1))}.get(behind)
        return {1: (-1, (1, -1, 1))}.get(behind)

    def lifted_order(self, dims: Sequence[int], rank: int) -> tuple[int, ...]:
        """``permute``'s axes: (0, 2, 1) -> (0, 3, 2, 1), or (0, 2, 1, 3). The unit axis keeps its place."""
        lifted = [self.lifted_axis(dim, rank) for dim in dims]
        unit = self.position if any(dim < 0 for dim in dims) else rank + 1 + self.position
        at = len(lifted) + self.position + 1
        return (*lifted[:at], unit, *lifted[at:])

    def lifted_index(self, index: Sequence[Any], rank: int) -> tuple[Any, ...] | None:
        """An index of slices, integers, None and at most one Ellipsis, with the unit axis' own entry.

        The unit axis is taken whole, or with the length, if that is reduced to one element. None if the index adds an
        axis behind the length, where the unit axis would have to stand elsewhere. An Ellipsis may stand for no axis.
        """
        taking = [at for at, one in enumerate(index) if one is not None and one is not Ellipsis]
        rest = index.index(Ellipsis) if Ellipsis in index else -1
        ends = bool(taking) and (len(taking) == rank or taking[-1] > rest >= 0)
        last = taking[-1] if ends else rest if rest >= 0 else len(index) - 1
        if any(one is None for one in index[last + 1 :]):
            return None
        if not ends:
            return tuple(index)
        unit = slice(None) if isinstance(index[last], slice) else 0
        at = last if self.position == -2 else last + 1
        return (*index[:at], unit, *index[at:])

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
