"""Operators that compute each element on its own: observed, not listed."""

from __future__ import annotations

import functools
from typing import Any

import torch

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule
from convsurgeon.runs.observe import Value

aten = torch.ops.aten

UNTAGGED = frozenset(
    {
        # casts and copies keep every element where it is
        *(aten._to_copy, aten.detach, aten.alias, aten.lift_fresh, aten.copy_),
        # computed per element, without the tag in torch 2.13, or in 2.6
        aten.leaky_relu,
        *(
            aten.hardswish,
            aten.log_sigmoid_forward,
            aten.floor_divide,
            aten.masked_fill,
            aten.where,
            aten.rsub,
            aten.complex,
            aten.polar,
            aten.isclose,
        ),
        *(aten.fill, aten.zero_, aten.zeros_like, aten.ones_like, aten.full_like),
        aten.scalar_tensor,  # a number beside tensors, in ``where``
        *(aten.__and__, aten.__or__, aten.__xor__, aten.__lshift__, aten.__rshift__),
        *(aten.__iand__, aten.__ior__, aten.__ixor__, aten._conj, aten.real, aten.imag),
    }
)
"""ATen operators that compute each element on its own though torch doesn't tag them so."""

REDUCES = frozenset({aten.equal, aten.allclose})
"""Tagged as pointwise, and yet one answer for the whole tensor."""


@functools.cache
def is_elementwise(overloads: frozenset[Any]) -> bool:
    """Whether every one of these overloads computes each element on its own, and something ran at all."""
    return bool(overloads) and all(
        _is_pointwise(overload) or _is_pointwise(_out_of_place(overload)) for overload in overloads
    )


def _is_pointwise(overload: Any) -> bool:
    return (
        (torch.Tag.pointwise in overload.tags or overload.overloadpacket in UNTAGGED)
        and torch.Tag.nondeterministic_seeded not in overload.tags
        and overload.overloadpacket not in REDUCES
    )


def _out_of_place(overload: Any) -> Any:
    """``mish`` of ``mish_``: many in-place variants lack the tag that the operator itself has."""
    name = overload.overloadpacket.__name__
    packet = getattr(aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None
    return getattr(packet, overload._overloadname, overload)


def broadcasts(operands: list[Value], result: Value) -> bool:
    """Whether `result` has the shape to which `operands` broadcast."""
    if all(value.shape == result.shape for value in operands):
        return True
    try:
        return bool(torch.broadcast_shapes(*(value.shape for value in operands)) == result.shape)
    except RuntimeError:
        return False


@rule("pointwise")
def lift_pointwise(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """f(x, y)[n, c, l] = f(x[n, c, l], y[n, c, l]), with broadcasting: the unit axis passes through.

    An operand whose rank reaches the unit axis gains it, so (C, 1) and (N, C, 1) still broadcast over the length; lower
    ranks stay. An operator is known as pointwise by what it dispatches to while it runs.

    Limits: one of torch's own, whose operands broadcast to the shape of its result.
    """
    return Lifted("pointwise")


@rule("prelu")
def lift_prelu(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``prelu`` of (N, C, L): its weight, (1,) or (C,), belongs to axis 1 in both forms.

    Limits: with a weight for each channel, the input is (N, C, L).
    """
    weight = op.weight[0] if isinstance(op.weight, list) else op.weight  # pruned: the weight, and its mask
    if weight is not None and weight.shape == (1,):
        return Lifted("prelu")
    if op.input is None or weight is None:
        return Refusal("the rank of its input was not observed")
    if op.input.rank != 3:
        return Refusal(f"its input has rank {op.input.rank}, and axis 1, which its weight belongs to, would move")
    return Lifted("prelu")


@rule("type_as", lifts=("input", "other"))
def lift_type_as(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """The result is a cast of the operand, to the dtype of another value in whatever form."""
    return Lifted("type_as")


@rule("identity", "clone", "detach", "detach_", "contiguous", "to")
def lift_identity(op: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """The result is the operand, or a copy or cast of it with the same strides: the unit axis passes through.

    Limits: no memory_format but contiguous and preserve.
    """
    if op.memory_format not in (None, torch.contiguous_format, torch.preserve_format):
        return Refusal(f"memory_format={op.memory_format} means another layout in 2-D")
    return Lifted("identity")
