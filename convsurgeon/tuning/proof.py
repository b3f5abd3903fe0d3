"""Whether a tuned module is what it was: its outputs as every conversion's, its gradients in their norms.

Another order of summation may move a value over the kink of a ReLU or a max pool, and then changes the gradient of that
one element by all of it; elementwise bounds would call that a difference. What torch computes wrong, where it misreads
strides, is off by as much as there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.errors import UnsupportedError
from convsurgeon.samples import Sample
from convsurgeon.verification import Tolerance, Verification, verify_samples
from convsurgeon.verification.judge import filled, holes
from convsurgeon.verification.outcome import Outcome, run
from convsurgeon.verification.referee import in_float64, widened, widened_sample

_ALLOWED, _NARROW = 0.05, 0.3
"""The norm of a difference to that of the gradient, for dtypes of float32 or better, and for narrower ones."""

_MULTIPLE = 4.0
"""How many times the reference's own distance from its float64 run is allowed beside that."""

_SMALL = 1e-3
"""A gradient whose norm is this small a part of the largest one's is rounding: of a bias before a norm, or so."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """How far the gradients are from the reference's: the largest difference in norm, relative, and whose that is.

    `name` is "" where nothing has a gradient.
    """

    name: str
    distance: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether they are the same, but for elements that rounding moved over a kink."""
        return self.distance <= self.allowed

    def __str__(self) -> str:
        return f"{self.name} is {self.distance:.1e} from the reference's in norm, allowed {self.allowed:.1e}"


def proven(
    reference: nn.Module,
    module: nn.Module,
    samples: tuple[Sample, ...],
    tolerance: Tolerance | None,
    baked: Collection[str],
    *,
    again: bool,
) -> tuple[Verification, Gradients]:
    """The outputs on every sample, and the gradients on the first; those of `baked` weights have other shapes.

    `again`: the same was proven where the choice was made, with other weights perhaps, and a direct comparison does.
    """
    options: dict[str, Any] = {"gradients": False, "train": False, "capture": None, "baked": baked}
    direct = "the choice was proven by a float64 run where it was made" if again else ""
    found = verify_samples(reference, module, samples, tolerance, **options, direct=direct)
    if direct and not found:
        found = verify_samples(reference, module, samples, tolerance, **options)
    return found, _gradients(reference, module, samples[0], {f"gradient of {name}" for name in baked})


def _gradients(reference: nn.Module, module: nn.Module, sample: Sample, apart: Collection[str]) -> Gradients:
    with preserved_random_state() as state, torch.inference_mode(False):
        try:
            ours, theirs = (
                run(clone_module(one, share_parameters), sample, state, gradients=True) for one in (reference, module)
            )
        except UnsupportedError:  # autograd can't differentiate it, tuned or not
            return Gradients("", 0.0, 0.0)
        base = _ALLOWED if torch.finfo(ours.narrowest).eps <= torch.finfo(torch.float32).eps else _NARROW
        found = _worst(ours, theirs, {}, apart, base)
        return found if found.passed else _worst(ours, theirs, _truth(reference, sample, state), apart, base)


def _worst(
    ours: Outcome, theirs: Outcome, truth: Mapping[str, torch.Tensor], apart: Collection[str], base: float
) -> Gradients:
    """The gradient that is farthest beyond what is allowed, from the truth's where that is known, else from ours.

    What is near enough to ours is near enough to the truth, by as much as ours is allowed to be off.
    """
    named = {name: one for name, one in ours.leaves.items() if name.startswith("gradient of ") and name not in apart}
    found = {name: one for name, one in named.items() if isinstance(one, torch.Tensor)}
    norms = {name: _norm(filled(one)) for name, one in found.items()}
    least = max(_SMALL * max(norms.values(), default=0.0), torch.finfo(torch.float64).tiny)
    worst = Gradients("", 0.0, base)
    for name, one in found.items():
        other, best = theirs.leaves.get(name), truth.get(name)
        if not isinstance(other, torch.Tensor) or one.numel() != other.numel():
            return Gradients(name, float("inf"), base)
        other = other.reshape(one.shape)
        if not torch.equal(holes(one), holes(other)):
            return Gradients(name, float("inf"), base)
        one, other, best = filled(one), filled(other), None if best is None else filled(best)
        scale = max(norms[name] if best is None else _norm(best), least)
        allowed = base + (0.0 if best is None else _MULTIPLE * _norm(one - best) / scale)
        judged = Gradients(name, _norm(other - (one if best is None else best)) / scale, allowed)
        if judged.distance - judged.allowed > worst.distance - worst.allowed:
            worst = judged
    return worst


def _truth(reference: nn.Module, sample: Sample, state: RandomState) -> dict[str, torch.Tensor]:
    """The gradients of the reference in float64; none where it can't run so."""
    try:
        with in_float64():
            leaves = run(widened(reference), widened_sample(sample), state, gradients=True).leaves
    except Exception:  # the user's code may fail in any way on dtypes it wasn't written for
        return {}
    return {name: one for name, one in leaves.items() if isinstance(one, torch.Tensor)}


def _norm(value: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(value.float() if value.dtype.itemsize < 4 else value))
