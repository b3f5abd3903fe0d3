"""What of a model is converted: all of it as one graph, or islands in it; each with what one run showed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Number

import torch
from torch import fx

from convsurgeon.capture import Capture
from convsurgeon.runs.observe import Facts, bind
from convsurgeon.samples import Sample


@dataclass(frozen=True, slots=True)
class Part:
    """A captured submodule, or the whole model, with the facts of a run and the samples that it was called with."""

    captured: Capture
    facts: Facts | None
    samples: tuple[Sample, ...]

    @property
    def path(self) -> str:
        """The submodule's name, "" for the whole model."""
        return self.captured.path

    def ranks(self, lifted: Collection[str]) -> dict[str, tuple[int, ...]]:
        """The ranks, in the samples, of each argument that something of these names is computed from.

        A number's is 0; an argument that is more than a tensor or a number has none.
        """
        graph = self.captured.graph
        reaches: set[fx.Node] = set()
        for node in reversed(graph.nodes):
            if node.name in lifted or not reaches.isdisjoint(node.users):
                reaches.add(node)
        given = [bind(graph, sample) for sample in self.samples]
        found = {}
        for name in (str(node.target) for node in graph.find_nodes(op="placeholder") if node in reaches):
            values = [one[name] for one in given if one.get(name) is not None]
            if values and all(isinstance(value, (torch.Tensor, Number)) for value in values):
                found[name] = tuple(sorted({value.dim() if torch.is_tensor(value) else 0 for value in values}))
        return found
