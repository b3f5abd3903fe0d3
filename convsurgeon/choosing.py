"""Chooses how a model becomes graphs: as one, or where it can't, as islands in its own Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx, nn

from convsurgeon.capture import Capture, capture_export, capture_model
from convsurgeon.errors import CaptureError
from convsurgeon.islands import find_islands
from convsurgeon.parts import Part
from convsurgeon.runs.faithful import Call, call_of, computes_the_same, mistakes_a_value
from convsurgeon.runs.observe import Observation, observe
from convsurgeon.samples import Sample
from convsurgeon.verification import require_runs

How = Literal["auto", "trace", "export", "islands"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The parts that are converted; `failed` says what failed before, `reasons` by name why a submodule is none.

    `in_place` names the modules whose own Python calls the convolutions that are in no part.
    """

    parts: list[Part]
    failed: tuple[str, ...] = ()
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
    failed: list[str] = []
    ways: tuple[str, ...] = (how,)
    if how == "auto":
        one_way = not samples or isinstance(model, (fx.GraphModule, torch.jit.ScriptModule))
        ways = _WAYS[:1] if one_way else _WAYS
    call = _first_call(model, samples[0]) if samples and ways[0] != "islands" else None
    for way in ways:
        if way == "islands":
            break
        try:
            return Choice([_whole(model, samples, way, call, lap, alone=how != "auto")], tuple(failed))
        except CaptureError as error:
            if way == ways[-1]:
                raise
            failed.append(str(error))
    for sample in samples:
        require_runs(model, sample)
    found = find_islands(model, samples)
    lap("capture")
    return Choice(found.parts, tuple(failed), found.reasons, found.in_place)


_WAYS = ("trace", "export", "islands")
"""The ways of "auto", in order."""


def _first_call(model: nn.Module, sample: Sample) -> Call | None:
    """What the model does, before it is looked into; None where it raises, which is told later, with the reason.

    So what forward keeps beside its modules (a cache of windows, say) is made of tensors, and not of proxies.
    """
    try:
        return call_of(model, sample)
    except Exception:  # the user's model may raise anything
        return None


def _whole(
    model: nn.Module,
    samples: tuple[Sample, ...],
    way: str,
    call: Call | None,
    lap: Callable[[str], None],
    *,
    alone: bool,
) -> Part:
    """The whole model, captured, which computes on every sample what the model does; `alone`: no other way is left.

    `call`: what the model does with the first sample, if that is known.
    """
    if not samples:
        captured = capture_model(model, None)
        lap("capture")
        return Part(captured, None, ())
    first = samples[0]
    captured = capture_model(model, first) if way == "trace" else capture_export(model, first, open_only=not alone)
    lap("capture")
    try:
        observed = observe(captured, first)
        lap("observe")
        faithful = (
            not mistakes_a_value(captured, observed.facts)
            and _is_faithful(captured, model, call or call_of(model, first), observed)
            and all(_is_faithful(captured, model, call_of(model, sample)) for sample in samples[1:])
        )
    except Exception as error:  # the user's model may raise anything on a sample: told apart and passed on
        for sample in samples:
            require_runs(model, sample)
        raise CaptureError(
            f"the {_GRAPHS[way]} of {type(model).__name__} fails on the samples, where the model doesn't\n"
            f"  {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
            f"  forward does something that it doesn't hold; {_ADVICE}"
        ) from error
    if captured.refilled:
        raise CaptureError(
            f"{type(model).__name__} fills a tensor that it makes of no input (torch.zeros and the like)\n"
            "  a traced graph has one of these for all calls, and would write over what it returned before\n"
            f"  make it of an input, as by x.new_zeros(...); {_ADVICE}"
        )
    if not faithful:
        raise unfaithful(model, way, first)
    lap("compare")
    return Part(captured, observed.facts, samples)


def _is_faithful(captured: Capture, model: nn.Module, call: Call, observed: Observation | None = None) -> bool:
    """Whether the graph computes what the model does in one call; its buffers are then those of the model again."""
    if call.before:  # what was observed doesn't count
        captured.restore_buffers(model)
    same = computes_the_same(captured, call, observed)
    captured.restore_buffers(model)
    return same


_GRAPHS = {"trace": "traced graph", "export": "exported graph"}
_ADVICE = "capture='auto' tries other ways, and 'islands' keeps the model's own Python"


def unfaithful(model: nn.Module, way: str, sample: Sample) -> CaptureError:
    """The error of a capture that isn't the model, which runs on the sample."""
    if model._forward_hooks or model._forward_pre_hooks:
        return CaptureError(
            f"{type(model).__name__} has hooks of its own, with which it computes something else than forward does\n"
            "  a graph is made of forward alone; remove them, and register them on the result; or take "
            "capture='islands', which keeps the model's own Python"
        )
    call, held = call_of(model, sample), dict(model.named_buffers())
    inside = [name.partition(", ")[0] for name in call.written or () if "[" in name or "." in name]
    if inside:
        return CaptureError(
            f"{type(model).__name__} writes to a container or an object that it is given ({inside[0]})\n"
            "  a graph writes to tensors alone; return what is to be kept, or take tensors and write to these\n"
            f"  {_ADVICE}"
        )
    if call.remembers:
        return CaptureError(
            f"{type(model).__name__} decides by {call.remembers}, which it changes in each call\n"
            f"  a graph has no such memory; {_ADVICE}"
        )
    made = [name for name in call.buffers if name not in held]
    if made:
        several = f", and {len(made) - 1} more" if len(made) > 1 else ""
        return CaptureError(
            f"{type(model).__name__} makes buffers in its first call ({made[0]}{several}), and computes something else "
            f"from then on\n  call it once, and convert it then: it may be one graph\n  {_ADVICE}"
        )
    return CaptureError(
        f"the {_GRAPHS.get(way, 'graph')} of {type(model).__name__} was captured without an error, and computes "
        "something else\n"
        "  forward takes decisions in Python that the graph froze (a branch on a type, numpy, a counter)\n"
        f"  move them out of forward; {_ADVICE}"
    )
