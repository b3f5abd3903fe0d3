"""Whether two outcomes are the same, given a float64 run of the first or a tolerance.

With a float64 run: the candidate may be no further from it than a small multiple of the original's own distance, plus a
floor in units of the rounding of the narrowest dtype that the original uses. Where that run says nothing (it takes
another branch, or is itself far off), and without one, candidate and original are compared directly, within the
accumulated rounding that a deep network shows.
"""

from __future__ import annotations

from typing import Any

import torch

from convsurgeon.verification.outcome import Outcome
from convsurgeon.verification.result import Comparison, Tolerance

MULTIPLE = 8.0
"""How many times the original's own error is allowed."""

FLOOR, DIRECT = (64.0, 8.0), (2048.0, 32.0)
"""In units of rounding relative to the largest magnitude, for dtypes of float32 or better, and for narrower ones."""


EXACT = 1e-10
"""How far two float64 runs may be apart, relative to the largest magnitude."""


def judge(
    sample: int, reference: Outcome, candidate: Outcome, truth: Outcome | None, tolerance: Tolerance | None
) -> list[Comparison]:
    """Compare everything that both runs left; outputs, written inputs and gradients must be the same set."""
    eps = torch.finfo(reference.narrowest).eps
    floors = _floors(reference)
    found = []
    for name, ours in reference.leaves.items():
        if name.startswith("buffer ") and name not in candidate.leaves:
            continue
        if name not in candidate.leaves:
            found.append(_failed(sample, name, ours, "absent from the candidate"))
            continue
        theirs = candidate.leaves[name]
        best = None if truth is None else truth.leaves.get(name)
        found.append(_compare(sample, name, ours, theirs, best, tolerance, eps, floors[_kind_of(name)]))
    for name in candidate.leaves:
        if name not in reference.leaves and not name.startswith("buffer "):
            found.append(_failed(sample, name, candidate.leaves[name], "absent from the reference"))
    if not candidate.random_state.same_stream(reference.random_state):
        found.append(_failed(sample, "random stream", None, "the candidate drew other random numbers"))
    return found


def judge_in_float64(sample: int, reference: Outcome, candidate: Outcome, dtype: torch.dtype) -> list[Comparison]:
    """What differs between the two modules' float64 runs: there, arithmetic rounds nothing away.

    In its own dtype, an error in a small channel can be smaller than the rounding of a large one. Here each channel
    (axis 1) is held to its own magnitude: to a few roundings of `dtype`, in which a graph holds constants that the
    original computes anew.
    """
    bound = _units(FLOOR, torch.finfo(dtype).eps)
    floors = _floors(reference)
    found = []
    for name, ours in reference.leaves.items():
        theirs = candidate.leaves.get(name)
        if not isinstance(ours, torch.Tensor) or not isinstance(theirs, torch.Tensor) or ours.numel() != theirs.numel():
            continue
        if ours.is_floating_point() or ours.is_complex():
            a, b = filled(_wide(ours)), filled(_wide(theirs).reshape(ours.shape))
            rest = [axis for axis in range(a.dim()) if axis != 1 or a.dim() < 3]
            scale = a.abs().amax(rest, keepdim=True) if a.numel() else a.abs()
            allowed = bound * scale + EXACT * max(_largest(a), floors[_kind_of(name)])
            if not bool(((a - b).abs() <= allowed).all()):
                worst = float(allowed.max())
                found.append(
                    _comparison(sample, f"{name} in float64", ours, _largest(a - b), None, worst, _largest(a), False)
                )
    return found


def _kind_of(name: str) -> str:
    return name.partition(" ")[0]


def _floors(reference: Outcome) -> dict[str, float]:
    """The magnitude to which rounding is relative, by kind: for gradients, that of all of them.

    Many a gradient is zero but for rounding: of a bias before a norm, of anything before a softmax.
    """
    floors = {_kind_of(name): 0.0 for name in reference.leaves}
    for name, leaf in reference.leaves.items():
        if name.startswith("gradient") and isinstance(leaf, torch.Tensor):
            floors["gradient"] = max(floors["gradient"], _largest(filled(_wide(leaf))))
    return floors


