"""Operators that join values along an axis."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.observe import Value
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule


@rule("cat", lifts=("tensors",), contiguous=True)
def lift_cat(join: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``cat(xs, dim)`` is ``cat`` of the 2-D forms along where `dim` then stands."""
    if join.out is not None:
        return Refusal("it writes to an out= argument")
    values = join.tensors
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, Value) for value in values):
        return Refusal("what it joins is not a plain list of observed tensors")
    ranks = sorted({value.rank for value in values})
    if len(ranks) != 1:
        return Refusal(f"it joins values of ranks {ranks}")
    if not isinstance(join.dim, int):
        return Refusal("its axis is computed in the graph")
    return Lifted("cat", dim=axis.lifted_axis(join.dim, ranks[0]))
