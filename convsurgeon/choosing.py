"""Chooses how a model becomes graphs: as one, or where it can't, as islands in its own Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx, nn

from convsurgeon.capture import capture_model
from convsurgeon.errors import CaptureError
from convsurgeon.faithful import call_of, computes_the_same
from convsurgeon.islands import find_islands
from convsurgeon.observe import observe
from convsurgeon.parts import Part
from convsurgeon.samples import Sample
from convsurgeon.verification import require_runs

How = Literal["auto", "trace", "islands"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The parts that are converted; `failed` says why the whole is none, `reasons` by name why a submodule is none.

    `in_place` names the modules whose own Python calls the convolutions that are in no part.
    """

    parts: list[Part]
    failed: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    in_place: tuple[str, ...] = ()

    @property
    def whole(self) -> Part | None:
        """The whole model as one part, if it is."""
        return self.parts[0] if len(self.parts) == 1 and self.parts[0].path == "" else None


def choose(model: nn.Module, samples: tuple[Sample, ...], how: How, lap: Callable[[str], None]) -> Choice:
    """Capture `model` in the way asked for; "auto" takes the whole if it can, else islands. `lap` is told each step.

    Raises:
        CaptureError: the whole can't be captured, and islands were not allowed, or there is no sample to find them by.
        ValueError: the model can't run on a sample.
    """
    failed = ""
    if how != "islands":
        try:
            return Choice([_whole(model, samples, lap)])
        except CaptureError as error:
            if how == "trace" or not samples or isinstance(model, (fx.GraphModule, torch.jit.ScriptModule)):
                raise
            failed = str(error)
    for sample in samples:
        require_runs(model, sample)
    found = find_islands(model, samples)
    lap("capture")
    return Choice(found.parts, failed, found.reasons, found.in_place)


def _whole(model: nn.Module, samples: tuple[Sample, ...], lap: Callable[[str], None]) -> Part:
    """The whole model, traced, which computes on the first sample what the model does."""
    if not samples:
        captured = capture_model(model, None)
        lap("capture")
        return Part(captured, None, ())
    first = samples[0]
    captured = capture_model(model, first)
    lap("capture")
    try:
        facts = observe(captured, first)
    except Exception as error:  # the user's model may raise anything on a sample: told apart and passed on
        require_runs(model, first)
        raise CaptureError(
            f"the traced graph of {type(model).__name__} fails on the sample {first}, where the model doesn't\n"
            f"  {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
            "  forward does something that tracing doesn't record; convert the submodules that can be traced"
        ) from error
    captured.restore_buffers(model)
    lap("observe")
    if not computes_the_same(captured, call_of(model, first)):
        raise unfaithful(model)
    captured.restore_buffers(model)
    lap("compare")
    return Part(captured, facts, samples)


def unfaithful(model: nn.Module) -> CaptureError:
    """The error of a capture that isn't the model."""
    return CaptureError(
        f"{type(model).__name__} was traced without an error into a graph that computes something else\n"
        "  forward takes decisions in Python that tracing froze (a branch on a type, numpy, a counter)\n"
        "  move them out of forward, or convert the submodules that can be traced"
    )
