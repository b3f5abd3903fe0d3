"""Resampling of the length."""

from __future__ import annotations

from typing import Any

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule, size_of_length

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
        size=None if size is None else size_of_length(size, axis),
        scale_factor=None if scale is None else axis.pair(_listed(scale), unit=1),
        mode=_MODES[resample.mode],
    )


@rule("upsample1d", contiguous=True)
def lift_upsample(resample: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``upsample1d`` by scale s or to L' is that of both spatial axes by (1, s) or to (1, L')."""
    size, scale = resample.output_size, resample.scale_factors
    return Lifted(
        "upsample2d",
        output_size=None if size is None else axis.pair(tuple(size), unit=1),
        scale_factors=None if scale is None else axis.pair(tuple(scale), unit=1.0),
    )


def _listed(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else (value,)
