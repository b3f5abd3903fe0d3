"""Strides are part of a value: where the 2-D operator would lay its result out otherwise than the 1-D one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.lifting import Candidate
from convsurgeon.runs.observe import Facts, Value

aten = torch.ops.aten


def restored_operands(
    candidates: Mapping[fx.Node, Candidate],
    lifted: Mapping[fx.Node, Candidate],
    graph: fx.Graph,
    facts: Facts | None,
    axis: UnitAxis,
) -> Iterator[tuple[tuple[str, str], str]]:
    """((node, operand), method) where the 1-D operator returns contiguous strides and the 2-D one might channels_last.

    "contiguous" copies only if a call's operand needs it; it stands wherever the order of the operand's strides is not
    settled by the graph, but by what the caller passes in, if anything in the graph reads strides. "clone" copies
    always, for a value with one channel can count as contiguous and be taken for channels_last all the same.
    """
    settled = _settled(candidates, graph, facts)
    careful = facts is None or any(_reads_strides(seen.overloads) for seen in facts.values())
    for node in graph.nodes:
        if node not in lifted or not lifted[node].rule.contiguous or not _is_contiguous(node, facts):
            continue
        for operand in lifted[node].operands:
            value = None if facts is None else facts[operand].value
            unordered = value is not None and not (
                value.is_contiguous or (operand in settled and _in_order_of_axes(value))
            )
            if value is not None and (unordered or _looks_channels_last(value, axis)):
                yield (node.name, operand.name), "clone"
            elif careful and operand not in settled:
                yield (node.name, operand.name), "contiguous"


_STRIDED = frozenset({aten.view, aten._reshape_alias, aten._unsafe_view, aten.as_strided, aten.clone, aten._to_copy})
"""What succeeds, copies, or is laid out by the strides of what it takes."""


@functools.cache
def _reads_strides(overloads: frozenset[Any]) -> bool:
    """Whether one of these operators computes something else, or fails, where strides are others.

    Views and copies do, what writes in place through them, and random operators, which draw in the order of memory.
    """
    return any(
        overload.overloadpacket in _STRIDED
        or overload._schema.is_mutable
        or torch.Tag.nondeterministic_seeded in overload.tags
        for overload in overloads
    )


def follows_layout(node: fx.Node, candidate: Candidate, facts: Facts | None, axis: UnitAxis) -> bool:
    """Whether the 1-D operator laid its result out as what it takes, and the 2-D one would not.

    torch computes average pools of (N, C, L) as those of (N, C, 1, L), and so in channels_last where L has the larger
    stride; of (N, C, L, 1) it doesn't.
    """
    rule = candidate.rule
    return axis.position == -1 and rule.contiguous and not rule.must and not _is_contiguous(node, facts)


def _settled(candidates: Mapping[fx.Node, Candidate], graph: fx.Graph, facts: Facts | None) -> set[fx.Node]:
    """The values whose strides follow from the graph alone, whatever layout the caller passes in."""
    settled: set[fx.Node] = set()
    for node in graph.nodes:
        candidate = candidates.get(node)
        if node.op == "get_attr":
            known = facts is None or _is_contiguous(node, facts)
        elif candidate is None:
            known = False
        else:
            makes_contiguous = candidate.rule.contiguous and _is_contiguous(node, facts)
            known = makes_contiguous or all(operand in settled for operand in candidate.operands)
        if known:
            settled.add(node)
    return settled


def _is_contiguous(node: fx.Node, facts: Facts | None) -> bool:
    value = None if facts is None else facts[node].value
    return value is None or value.is_contiguous


def _in_order_of_axes(value: Value) -> bool:
    """Whether a later axis never has the larger stride, as in a slice of a contiguous value."""
    strides = [stride for extent, stride in zip(value.shape, value.stride, strict=True) if extent != 1]
    return strides == sorted(strides, reverse=True)


def _looks_channels_last(value: Value, axis: UnitAxis) -> bool:
    """Whether operators take the 2-D form of a value for channels_last.

    They tell from the strides alone (c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4): so of any transposed
    value, and with one channel even of a contiguous one, (N, L, 1).transpose(1, 2).
    """
    shape, stride = axis.lifted_shape(value.shape), axis.lifted_stride(value.shape, value.stride)
    if len(shape) == 3:  # unbatched: operators put the batch in front
        shape, stride = (1, *shape), (shape[0] * stride[0], *stride)
    if len(shape) != 4 or stride[1] == 0:
        return False
    least = 0
    for at in (1, 3, 2, 0):
        if shape[at] == 0 or stride[at] < least or (at == 0 and least == stride[1]):
            return False
        least = stride[at] * max(shape[at], 1)
    return True
