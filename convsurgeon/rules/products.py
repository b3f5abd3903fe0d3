"""Products with a matrix on the right: they act on the last axis, the length where the unit axis stands before it."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule
from convsurgeon.runs.observe import Value


@rule("linear", contiguous=True)
def lift_linear(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``linear`` acts on the last axis, and (N, C, 1, L) has the same one as (N, C, L).

    Limits: the unit axis is not the last.
    """
    if axis.position != -2:
        return Refusal("it acts on the last axis, and the unit axis is the last")
    return Lifted("linear")


@rule("matmul", contiguous=True)
def lift_matmul(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``matmul`` with a matrix on the right acts on the last axis, and (N, C, 1, L) has the same one.

    Limits: what stands on the right has rank 2; the unit axis is not the last.
    """
    if axis.position != -2:
        return Refusal("it acts on the last axis, and the unit axis is the last")
    if not isinstance(op.other, Value) or op.other.rank != 2:
        return Refusal("what it multiplies with is not one matrix on the right")
    return Lifted("matmul")
