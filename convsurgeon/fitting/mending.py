"""Which exact rewrites mend which broken limits, as data; it rewrites nothing, and knows no rewrite but by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convsurgeon.targets import Bound, Condition, Family, Limit
from convsurgeon.targets.profile import Measure

_CONVOLUTIONS: tuple[Family, ...] = ("convolution", "depthwise_convolution")
_POOLS: tuple[Family, ...] = ("max_pool", "average_pool")
_TRANSPOSED: tuple[Family, ...] = ("transposed_convolution",)
_ON_UNIT_AXIS = (Condition("unit_axes", Bound(least=1)),)
_SEVERAL_GROUPS = (Condition("groups", Bound(least=2)),)


@dataclass(frozen=True, slots=True)
class Mend:
    """A rewrite, the operators that it applies to, and what has to hold for it.

    `levels`: it gives every axis the largest value, and so mends where the limit takes that one on all of them.
    """

    rewrite: str
    families: tuple[Family, ...]
    when: tuple[Condition, ...] = ()
    levels: bool = False


_SQUARE = Mend("square", (*_CONVOLUTIONS, *_TRANSPOSED, *_POOLS), _ON_UNIT_AXIS, levels=True)
_UNGROUP = ("ungroup_split", "ungroup_dense")
_CROP = Mend("crop_padding", _TRANSPOSED)
_AS_CONVOLUTION = Mend("transposed_as_convolution", _TRANSPOSED)

MENDS: Mapping[str, tuple[Mend, ...]] = {
    "stride": (_SQUARE, Mend("fold_stride", _CONVOLUTIONS), _AS_CONVOLUTION),
    "dilation": (_SQUARE, Mend("fold_dilation", _CONVOLUTIONS), _CROP, _AS_CONVOLUTION),
    "kernel": (Mend("split_kernel", _CONVOLUTIONS), Mend("split_pool", _POOLS), _AS_CONVOLUTION),
    "padding": (Mend("separate_padding", _CONVOLUTIONS), _CROP, _AS_CONVOLUTION),
    "output_padding": (_CROP, _AS_CONVOLUTION),
    "groups": tuple(Mend(name, (*_CONVOLUTIONS, *_TRANSPOSED), _SEVERAL_GROUPS) for name in _UNGROUP),
    "rank": (Mend("linear_as_convolution", ("linear",)), Mend("fold_batch_norm", ("batch_norm",))),
    "operator": (Mend("linear_as_convolution", ("linear",)), Mend("fold_batch_norm", ("batch_norm",))),
}
"""What mends a limit on a quantity. ``kernel_h``, ``kernel_area``, ``padding_minus_kernel`` go by their first word."""


def mends(family: Family, limit: Limit, measure: Measure) -> tuple[str, ...]:
    """The rewrites that mend a broken limit of an operator, by changing its quantity or where the limit applies."""
    found = dict.fromkeys(_of(family, limit.quantity, measure, limit.bound))
    for condition in limit.when:
        found |= dict.fromkeys(_of(family, condition.quantity, measure, None))
    return tuple(found)


def _of(family: Family, quantity: str, measure: Measure, bound: Bound | None) -> list[str]:
    known = MENDS.get(quantity) or MENDS.get(quantity.partition("_")[0], ())
    return [
        one.rewrite
        for one in known
        if family in one.families
        and all(condition.holds(measure) for condition in one.when)
        and (not one.levels or (bound is not None and bound.takes_all([max(measure(quantity))])))
    ]
