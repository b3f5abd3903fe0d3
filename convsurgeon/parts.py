"""What of a model is converted: all of it as one graph, or islands in it; each with what one run showed."""

from __future__ import annotations

from dataclasses import dataclass

from convsurgeon.capture import Capture
from convsurgeon.runs.observe import Facts
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
