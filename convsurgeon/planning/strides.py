"""Strides are part of a value: where the 2-D operator would lay its result out otherwise than the 1-D one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.lifting import Candidate
from convsurgeon.observe import Facts, Value


def restored_operands(
    steps: Mapping[str, Candidate], graph: fx.Graph, facts: Facts | None, axis: UnitAxis
) -> Iterator[tuple[str, str]]:
    """(node, operand) where the 1-D operator would return contiguous strides and the 2-D one channels_last."""
    for node in graph.nodes:
        step = steps.get(node.name)
        if step is None or not step.rule.contiguous or not _is_contiguous(node, facts):
            continue
        for operand in step.operands:
            if facts is None:
                unsure = operand.op in ("call_method", "call_function")
            else:
                value = facts[operand].value
                unsure = value is not None and not (value.is_contiguous and _stays_contiguous(value, axis))
            if unsure:
                yield node.name, operand.name


def _is_contiguous(node: fx.Node, facts: Facts | None) -> bool:
    value = None if facts is None else facts[node].value
    return value is None or value.is_contiguous


def _stays_contiguous(value: Value, axis: UnitAxis) -> bool:
    """Whether a contiguous value is taken for contiguous in 2-D as well.

    With one channel, (N, L, 1).transpose(1, 2) is contiguous, and channels_last too once the unit axis is in: operators
    tell from the strides alone (c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4).
    """
    shape, stride = axis.lifted_shape(value.shape), axis.lifted_stride(value.shape, value.stride)
    if len(shape) == 3:  # unbatched: operators put the batch in front
        shape, stride = (1, *shape), (shape[0] * stride[0], *stride)
    if len(shape) != 4 or stride[1] == 0:
        return True
    least = 0
    for at in (1, 3, 2, 0):
        if shape[at] == 0 or stride[at] < least or (at == 0 and least == stride[1]):
            return True
        least = stride[at] * max(shape[at], 1)
    return False
