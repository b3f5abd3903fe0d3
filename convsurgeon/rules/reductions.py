"""Reductions: over axes before the unit axis the result is 2-D; over the length, the unit axis goes with it."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Lowered, Refusal, listed_axes, rule
from convsurgeon.runs.observe import Value


@rule("sum", "mean", "nansum", "nanmean", "amax", "amin", "logsumexp", "count_nonzero")
@rule("var", "std", "var_mean", "std_mean", "norm", "vector_norm")
def lift_reduction(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A reduction over axes is the same over where they stand; over the length, the unit axis goes with it.

    With ``keepdim``, and over axes before the unit axis, the result is 2-D too. Without, (N, C, 1, L) over the length
    and the unit axis is (N, C), and over everything one number: the region ends there, and needs no border.

    Limits: the axes are plain numbers; no nuclear norm.
    """
    if op.p == "nuc":
        return Refusal("the nuclear norm is that of matrices")
    lifted = _reduced(op, axis)
    if isinstance(lifted, (Refusal, Lowered)) or _keeps_form(op, axis):
        return lifted
    frobenius = {"p": 2.0} if op.p == "fro" else {}  # of two axes it is a matrix norm, which takes no third
    return Lowered("reduce", dim=[*(listed_axes(lifted.changes["dim"]) or ()), axis.position], **frobenius)


@rule("prod", "all", "any", "argmax", "argmin", "median", "nanmedian", "mode", "kthvalue")
def lift_one_axis(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A reduction over one axis is the same over where it stands; over everything, the result is one number.

    Over no axes, ``any`` and ``all`` keep them all, and stay 1-D.

    Limits: the axis is a plain number. Over the length without ``keepdim`` the unit axis would stay.
    """
    if op.dim in ((), []):
        return Refusal("it reduces no axis")
    lifted = _reduced(op, axis)
    if isinstance(lifted, (Refusal, Lowered)) or _keeps_form(op, axis):
        return lifted
    return Refusal("it reduces one axis, and the unit axis would stay")


@rule("max", "min", lifts=("input", "dim", "other"))
def lift_extremum(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``max`` of two values is pointwise; over one axis, or everything, it is a reduction.

    Limits: as those of other reductions over one axis.
    """
    if isinstance(op.dim, Value) or op.other is not None:
        return Lifted("maximum")
    return lift_one_axis(op, axis)


def _reduced(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    if op.dim is None or op.dim in ((), []) or isinstance(op.dim, bool):
        return Refusal("it reduces everything and keeps the axes") if op.keepdim else Lowered("reduce")
    dims = listed_axes(op.dim)
    if dims is None or not isinstance(op.input, Value):
        return Refusal("its axes are computed in the graph")
    lifted = [axis.lifted_axis(dim, op.input.rank) for dim in dims]
    return Lifted("reduce", dim=lifted[0] if isinstance(op.dim, int) else lifted)


def _keeps_form(op: Arguments, axis: UnitAxis) -> bool:
    """Whether what is left of the 2-D value is the 2-D form of what is left of the 1-D value."""
    rank, dims = op.input.rank, listed_axes(op.dim) or []
    before_the_length = all(dim % rank < rank - 1 for dim in dims)
    return bool(op.keepdim) or (before_the_length and axis.has_form(rank - len(dims)))
