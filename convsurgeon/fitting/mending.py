"""Which exact rewrites mend which broken limits, as data; it rewrites nothing, and knows no rewrite but by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convsurgeon.targets import Bound, Condition, Family, Limit, Target
from convsurgeon.targets.profile import Measure

_CONVOLUTIONS: tuple[Family, ...] = ("convolution", "depthwise_convolution")
_POOLS: tuple[Family, ...] = ("max_pool", "average_pool")
_TRANSPOSED: tuple[Family, ...] = ("transposed_convolution",)
_ON_UNIT_AXIS = (Condition("unit_axes", Bound(least=1)),)
_ONE_GROUP = (Condition("groups", Bound(most=1)),)
_SEVERAL_GROUPS = (Condition("groups", Bound(least=2)),)


@dataclass(frozen=True, slots=True)
class Mend:
    """A rewrite, the operators that it applies to, and what has to hold for it.

    `levels`: it gives every axis the largest value, and so mends where the limit takes that one on all of them.
    `numbered`: the number that it keeps to is the largest value that the limit takes. `channels_last`: it is for
    accelerators whose values lie in memory so.
    """

    rewrite: str
    families: tuple[Family, ...]
    when: tuple[Condition, ...] = ()
    levels: bool = False
    numbered: bool = False
    channels_last: bool = False


_SQUARE = Mend("square", (*_CONVOLUTIONS, *_TRANSPOSED, *_POOLS), _ON_UNIT_AXIS, levels=True)
_UNGROUP = ("ungroup_split", "ungroup_dense")
_CROP = Mend("crop_padding", _TRANSPOSED)
_INTO_CHANNELS = Mend("fold_into_channels", ("convolution",), _ONE_GROUP, channels_last=True)
_FOLD_STRIDE = Mend("fold_stride", _CONVOLUTIONS)
_AS_CONVOLUTION = Mend("transposed_as_convolution", _TRANSPOSED)

MENDS: Mapping[str, tuple[Mend, ...]] = {
    "stride": (
        *(_SQUARE, _INTO_CHANNELS, _FOLD_STRIDE),
        *(Mend("split_pool_stride", _POOLS, numbered=True), _AS_CONVOLUTION),
    ),
    "stride_minus_kernel": (_INTO_CHANNELS, _FOLD_STRIDE, _AS_CONVOLUTION),
    "in_channels": (_INTO_CHANNELS,),
    "dilation": (_SQUARE, Mend("fold_dilation", _CONVOLUTIONS), _CROP, _AS_CONVOLUTION),
    "kernel": (
        *(Mend("split_kernel", _CONVOLUTIONS, numbered=True), Mend("split_pool", _POOLS, numbered=True)),
        _AS_CONVOLUTION,
    ),
    "kernel_shape": (_AS_CONVOLUTION,),
    "padding": (Mend("separate_padding", _CONVOLUTIONS), _CROP, _AS_CONVOLUTION),
    "output_padding": (_CROP, _AS_CONVOLUTION),
    "groups": tuple(Mend(name, (*_CONVOLUTIONS, *_TRANSPOSED), _SEVERAL_GROUPS) for name in _UNGROUP),
    "rank": (Mend("linear_as_convolution", ("linear",)), Mend("fold_batch_norm", ("batch_norm",))),
    "operator": (Mend("linear_as_convolution", ("linear",)), Mend("fold_batch_norm", ("batch_norm",))),
}
"""What mends a limit on a quantity, best first. ``kernel_h``, ``kernel_area`` and the like go by their first word.

``kernel_shape`` and differences don't: what is split has another shape, and pools of a lesser stride lesser kernels.
"""


def mends(family: Family, limit: Limit, measure: Measure, target: Target) -> tuple[str, ...]:
    """The rewrites that mend a broken limit of an operator, by changing its quantity or where the limit applies."""
    bounds = {**{one.quantity: None for one in limit.when}, limit.quantity: limit.bound}
    return tuple(
        dict.fromkeys(
            one.rewrite
            for quantity in (limit.quantity, *(one.quantity for one in limit.when))
            for one in _known(quantity)
            if family in one.families
            and all(condition.holds(measure) for condition in one.when)
            and (not one.channels_last or target.channels_last is not None)
            and (not one.levels or _takes_largest(bounds[quantity], measure(quantity)))
        )
    )


def number_for(rewrite: str, quantity: str, most: float | None) -> int | None:
    """The number that a rewrite keeps to where it mends a limit on a quantity; None where it goes by its own."""
    numbered = any(one.rewrite == rewrite and one.numbered for one in _known(quantity))
    return max(2, int(most)) if numbered and most is not None else None


def _known(quantity: str) -> tuple[Mend, ...]:
    return MENDS.get(quantity) or MENDS.get(quantity.partition("_")[0], ())


def _takes_largest(bound: Bound | None, values: Sequence[float]) -> bool:
    return bound is not None and bound.takes_all([max(values)])