def raised(sample: int, error: Exception) -> Comparison:
    """The comparison with a candidate that fails on the sample."""
    words = " ".join(str(error).split())[:200]
    return _failed(sample, "run", None, f"the candidate raises {type(error).__name__}: {words}")


def _compare(
    sample: int, name: str, ours: Any, theirs: Any, truth: Any, tolerance: Tolerance | None, eps: float, floor: float
) -> Comparison:
    if not isinstance(ours, torch.Tensor) or not isinstance(theirs, torch.Tensor):
        both_nan = isinstance(ours, float) and ours != ours and theirs != theirs
        same = type(ours) is type(theirs) and (ours is theirs or both_nan or bool(ours == theirs))
        return _passed(sample, name, ours) if same else _failed(sample, name, ours, f"{theirs!r:.60} for {ours!r:.60}")
    if name.startswith(("buffer", "gradient of")) and ours.numel() == theirs.numel():
        theirs = theirs.reshape(ours.shape)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return _failed(sample, name, ours, f"{_kind(theirs)} for {_kind(ours)}")
    if not isinstance(truth, torch.Tensor) or truth.shape != ours.shape or truth.is_complex() != ours.is_complex():
        truth = None
    if not (ours.is_floating_point() or ours.is_complex()):
        return _compare_whole(sample, name, ours, theirs, truth)
    a, b = _wide(ours), _wide(theirs)
    c = None if truth is None else _wide(truth)
    if not torch.equal(holes(a), holes(b)):
        return _failed(sample, name, ours, "infinities or NaNs where the original has none, or the other way round")
    a, b, c = filled(a), filled(b), None if c is None else filled(c)
    scale, difference = max(_largest(a), floor), _largest(a - b)
    if tolerance is not None:
        allowed = tolerance.atol + tolerance.rtol * scale
        passed = bool(((a - b).abs() <= tolerance.atol + tolerance.rtol * a.abs()).all())
        return _comparison(sample, name, ours, difference, None, allowed, scale, passed)
    direct = _units(DIRECT, eps) * scale
    if c is not None and _largest(a - c) <= direct:
        original = _largest(a - c)
        error, allowed = _largest(b - c), MULTIPLE * original + _units(FLOOR, eps) * scale
        return _comparison(sample, name, ours, error, original, allowed, scale, error <= allowed)
    return _comparison(sample, name, ours, difference, None, direct, scale, difference <= direct)


def _compare_whole(sample: int, name: str, ours: torch.Tensor, theirs: torch.Tensor, truth: Any) -> Comparison:
    """Whole numbers are equal, or where a rounding decided otherwise, equal to what float64 decides."""
    off = ours != theirs
    original = None
    if isinstance(truth, torch.Tensor):
        off &= theirs != truth
        original = (ours != truth).double().mean().item() if ours.numel() else 0.0
    error = off.double().mean().item() if ours.numel() else 0.0
    return _comparison(sample, name, ours, error, original, 0.0, 1.0, error == 0.0)


def _units(factors: tuple[float, float], eps: float) -> float:
    return eps * (factors[0] if eps < 1e-6 else factors[1])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def holes(tensor: torch.Tensor) -> torch.Tensor:
    """What is not finite, so that equal holes are equal tensors."""
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return torch.where(torch.isfinite(parts), 0.0, torch.nan_to_num(parts, nan=2.0, posinf=1.0, neginf=-1.0))


def filled(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, with 0 where it is not finite."""
    return torch.where(torch.isfinite(tensor), tensor, torch.zeros_like(tensor))


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _kind(value: Any) -> str:
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _comparison(
    sample: int,
    what: str,
    ours: torch.Tensor,
    error: float,
    original: float | None,
    allowed: float,
    scale: float,
    passed: bool,
) -> Comparison:
    dtype = str(ours.dtype).removeprefix("torch.")
    return Comparison(sample, what, tuple(ours.shape), dtype, error, original, allowed, scale, passed)


def _passed(sample: int, what: str, value: Any) -> Comparison:
    return Comparison(sample, what, (), type(value).__name__, 0.0, None, 0.0, 0.0, True)


def _failed(sample: int, what: str, value: Any, note: str) -> Comparison:
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else type(value).__name__
    return Comparison(sample, what, shape, dtype, float("inf"), None, 0.0, 0.0, False, note)
