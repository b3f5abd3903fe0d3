"""The proof of a conversion: the result against the model that came in, and whether its graph was the model at all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from convsurgeon.capture import Capture
from convsurgeon.choosing import unfaithful
from convsurgeon.parts import Part
from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample
from convsurgeon.verification import Tolerance, Verification, verify_samples


def proven(
    model: nn.Module,
    source: nn.Module,
    module: nn.Module,
    samples: tuple[Sample, ...],
    tolerance: Tolerance | None,
    whole: Part | None,
    baked: Collection[str],
) -> Verification:
    """The proof that `module` is `model`; where it isn't, the graph may not have been its `source` to begin with.

    `baked`: the buffers that hold other numbers, and aren't compared.
    """
    captured = None if whole is None else whole.captured
    found = verify_samples(
        model, module, samples, tolerance, gradients=False, train=False, capture=captured, baked=baked
    )
    if not found.passed and found.divergence is None and captured is not None:
        _require_faithful(source, captured, samples)
    found.require()
    return found


def _require_faithful(model: nn.Module, captured: Capture, samples: tuple[Sample, ...]) -> None:
    """Raise if the graph wasn't the model to begin with."""
    graph = _GraphAsModule(captured)
    if not verify_samples(model, graph, samples, None, gradients=False, train=False, capture=None).passed:
        raise unfaithful(model, captured.how, samples[0])


class _GraphAsModule(nn.Module):
    """A captured graph over its clone, callable."""

    def __init__(self, captured: Capture) -> None:
        super().__init__()
        self.root = captured.root
        self.graph = captured.graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        *_, (_, output) = GraphRun(self.root, self.graph, Sample(args, kwargs)).steps()
        return self.graph.process_outputs(output)
