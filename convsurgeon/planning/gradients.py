"""Gradients have strides too: where torch would take one for contiguous that a lifted view has put in another order.

The gradient of a transposed (N, C, 1, L) has the unit axis' stride of (N, L, 1, C), and on the CPU torch's
``native_batch_norm_backward`` (aten/src/ATen/native/Normalization.cpp) reads such a one as contiguous.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.lifting import Candidate
from convsurgeon.planning.values import Survey

Candidates = Mapping[fx.Node, Candidate]


def aligned_operands(lifted: Candidates, graph: fx.Graph) -> Iterator[tuple[tuple[str, str], str]]:
    """((node, operand), "align") for each view that reorders axes behind what trusts its gradient's strides.

    The gradient of a slice is a new tensor, whatever strides that of its result had.
    """
    for node in _reordering(lifted) & _reached(_trusting(lifted), graph.nodes, lifted):
        for operand in lifted[node].operands:
            yield (node.name, operand.name), "align"


def refuse_misread_gradients(survey: Survey, graph: fx.Graph, axis: UnitAxis) -> None:
    """Keep 1-D what trusts its gradient's strides in front of a view that reorders axes, where the unit axis is last.

    Its stride is 1 there, whatever a view makes of it.
    """
    known = survey.candidates
    if axis.position == -1:
        views = _reordering(known) & _reached(_trusting(known), graph.nodes, known)
        for node in _trusting(known) & _reached(views, reversed(graph.nodes), known, backwards=True):
            survey.refuse(
                node, "with the unit axis last, torch computes its gradients wrong from those of reordered axes"
            )


def _trusting(candidates: Candidates) -> set[fx.Node]:
    return {node for node, candidate in candidates.items() if candidate.rule.trusts_gradient}


def _reordering(candidates: Candidates) -> set[fx.Node]:
    return {node for node, candidate in candidates.items() if candidate.rule.reorders}


def _reached(
    sources: Collection[fx.Node], order: Iterable[fx.Node], candidates: Candidates, *, backwards: bool = False
) -> set[fx.Node]:
    """What shares its gradient's strides with one of the `sources`: no operator between makes its own."""
    reached: set[fx.Node] = set()
    for node in order if sources else ():
        near = node.users if backwards else node.all_input_nodes
        if node in candidates and any(one in sources or (one in reached and _passes(candidates[one])) for one in near):
            reached.add(node)
    return reached


def _passes(candidate: Candidate) -> bool:
    """Whether an operator's gradient may have the strides of its result's; those of convolutions and pools don't."""
    return not (candidate.rule.must or candidate.rule.contiguous or candidate.rule.reorders)
