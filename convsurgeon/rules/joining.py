"""Operators that join values along an axis."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule
from convsurgeon.runs.observe import Value


@rule("cat", lifts=("tensors",), contiguous=True)
def lift_cat(join: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``cat(xs, dim)`` is ``cat`` of the 2-D forms along where `dim` then stands.

    Limits: a plain list of values of one rank; the axis is a plain number.
    """
    rank = _rank(join)
    if isinstance(rank, Refusal):
        return rank
    return Lifted("cat", dim=axis.lifted_axis(join.dim, rank))


@rule("stack", lifts=("tensors",), contiguous=True)
def lift_stack(join: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``stack(xs, dim)`` before the length leaves the unit axis where it is: N of (C, L) are (N, C, 1, L).

    Limits: as those of ``cat``; not behind the length.
    """
    rank = _rank(join)
    if isinstance(rank, Refusal):
        return rank
    dim = axis.inserted_axis(join.dim, rank)
    return Refusal("it adds an axis behind the length") if dim is None else Lifted("stack", dim=dim)


def _rank(join: Arguments) -> int | Refusal:
    """The rank of all that is joined."""
    values = join.tensors
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, Value) for value in values):
        return Refusal("what it joins is not a plain list of observed tensors")
    ranks: list[int] = sorted({value.rank for value in values})
    if len(ranks) != 1:
        return Refusal(f"it joins values of ranks {ranks}")
    if type(join.dim) is not int:
        return Refusal("its axis is computed in the graph")
    return ranks[0]
