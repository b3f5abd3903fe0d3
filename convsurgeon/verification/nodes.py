"""How far every value of a converted graph, and of the original, is from a float64 run: both run in step with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from convsurgeon.capture import Capture
from convsurgeon.clones.cloning import clone_module, own
from convsurgeon.clones.guard import without_autocast_cache
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule, axis_of
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.samples import Sample
from convsurgeon.verification.locate import Steps
from convsurgeon.verification.referee import in_float64, widened, widened_sample


@dataclass(frozen=True, slots=True)
class NodeValue:
    """The value of one node of a converted graph on a sample.

    `error` is its largest distance from the original's float64 run, relative to that value's largest magnitude, and
    `original_error` that of the original's own; None where the value is no floating-point tensor, or not comparable.
    """

    shape: tuple[int, ...] | None
    dtype: str
    error: float | None = None
    original_error: float | None = None


def node_values(capture: Capture, candidate: ConvertedModule, sample: Sample) -> Iterator[tuple[fx.Node, NodeValue]]:
    """The nodes of `candidate` with their values on `sample`, in the order of its graph.

    Where the original can't run in float64 its own run takes the place of that one. Memory: copies of both models'
    weights, which forward may write, and the float64 ones.
    """
    axis = axis_of(candidate)
    with preserved_random_state() as state, torch.no_grad(), without_autocast_cache():
        theirs = clone_module(candidate, own)
        inputs = Sample(*candidate.inputs_2d(*sample.args, **sample.kwargs))
        ours = Steps(clone_module(capture.root, own), capture.graph, sample, state)
        truth: Steps | None = Steps(widened(capture.root), capture.graph, widened_sample(sample), state)
        for new, value in Steps(theirs, candidate.graph, inputs, state):
            origin = new.meta.get(ORIGIN)
            if origin is None or origin.node != new.name:
                yield new, _described(value)
                continue
            _, original = ours.reach(new.name)
            best, truth = _reached(truth, new.name)
            seen = axis.lower(value) if origin.form == "2d" and isinstance(value, torch.Tensor) else value
            yield new, _described(value, _distance(seen, best, original), _distance(original, best, original))


def _reached(truth: Steps | None, name: str) -> tuple[Any, Steps | None]:
    """The value of a node in float64; none from where on the model can't compute in it."""
    if truth is None:
        return None, None
    try:
        with in_float64():
            return truth.reach(name)[1], truth
    except Exception:  # the user's code may fail in any way on dtypes it wasn't written for; what ran is still shown
        return None, None


def _described(value: Any, error: float | None = None, original_error: float | None = None) -> NodeValue:
    if not isinstance(value, torch.Tensor):
        return NodeValue(None, type(value).__name__)
    return NodeValue(tuple(value.shape), str(value.dtype).removeprefix("torch."), error, original_error)


def _distance(value: Any, best: Any, original: Any) -> float | None:
    """The largest distance from the float64 value, or where there is none from the original's, relative to it."""
    reference = best if isinstance(best, torch.Tensor) else original
    if not isinstance(value, torch.Tensor) or not isinstance(reference, torch.Tensor):
        return None
    if value.shape != reference.shape or not value.numel() or not value.is_floating_point():
        return None
    wide = reference.to(torch.float64)
    scale = float(wide.abs().nan_to_num(0.0, 0.0, 0.0).max())
    off = float((value.to(torch.float64) - wide).abs().nan_to_num(0.0, 0.0, 0.0).max())
    return off / scale if scale else off
