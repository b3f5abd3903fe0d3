"""Proves that two modules compute the same, or finds where they don't. Trusts nobody, and leaves no trace."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from convsurgeon.alone import alone
from convsurgeon.capture import Capture
from convsurgeon.capture.places import where_in_user_code
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.own_modes import in_training
from convsurgeon.errors import UnsupportedError
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification.judge import judge, judge_in_float64, raised
from convsurgeon.verification.locate import first_divergence
from convsurgeon.verification.outcome import Outcome, run
from convsurgeon.verification.referee import in_float64, widened, widened_sample
from convsurgeon.verification.result import Comparison, Divergence, Tolerance, Verification

__all__ = ["Comparison", "Divergence", "Tolerance", "Verification", "require_runs", "verify", "verify_samples"]


@alone
def verify(
    reference: nn.Module,
    candidate: nn.Module,
    sample_inputs: Any,
    *,
    tolerance: Tolerance | None = None,
    gradients: bool = False,
    train: bool = False,
) -> Verification:
    """Compare what two modules compute on every sample; neither module, nor any random stream, is changed.

    Args:
        reference: the module that is right.
        candidate: the module to judge. Parameters and buffers are matched by name.
        sample_inputs: as for `convsurgeon.convert`.
        tolerance: compare directly within these bounds. Without it a float64 run of the reference is the judge, where
            it can run in float64 and draws no numbers that depend on the dtype.
        gradients: compare the gradients of parameters and inputs as well.
        train: compare in training mode (buffers and random streams included) instead of the modes that are set.

    Returns:
        A `Verification`; call its ``require()`` to have a difference raise.

    Raises:
        ValueError: there are no samples.
        TypeError: an argument is of the wrong kind.
        UnsupportedError: gradients are asked for, and autograd refuses to differentiate one of the modules.
    """
    for name, module in (("reference", reference), ("candidate", candidate)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} is a {type(module).__name__}; accepted: a torch.nn.Module, as conversion.module")
    if tolerance is not None and not isinstance(tolerance, Tolerance):
        raise TypeError(f"tolerance is {tolerance!r}; accepted: a convsurgeon.Tolerance(rtol, atol), or None")
    samples = as_samples(sample_inputs)
    if not samples:
        raise ValueError("sample_inputs is None; nothing can be verified without a sample")
    return verify_samples(reference, candidate, samples, tolerance, gradients=gradients, train=train, capture=None)


def verify_samples(
    reference: nn.Module,
    candidate: nn.Module,
    samples: tuple[Sample, ...],
    tolerance: Tolerance | None,
    *,
    gradients: bool,
    train: bool,
    capture: Capture | None,
    direct: str = "",
    baked: Collection[str] = (),
) -> Verification:
    """`verify` for samples in their one form.

    With the candidate's `capture`, a difference is traced to its node. `direct`: why no float64 run is needed. Buffers
    that are `baked` hold other numbers, and aren't compared.
    """
    comparisons: list[Comparison] = []
    reason = direct if tolerance is None else "a tolerance was given"
    with preserved_random_state() as state, torch.inference_mode(False):
        for i, sample in enumerate(samples):
            ours = _reference(reference, sample, state, gradients, train)
            truth, why = (None, reason) if reason else _truth(reference, sample, state, ours, gradients, train)
            reason = reason or why
            for left in filter(None, (ours, truth)):
                for name in baked:
                    left.leaves.pop(f"buffer {name}", None)
            found = _judged(i, candidate, sample, state, ours, truth, tolerance, gradients=gradients, train=train)
            comparisons += found
            if not all(one.passed for one in found):
                break
        passed = all(one.passed for one in comparisons)
        divergence = None
        if not passed and capture is not None and isinstance(candidate, ConvertedModule):
            divergence = first_divergence(capture, candidate, sample, state, wide=not reason)
    return Verification(
        passed,
        "direct" if reason else "float64",
        reason,
        tuple(str(sample) for sample in samples),
        tuple(comparisons),
        divergence,
    )


def _judged(
    index: int,
    candidate: nn.Module,
    sample: Sample,
    state: RandomState,
    ours: Outcome,
    truth: Outcome | None,
    tolerance: Tolerance | None,
    *,
    gradients: bool,
    train: bool,
) -> list[Comparison]:
    """The candidate's run in its own dtype, against both; and in float64, where nothing can hide behind rounding."""
    try:
        theirs = run(_prepared(candidate, train), sample, state, gradients=gradients)
        found = judge(index, ours, theirs, truth, tolerance)
        if truth is not None:
            wide = widened(candidate)
            with in_float64():
                exact = run(wide.train() if train else wide, widened_sample(sample), state, gradients=gradients)
            found += judge_in_float64(index, truth, exact, ours.narrowest)
    except UnsupportedError:
        raise
    except Exception as error:  # a candidate that fails where the reference doesn't is different, whatever it raises
        return [raised(index, error)]
    return found


def _reference(reference: nn.Module, sample: Sample, state: RandomState, gradients: bool, train: bool) -> Outcome:
    try:
        return run(_prepared(reference, train), sample, state, gradients=gradients)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever the user's model raises is the message
        raise ValueError(_cannot_run(reference, sample, error)) from error


def require_runs(model: nn.Module, sample: Sample) -> None:
    """Raise if the model can't run on the sample.

    Raises:
        ValueError: with the model's own error, and the user's line that raised it.
    """
    with preserved_random_state() as state:
        _reference(model, sample, state, gradients=False, train=False)


def _cannot_run(model: nn.Module, sample: Sample, error: Exception) -> str:
    """That it is the model itself that fails on a sample, with its own error and the user's line that raised it."""
    where = where_in_user_code(error)
    return (
        f"sample_inputs: {type(model).__name__} can't run on {sample}"
        + (f"\n  at {where}" if where else "")
        + f"\n  {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        "  give a sample that the model accepts"
    )


def _prepared(module: nn.Module, train: bool) -> nn.Module:
    return in_training(module) if train else clone_module(module, share_parameters)


def _truth(
    reference: nn.Module, sample: Sample, state: RandomState, ours: Outcome, gradients: bool, train: bool
) -> tuple[Outcome | None, str]:
    """The float64 run, or why there is none."""
    if ours.draws:
        return None, f"the model draws numbers that depend on the dtype ({', '.join(sorted(ours.draws))})"
    try:
        wide = widened(reference)
        with in_float64():
            return run(wide.train() if train else wide, widened_sample(sample), state, gradients=gradients), ""
    except (
        Exception
    ) as error:  # the user's code may fail in any way on dtypes it wasn't written for: reported, not hidden
        return None, f"the model can't run in float64 ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
