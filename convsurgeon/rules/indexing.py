"""Parts of a value: slices, elements, rows, and the items of a tuple of values."""

from __future__ import annotations

from typing import Any

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Computed, Lifted, Lowered, Raised, Refusal, rule
from convsurgeon.runs.observe import Value


@rule("getitem", unpacks=True)
def lift_index(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A slice of (N, C, L) is a slice of (N, C, 1, L) that takes the unit axis whole.

    An element of the length takes the unit axis with it: (N, C, 1, L) at [..., 0, -1] is (N, C). Where an axis is added
    behind the length, another makes it 2-D: (N, C) to (N, C, 1, 1). An item of a tuple of values has the form that all
    of them have.

    Limits: slices, whole numbers, None and Ellipsis.
    """
    if isinstance(op.input, tuple):
        return Lifted("index") if isinstance(op.index, int) else Refusal("it takes several of a tuple")
    if not isinstance(op.input, Value):
        return Refusal("it takes an item of what is no tensor")
    index = op.index if isinstance(op.index, tuple) else (op.index,)
    if not all(one is None or one is Ellipsis or _is_plain(one) for one in index):
        return Refusal("it is indexed by more than slices and whole numbers")
    lifted = axis.lifted_index(index, op.input.rank)
    if lifted is None:
        return Raised("index", index=(*index, None))
    taken = [one for one in index if one is not None and one is not Ellipsis]
    ends_in_length = len(lifted) > len(index)
    of_length = ends_in_length and not isinstance(taken[-1], slice)
    return (Lowered if of_length else Lifted)("index", index=lifted)


@rule("select")
def lift_select(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``select`` on an axis before the length leaves the unit axis where it is.

    Limits: an axis before the length, as a plain number.
    """
    if type(op.dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axis is computed in the graph")
    if op.dim % op.input.rank == op.input.rank - 1:
        return Refusal("it takes one element of the length, and the unit axis would stay")
    return Lifted("select", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("unbind")
def lift_unbind(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``unbind`` of an axis before the length leaves the unit axis where it is, in each part.

    Limits: an axis before the length, as a plain number.
    """
    return lift_select(op, axis)


def _is_plain(one: Any) -> bool:
    return isinstance(one, (slice, Computed)) or type(one) is int
