"""Pools over the length."""

from __future__ import annotations

from typing import Any

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule, size_asked_for, size_of_length


@rule("max_pool1d", contiguous=True)
def lift_max_pool(pool: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``max_pool1d`` is ``max_pool2d`` with a (1, K) window.

    On the unit axis window, stride and dilation are 1, so ``ceil_mode`` adds nothing there. Indices are those of the
    flattened spatial axes, 0 * L + l: the same numbers.
    """
    return Lifted(
        "max_pool2d",
        **_window(pool, axis),
        padding=axis.pair(pool.padding, unit=0),
        dilation=axis.steps(pool.dilation),
    )


@rule("avg_pool1d", contiguous=True)
def lift_avg_pool(pool: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``avg_pool1d`` is ``avg_pool2d`` with a (1, K) window: as many elements are divided by as many."""
    return Lifted("avg_pool2d", **_window(pool, axis), padding=axis.pair(pool.padding, unit=0))


@rule("lp_pool1d", contiguous=True)
def lift_lp_pool(pool: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``lp_pool1d`` is ``lp_pool2d`` with a (1, K) window: the same sum of powers."""
    return Lifted("lp_pool2d", **_window(pool, axis))


@rule("adaptive_avg_pool1d", "adaptive_max_pool1d", contiguous=True)
def lift_adaptive_pool(pool: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """An adaptive pool to L' is one to (1, L').

    Limits: the output size is given, and a whole number.
    """
    if pool.output_size in (None, (None,), [None]):
        return Refusal("its output size is left open")
    return Lifted("adaptive_pool2d", output_size=size_of_length(pool.output_size, axis))


@rule("max_unpool1d", lifts=("input", "indices"), contiguous=True)
def lift_max_unpool(pool: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """``max_unpool1d`` is ``max_unpool2d`` with a (1, K) window, and the same indices in their 2-D form."""
    return Lifted(
        "max_unpool2d",
        **_window(pool, axis),
        padding=axis.pair(pool.padding, unit=0),
        output_size=None if pool.output_size is None else size_asked_for(pool.output_size, axis),
    )


def _window(pool: Arguments, axis: UnitAxis) -> dict[str, Any]:
    """The window and its stride; where none is given it is the window's own, on both axes."""
    stride = pool.stride or (pool.kernel_size if axis.square else None)
    given = {"stride": axis.steps(stride)} if stride else {}
    return {"kernel_size": size_of_length(pool.kernel_size, axis), **given}
