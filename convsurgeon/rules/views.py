"""Operators that give a value other axes. In memory order the unit axis is nothing: views can begin and end regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import (
    Absent,
    Arguments,
    Computed,
    Lifted,
    Lowered,
    Raised,
    Refusal,
    Ways,
    listed_axes,
    rule,
    size_asked_for,
)
from convsurgeon.runs.observe import Value


@rule("view", "reshape", relays=True)
def lift_view(op: Arguments, axis: UnitAxis) -> Ways | Refusal:
    """A view of (N, C, L) in a shape is that of (N, C, 1, L), and one in a 2-D shape is the 2-D form of the result.

    The elements stand in the same order with and without the unit axis: a view takes either form and makes either.

    Limits: another shape, not another dtype.
    """
    asked = _Size.of(op)
    if asked is None:
        return Refusal("it changes the dtype, or its shape can't be read")
    lifted = asked.lifted(axis)
    return Lifted("view", **lifted), Lowered("view"), Raised("view", **lifted)


@rule("view_as", "reshape_as", "expand_as", lifts=("input", "other"))
def lift_view_as(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """A view in the shape of another value is one in the shape of that value's 2-D form."""
    return Lifted("view_as")


@rule("expand", "broadcast_to", "repeat", "tile")
def lift_expand(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``expand`` to (N, C, L) is ``expand`` to (N, C, 1, L), and ``repeat`` repeats the unit axis once.

    Limits: ``tile`` by as many numbers as there are axes.
    """
    asked = _Size.of(op)
    if asked is None:
        return Refusal("its shape can't be read")
    if not isinstance(asked.size, Computed) and (op.input is None or len(asked.size) < op.input.rank):
        return Refusal("it gives fewer sizes than there are axes")
    return Lifted("expand", **asked.lifted(axis))


@rule("flatten")
def lift_flatten(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``flatten`` of axes before the length is 2-D; of the length too, it takes the unit axis along and ends a region.

    Limits: the axes are plain numbers.
    """
    if type(op.start_dim) is not int or type(op.end_dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axes are computed in the graph")
    rank = op.input.rank
    if op.end_dim % rank == rank - 1 and op.start_dim % rank < rank - 1:
        return Lowered("flatten", start_dim=op.start_dim % rank, end_dim=-1)
    return Lifted("flatten", start_dim=axis.lifted_axis(op.start_dim, rank), end_dim=axis.lifted_axis(op.end_dim, rank))


@rule("unflatten")
def lift_unflatten(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``unflatten`` of an axis before the length is that of where it stands: (N, G C, 1, L) -> (N, G, C, 1, L).

    Limits: an axis before the length, as a plain number.
    """
    if type(op.dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axis is computed in the graph")
    if op.dim % op.input.rank == op.input.rank - 1:
        return Refusal("it takes the length apart, and the unit axis would have to stand between its parts")
    return Lifted("unflatten", dim=axis.lifted_axis(op.dim, op.input.rank))


@rule("unsqueeze")
def lift_unsqueeze(op: Arguments, axis: UnitAxis) -> Ways | Refusal:
    """``unsqueeze`` before the length leaves the unit axis where it is; from 1-D, it makes both axes at once.

    (N, L) -> (N, 1, L) is (N, 1, L) -> (N, 1, 1, L); and (N, L) -> (N, 1, 1, L) or (N, C) -> (N, C, 1, 1), as one view,
    begins a region without a border.

    Limits: the axis is a plain number.
    """
    if type(op.dim) is not int or not isinstance(op.input, Value):
        return Refusal("its axis is computed in the graph")
    dim = axis.inserted_axis(op.dim, op.input.rank)
    both = axis.unsqueezed_with_unit(op.dim, op.input.rank)
    lifted = () if dim is None else (Lifted("unsqueeze", dim=dim),)
    return *lifted, *(() if both is None else (Raised("unflatten", dim=both[0], sizes=both[1]),))


@rule("squeeze", relays=True, asks_length=True)
def lift_squeeze(op: Arguments, axis: UnitAxis) -> Ways | Refusal:
    """``squeeze`` of axes before the length leaves the unit axis where it is; or takes it along, and ends a region.

    Of the first axis too: where another batch isn't squeezed, the rank is another, and what follows stays 1-D. A length
    that is 1 by construction is flattened with the unit axis into the channels, as one would write it in 2-D, and as
    compilers take it: (N, C, 1, 1) -> (N, C).

    Limits: the axes are plain numbers, and of size 1 in the sample (else the rank would depend on the input).
    """
    if op.dim is None:
        return (Lowered("squeeze"),)
    dims = listed_axes(op.dim)
    if dims is None or not isinstance(op.input, Value):
        return Refusal("its axes are computed in the graph")
    rank = op.input.rank
    if op.result is None or op.result.rank != rank - len(dims):
        return Refusal("it squeezes an axis that is longer than 1 in the sample")
    if op.one_long and rank > 1 and [dim % rank for dim in dims] == [rank - 1]:
        return (Lowered("flatten", dim=Absent, start_dim=-3),)
    lifted = [axis.lifted_axis(dim, rank) for dim in dims]
    lowered = Lowered("squeeze", dim=(*lifted, axis.position))
    if any(dim % rank in (0, rank - 1) for dim in dims):
        return (lowered,)
    return Lifted("squeeze", dim=lifted[0] if isinstance(op.dim, int) else tuple(lifted)), lowered


@rule("transpose", "swapaxes", "swapdims", reorders=True)
def lift_transpose(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``transpose`` of (N, C, L) to (N, L, C) is that of (N, C, 1, L) to (N, L, 1, C): the unit axis keeps its place.

    Limits: the axes are plain numbers.
    """
    dims = (op.dim0, op.dim1) if op.name is None else (-2, -1)  # of the attribute ``mT``
    if not isinstance(op.input, Value) or any(type(dim) is not int for dim in dims):
        return Refusal("its axes are computed in the graph")
    dim0, dim1 = (axis.lifted_axis(dim, op.input.rank) for dim in dims)
    return Lifted("transpose", dim0=dim0, dim1=dim1, **({} if op.name is None else {"name": Absent}))


@rule("permute", reorders=True)
def lift_permute(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``permute`` orders the axes of (N, C, L) in (N, C, 1, L), where the unit axis keeps its place.

    Limits: the axes are plain numbers.
    """
    dims = op.dims[0] if len(op.dims) == 1 and not isinstance(op.dims[0], int) else op.dims
    listed = listed_axes(dims)
    if listed is None or not isinstance(op.input, Value):
        return Refusal("its axes are computed in the graph")
    order = axis.lifted_order(listed, op.input.rank)
    return Lifted("permute", dims=order if dims is op.dims else (order,))


@rule("movedim", reorders=True)
def lift_movedim(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``movedim`` of (N, C, L) is the ``permute`` of (N, C, 1, L) that orders all others so, and leaves the unit axis.

    Limits: the axes are plain numbers.
    """
    source, destination = listed_axes(op.source), listed_axes(op.destination)
    if source is None or destination is None or not isinstance(op.input, Value):
        return Refusal("its axes are computed in the graph")
    rank = op.input.rank
    moved = {to % rank: dim % rank for dim, to in zip(source, destination, strict=True)}
    rest = iter(dim for dim in range(rank) if dim not in moved.values())
    order = [moved[to] if to in moved else next(rest) for to in range(rank)]
    return Lifted("permute", source=Absent, destination=Absent, dims=axis.lifted_order(order, rank))


@dataclass(frozen=True, slots=True)
class _Size:
    """The sizes that are asked for, the name of the argument, and whether it holds them at once: ``view((2, -1))``."""

    size: Any
    name: str
    at_once: bool

    @classmethod
    def of(cls, op: Arguments) -> _Size | None:
        """Those of a call; None if they are no sizes: with a dtype a view is another thing."""
        sizes = ((name, it) for name in ("size", "shape", "dims") if (it := getattr(op, name)) is not None)
        name, size = next(sizes, ("", None))  # without samples, what the graph computes isn't known
        alone = size[0] if isinstance(size, tuple) and len(size) == 1 else None
        at_once = isinstance(alone, (tuple, list)) or (isinstance(alone, Computed) and alone.kind is not int)
        found = cls(alone if at_once else size, name, at_once)
        return found if found._is_size() else None

    def _is_size(self) -> bool:
        if isinstance(self.size, Computed):
            return self.size.kind in (torch.Size, tuple, list)
        return isinstance(self.size, (tuple, list)) and all(
            type(one) is int or isinstance(one, Computed) for one in self.size
        )

    def lifted(self, axis: UnitAxis) -> dict[str, Any]:
        """The argument with the unit axis in it, written as it was."""
        lifted = size_asked_for(self.size, axis)
        return {self.name: (lifted,) if self.at_once else lifted}
