"""A converted network is the one that an engineer would write in 4-D: as many operators in its exported graph."""

from __future__ import annotations

import pytest
import torch
from models.by_hand import Wrapped, pair
from torch import nn

import convsurgeon


def operators(module: nn.Module, x: torch.Tensor) -> list[list[str]]:
    """The operators of the exported ATen graph, as exported and decomposed."""
    program = torch.export.export(module, (x,))
    graphs = program.graph, program.run_decompositions().graph
    return [[str(n.target) for n in graph.nodes if n.op == "call_function"] for graph in graphs]


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch's own, in its export
@pytest.mark.parametrize("network", range(4), ids=["A", "B", "C", "D"])
def test_as_many_operators_as_written_by_hand(network: int) -> None:
    (original, hand), x = pair(network), torch.randn(2, 4, 64)
    torch.testing.assert_close(Wrapped(hand)(x), original(x))
    for io, reference, sample in (("1d", Wrapped(hand), x), ("2d", hand, x.unsqueeze(2))):
        module = convsurgeon.convert(original, x, io=io).module
        torch.testing.assert_close(module(sample), reference(sample))
        for ours, theirs in zip(operators(module, sample), operators(reference, sample), strict=True):
            assert len(ours) == len(theirs), (io, ours, theirs)
