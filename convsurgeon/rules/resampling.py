"""Resampling of the length."""

from __future__ import annotations

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule

_MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "linear": "bilinear", "area": "area"}


@rule("interpolate", contiguous=True)
def lift_interpolate(resample: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``interpolate`` to L' is ``interpolate`` to (1, L'), and linear is bilinear: along one element nothing changes.

    Scale s -> (1, s). Every mode, with ``align_corners`` and ``recompute_scale_factor`` as they are.

    Limits: the input is (N, C, L).
    """
    if resample.input is None or resample.input.rank != 3:
        return Refusal("its input is not (N, C, L)")
    if resample.mode not in _MODES or resample.antialias:
        return Refusal(f"mode {resample.mode!r} with antialias={resample.antialias} has no rule")
    size, scale = resample.size, resample.scale_factor
    return Lifted(
        "interpolate",
        size=None if size is None else axis.pair(size if isinstance(size, (tuple, list)) else (size,), unit=1),
        scale_factor=None if scale is None else axis.pair(scale if isinstance(scale, tuple) else (scale,), unit=1),
        mode=_MODES[resample.mode],
    )
