"""Whether a tuned module is what it was: its outputs as every conversion's, its gradients in their norms.

Another order of summation may move a value over the kink of a ReLU or a max pool, and then changes the gradient of that
one element by all of it; elementwise bounds would call that a difference. What torch computes wrong, where it misreads
strides, is off by as much as there is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from convsurgeon.cloning import clone_module, share_parameters
from convsurgeon.errors import UnsupportedError
from convsurgeon.rng import RandomState, preserved_random_state
from convsurgeon.samples import Sample
from convsurgeon.verification import Tolerance, Verification, verify_samples
from convsurgeon.verification.outcome import run
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
) -> tuple[Verification, Gradients]:
    """The outputs on every sample, and the gradients on the first; those of `baked` weights have other shapes."""
    found = verify_samples(reference, module, samples, tolerance, gradients=False, train=False, capture=None)
    return found, _gradients(reference, module, samples[0], {f"gradient of {name}" for name in baked})


def _gradients(reference: nn.Module, module: nn.Module, sample: Sample, apart: Collection[str]) -> Gradients:
    with preserved_random_state() as state, torch.inference_mode(False):
        try:
            ours, theirs = (
                run(clone_module(one, share_parameters), sample, state, gradients=True) for one in (reference, module)
            )
        except UnsupportedError:  # autograd can't differentiate it, tuned or not
            return Gradients("", 0.0, 0.0)
        truth = _truth(reference, sample, state)
    base = _ALLOWED if torch.finfo(ours.narrowest).eps <= torch.finfo(torch.float32).eps else _NARROW
    named = {name: one for name, one in ours.leaves.items() if name.startswith("gradient of ") and name not in apart}
    found = {name: one for name, one in named.items() if isinstance(one, torch.Tensor)}
    largest = max((_norm(one) for one in found.values()), default=0.0)
    worst = Gradients("", 0.0, base)
    for name, one in found.items():
        other, best = theirs.leaves.get(name), truth.get(name, one)
        if not isinstance(other, torch.Tensor) or one.numel() != other.numel():
            return Gradients(name, float("inf"), base)
        scale = max(_norm(best), _SMALL * largest, torch.finfo(torch.float64).tiny)
        allowed = base + _MULTIPLE * _norm(one.double() - best) / scale
        judged = Gradients(name, _norm(other.double().reshape(one.shape) - best) / scale, allowed)
        if not judged.distance - judged.allowed <= worst.distance - worst.allowed:  # nan is the worst
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
    return float(torch.linalg.vector_norm(value.double()))
