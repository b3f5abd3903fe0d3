"""Operators along an axis: the axis moves, what is done along it doesn't."""

from __future__ import annotations

from typing import Any

from convsurgeon.axis import UnitAxis
from convsurgeon.observe import Value
from convsurgeon.rules.base import Arguments, Lifted, Lowered, Refusal, rule


@rule("softmax", "glu", "cumulative", "normalize")
def lift_along(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """An operator along axis `dim` of (N, C, L) is the same along where `dim` stands in (N, C, 1, L)."""
    if not isinstance(op.dim, int) or op.input is None:
        return Refusal("its axis is not given, or computed in the graph")
    return Lifted("along", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("split")
def lift_split(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``split`` and ``chunk`` along axis `dim` are the same along where `dim` stands; each part is 2-D."""
    if not isinstance(op.dim, int) or not isinstance(op.input, Value):
        return Refusal("its axis is computed in the graph")
    return Lifted("split", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("roll")
def lift_roll(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``roll`` along axes `dims` is ``roll`` along where they stand."""
    dims = _axes(op.dims)
    if dims is None or op.input is None:
        return Refusal("it rolls the flattened value, or its axes are computed in the graph")
    lifted = [axis.lifted_axis(dim, op.input.rank) for dim in dims]
    return Lifted("roll", dims=lifted[0] if isinstance(op.dims, int) else lifted)


@rule("flip")
def lift_flip(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``flip`` of axes `dims` is ``flip`` of where they stand."""
    dims = _axes(op.dims)
    if dims is None or op.input is None:
        return Refusal("its axes are computed in the graph")
    return Lifted("flip", dims=[axis.lifted_axis(dim, op.input.rank) for dim in dims])


@rule("reduce")
def lift_reduce(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A reduction over axes is the same over where they stand; over the length, the unit axis goes with it.

    With ``keepdim``, and over axes before the unit axis, the result is 2-D too. Without, (N, C, 1, L) over the length
    and the unit axis is (N, C): the region ends there, and needs no border.
    """
    lifted = _reduced(op, axis)
    if isinstance(lifted, Refusal) or _keeps_form(op, axis):
        return lifted
    return Lowered("reduce", dim=[*(_axes(lifted.changes["dim"]) or ()), axis.position])


@rule("reduce_one_axis")
def lift_reduce_one(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A reduction that takes one axis at a time can't take the unit axis with it: with ``keepdim``, it needn't."""
    lifted = _reduced(op, axis)
    if isinstance(lifted, Refusal) or _keeps_form(op, axis):
        return lifted
    return Refusal("it reduces one axis, and the unit axis would stay")


def _reduced(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    dims = _axes(op.dim)
    if dims is None or op.input is None or op.out is not None:
        return Refusal("it reduces everything, or its axes are computed in the graph")
    lifted = [axis.lifted_axis(dim, op.input.rank) for dim in dims]
    return Lifted("reduce", dim=lifted[0] if isinstance(op.dim, int) else lifted)


def _keeps_form(op: Arguments, axis: UnitAxis) -> bool:
    """Whether what is left of the 2-D value is the 2-D form of what is left of the 1-D value."""
    rank, dims = op.input.rank, _axes(op.dim) or []
    before_the_length = all(dim % rank < rank - 1 for dim in dims)
    return bool(op.keepdim) or (before_the_length and axis.has_form(rank - len(dims)))


@rule("index")
def lift_index(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A slice of (N, C, L) is a slice of (N, C, 1, L) that takes the unit axis whole.

    An item of a tuple of values has the form that all of them have.
    """
    if isinstance(op.input, tuple):
        return Lifted("index") if isinstance(op.index, int) else Refusal("it takes several of a tuple")
    if not isinstance(op.input, Value):
        return Refusal("it is not a tensor that is indexed")
    index = op.index if isinstance(op.index, tuple) else (op.index,)
    if not all(isinstance(one, slice) or one is Ellipsis for one in index):
        return Refusal("it is indexed by more than slices")
    return Lifted("index", index=axis.lifted_index(index, op.input.rank))


def _axes(dims: Any) -> list[int] | None:
    """Axes as they may be given, as a list; None where they aren't plain numbers, or none."""
    listed = list(dims) if isinstance(dims, (tuple, list)) else [dims]
    return listed if listed and all(type(dim) is int for dim in listed) else None
