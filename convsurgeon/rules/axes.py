"""Operators along an axis that keep the others: the axis moves, what is done along it doesn't."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, listed_axes, rule
from convsurgeon.runs.observe import Value


@rule("glu", "normalize", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "diff")
@rule("sort", "argsort", "topk", "narrow", "index_select", "repeat_interleave")
def lift_along(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """An operator along axis `dim` of (N, C, L) is the same along where `dim` stands in (N, C, 1, L).

    Limits: the axis is a plain number.
    """
    if type(op.dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axis is not given, or computed in the graph")
    if op.prepend is not None or op.append is not None:
        return Refusal("it puts other values in front or behind")
    return Lifted("along", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("softmax", "log_softmax", "softmin")
def lift_softmax(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``softmax`` along axis `dim` is the same along where `dim` stands.

    Without `dim`, the axis is the one that torch chooses for the 1-D rank (``_get_softmax_dim`` in
    torch/nn/functional.py).

    Limits: the axis is a plain number.
    """
    if op.input is None or not (op.dim is None or type(op.dim) is int):
        return Refusal("its axis is computed in the graph")
    dim = op.dim if op.dim is not None else 0 if op.input.rank in (0, 1, 3) else 1
    return Lifted("softmax", dim=axis.lifted_axis(dim, op.input.rank))


@rule("split", "chunk", "tensor_split")
def lift_split(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``split`` along axis `dim` is the same along where `dim` stands; each part is 2-D.

    Limits: the axis is a plain number.
    """
    if type(op.dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axis is computed in the graph")
    return Lifted("split", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("gather", "take_along_dim", lifts=("input", "index"))
def lift_gather(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``gather`` along axis `dim` is the same along where `dim` stands, by the 2-D form of the index.

    Limits: the axis is a plain number, the index has the rank of the value.
    """
    values = (op.input, op.index)
    if type(op.dim) is not int or not all(isinstance(value, Value) for value in values):
        return Refusal("its axis is not given, or computed in the graph")
    if op.input.rank != op.index.rank:
        return Refusal("its index has another rank")
    return Lifted("gather", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("roll", contiguous=True)
def lift_roll(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``roll`` along axes `dims` is ``roll`` along where they stand.

    Limits: the axes are given, as plain numbers.
    """
    dims = listed_axes(op.dims)
    if dims is None or op.input is None:
        return Refusal("it rolls the flattened value, or its axes are computed in the graph")
    lifted = [axis.lifted_axis(dim, op.input.rank) for dim in dims]
    return Lifted("roll", dims=lifted[0] if isinstance(op.dims, int) else lifted)


@rule("flip")
def lift_flip(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``flip`` of axes `dims` is ``flip`` of where they stand.

    Limits: the axes are plain numbers.
    """
    given = op.dims[0] if len(op.dims) == 1 and not isinstance(op.dims[0], int) else op.dims
    dims = listed_axes(given)
    if dims is None or op.input is None:
        return Refusal("its axes are computed in the graph")
    lifted = tuple(axis.lifted_axis(dim, op.input.rank) for dim in dims)
    return Lifted("flip", dims=lifted if given is op.dims else (lifted,))


@rule("channel_shuffle")
def lift_channel_shuffle(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``channel_shuffle`` shuffles axis 1, which (N, C, 1, L) has as well.

    Limits: the input is (N, C, L).
    """
    if op.input is None or op.input.rank != 3:
        return Refusal("its input is not (N, C, L)")
    return Lifted("channel_shuffle")
