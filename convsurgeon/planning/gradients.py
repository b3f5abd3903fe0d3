"""Gradients have strides too: where torch would take one for contiguous that a view has put in another order.

The gradient of a transposed (N, C, 1, L) has the unit axis' stride of (N, L, 1, C), and on the CPU torch's
``native_batch_norm_backward`` (aten/src/ATen/native/Normalization.cpp) reads such a one as contiguous. Behind a border
the unit axis' stride is what `squeeze` gives it, but that of a batch of 1, as an instance norm has any batch, is what
the views there make of it: time first, as recurrent layers have it, is read so too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import fx

from convsurgeon.lifting import Candidate
from convsurgeon.rules import Lowered

Candidates = Mapping[fx.Node, Candidate]


def aligned_operands(
    lifted: Candidates, lowered: Iterable[str], graph: fx.Graph
) -> Iterator[tuple[tuple[str, str], str]]:
    """((node, operand), "align") for each view that reorders axes behind what trusts its gradient's strides.

    So for each border that makes one of the `lowered` values 1-D, and each view that ends a region: what stays 1-D, or
    the caller, may reorder axes behind them. The gradient of a slice is a new tensor, whatever strides that of its
    result had.
    """
    trusting = _trusting(lifted)
    reached = _reached(trusting, graph, lifted)
    for node in _reordering(lifted) & reached:
        for operand in lifted[node].operands:
            yield (node.name, operand.name), "align"
    passing = {node.name for node in trusting | {node for node in reached if _passes(lifted[node])}}
    yield from (((name, name), "align") for name in lowered if name in passing)


def _trusting(candidates: Candidates) -> set[fx.Node]:
    return {node for node, candidate in candidates.items() if candidate.rule.trusts_gradient}


def _reordering(candidates: Candidates) -> set[fx.Node]:
    return {
        node
        for node, candidate in candidates.items()
        if candidate.rule.reorders or (candidate.rule.relays and isinstance(candidate.lifted, Lowered))
    }


def _reached(sources: Collection[fx.Node], graph: fx.Graph, candidates: Candidates) -> set[fx.Node]:
    """What shares its gradient's strides with one of the `sources`: no operator between makes its own."""
    reached: set[fx.Node] = set()
    for node in graph.nodes if sources else ():
        near = node.all_input_nodes
        if node in candidates and any(one in sources or (one in reached and _passes(candidates[one])) for one in near):
            reached.add(node)
    return reached


def _passes(candidate: Candidate) -> bool:
    """Whether an operator's gradient may have the strides of its result's; those of convolutions and pools don't."""
    return not (candidate.rule.must or candidate.rule.contiguous or candidate.rule.reorders)
