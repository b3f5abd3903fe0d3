"""Operators on each side of a limit, made from the limit itself: a changed one makes others. It knows no compiler."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

import convsurgeon
from convsurgeon.targets import Bound, Condition, Family, Limit, Target

Side = Literal["within", "beyond"]
Asked = dict[str, Any]
"""What an operator is to be, by quantities of `convsurgeon.targets.quantities`; a pair says it for each axis."""

_CONVOLUTIONS = ("convolution", "depthwise_convolution", "transposed_convolution")
_POOLS = ("max_pool", "average_pool")
_WORDS = {"mode": ("nearest", "nearest-exact", "linear", "cubic")}
_VARIANTS: Mapping[str, tuple[tuple[Asked, ...], ...]] = {
    "resize": (
        tuple({"mode": "nearest", "unit_axes": unit_axes} for unit_axes in (1, 0)),
        tuple({"mode": "linear", "unit_axes": unit_axes} for unit_axes in (1, 0)),
        ({"mode": "linear", "align_corners": 1},),
    ),
}
"""What else a family is tried as: of each group the first that has operators on both sides."""
_LARGE = 10**5


@dataclass(frozen=True, slots=True)
class Case:
    """An operator that keeps to a profile (`within`), or breaks this limit of it and no other (`beyond`)."""

    limit: Limit
    family: Family
    side: Side
    asked: tuple[tuple[str, Any], ...]

    def built(self) -> tuple[nn.Module, torch.Tensor]:
        """The operator alone, and an input for it."""
        torch.manual_seed(0)
        return operator(self.family, dict(self.asked))

    def __str__(self) -> str:
        return f"{self.family}, " + ", ".join(f"{name} {value}" for name, value in self.asked)


def cases_of(target: Target, limit: Limit) -> list[Case]:
    """Operators of every family that the limit is about, on both sides of it, as near to it as can be."""
    found: dict[str, Case] = {}
    for family in limit.families:
        for variants in _VARIANTS.get(family, (({},),)):
            cases = next(filter(None, (_nearest(target, limit, family, variant) for variant in variants)), [])
            found |= {str(case): case for case in cases}
    return list(found.values())


def _nearest(target: Target, limit: Limit, family: Family, variant: Asked) -> list[Case]:
    """The first operator on each side (of words, each); nothing where there is one side alone."""
    plain = {name: value for name, value in variant.items() if name != limit.quantity}
    nearest: dict[Any, Case] = {}
    for (side, value), where in itertools.product(_values(limit.quantity, limit.bound), _where(limit.when)):
        asked = {**plain, **where, limit.quantity: value}
        case = Case(limit, family, side, tuple(asked.items()))
        key = side, value if limit.quantity in _WORDS else None
        if key not in nearest and {**asked, **plain} == asked and _is_what_it_says(case, target):
            nearest[key] = case
    return list(nearest.values()) if {side for side, _ in nearest} == {"within", "beyond"} else []


def _where(conditions: Sequence[Condition]) -> Iterator[Asked]:
    """Values with which all conditions hold, the plainest first."""
    listed = [[(one.quantity, value) for value in _meeting(one)] for one in conditions]
    yield from map(dict, itertools.product(*listed))


def _meeting(condition: Condition) -> list[Any]:
    bound = condition.bound
    if bound.least is not None and bound.most is None:
        return [bound.least + more for more in range(4)]
    return list(within(condition.quantity, bound))


def within(quantity: str, bound: Bound) -> Iterator[Any]:
    """Values that are taken, the extreme ones first."""
    if bound.equal:
        yield (2, 2)
    elif bound.one_of is not None:
        yield from sorted(bound.one_of, reverse=True)
    else:
        yield from (
            one - less for less in (0, 1) for one in (bound.most, bound.least) if one is not None and one >= less
        )


def _values(quantity: str, bound: Bound) -> Iterator[tuple[Side, Any]]:
    yield from (("within", value) for value in within(quantity, bound))
    if bound.equal:
        yield "beyond", (1, 2)
    elif bound.one_of is not None and quantity in _WORDS:
        yield from (("beyond", word) for word in _WORDS[quantity] if word not in bound.one_of)
    elif bound.one_of is not None:
        near = sorted({at + step for at in bound.one_of for step in (-1, 1)} - set(bound.one_of))
        yield from (("beyond", value) for value in near if value > 0)
    else:
        if bound.most is not None:
            more = itertools.count(bound.most + 1)
            yield "beyond", next(one for one in more if quantity != "kernel_area" or _height(one) ** 2 > one / 2)
            yield "beyond", 2 * bound.most
        if bound.least is not None:
            yield "beyond", bound.least - 1


def _is_what_it_says(case: Case, target: Target) -> bool:
    """Whether it breaks nothing, or nothing but its limit."""
    try:
        module, x = case.built()
        found = convsurgeon.fit(module, target, x)
    except (ValueError, RuntimeError, NotImplementedError):  # torch has no such operator
        return False
    broken = {(one.quantity, one.accepted) for operator in found.operators for one in operator.misfits}
    alone = [one for one in found.operators if one.family == case.family]
    return len(alone) == 1 and broken == (
        {(case.limit.quantity, case.limit.accepted)} if case.side == "beyond" else set()
    )


def operator(family: Family, asked: Asked) -> tuple[nn.Module, torch.Tensor]:
    """A layer of a family that is as asked, and an input that is long enough.

    Raises:
        ValueError: such a layer has no such quantity.
    """
    axes = asked.get("rank", 4) - 2
    channels, batch = asked.get("in_channels", 4), asked.get("batch", 1)
    if family == "mean":
        return _Mean(), torch.randn(batch, channels, 1, asked.get("reduced", 8))
    if family == "resize":
        return _resize(asked, axes, channels)
    kernel, stride, dilation, padding = _window(asked, 3 if family in _CONVOLUTIONS else 2)
    sides = zip(kernel, dilation, stride, strict=True)
    lengths = [(size - 1) * apart + 1 + 3 * step if size > 1 else step for size, apart, step in sides]
    lengths = [-(-length // step) * step for length, step in zip(lengths, stride, strict=True)]
    if not asked.get("unit_axes", 1):
        lengths[0] = max(lengths[0], 8)
    more = [1] * (axes - 2)
    options: dict[str, Any] = {"stride": (*more, *stride)[-axes:], "padding": (*(0 for _ in more), *padding)[-axes:]}
    options["dilation"] = (*more, *dilation)[-axes:]
    x = torch.randn(batch, channels, *(*more, *lengths)[-axes:])
    return _layer(family, (*more, *kernel)[-axes:], options, asked, channels, axes), x


def _window(asked: Asked, plain: int) -> list[tuple[int, int]]:
    """Kernel, stride, dilation and padding on each axis.

    Where there is padding, kernel and stride go with it, so that the result is the input by the stride.
    """
    steps, padding = _pair(asked, "stride", 1), _pair(asked, "padding", 0)
    if padding[1] and "kernel" in asked and "stride" not in asked:
        steps = (1, asked["kernel"] - 2 * padding[1])
    if padding[1] and "kernel" not in asked:
        plain = steps[1] + 2 * (padding[1] - asked.get("padding_minus_same", 0))
    kernel = (plain, plain) if not asked.get("unit_axes", 1) else _kernel(asked, plain)
    if "stride_minus_kernel" in asked:
        more = asked["stride_minus_kernel"]
        kernel, steps = ((1, 2), (1, 2 + more)) if plain == 2 else ((1, 2 - more), (1, 2))
    if min(*kernel, *steps) < 1:
        raise ValueError("the padding is more than the kernel has room for")
    return [kernel, steps, _pair(asked, "dilation", 1), padding]


def _layer(
    family: Family, kernel: tuple[int, ...], sizes: dict[str, Any], asked: Asked, channels: int, axes: int
) -> nn.Module:
    if family in _CONVOLUTIONS:
        name = f"ConvTranspose{axes}d" if family == "transposed_convolution" else f"Conv{axes}d"
        groups = channels if family == "depthwise_convolution" else asked.get("groups", 1)
        made: nn.Module = getattr(nn, name)(channels, channels, kernel, groups=groups, **sizes)
        return made.eval()
    if family == "average_pool":
        if set(sizes.pop("dilation")) != {1}:
            raise ValueError("an average has no dilation")
        sizes["count_include_pad"] = bool(asked.get("count_include_pad", 0))
    elif family != "max_pool":
        raise ValueError(f"there is no builder for {family}")
    pool: nn.Module = getattr(nn, f"{'Max' if family == 'max_pool' else 'Avg'}Pool{axes}d")(
        kernel, ceil_mode=bool(asked.get("ceil_mode", 0)), **sizes
    )
    return pool


def _kernel(asked: Asked, plain: int) -> tuple[int, int]:
    """Height and width. A kernel that is high is wider than one element: else litert-torch lays it on its side."""
    if "kernel_area" in asked:
        height = _height(asked["kernel_area"])
        return height, asked["kernel_area"] // height
    if "kernel_h" in asked:
        return asked["kernel_h"], 2
    return _pair({"kernel": plain, **asked}, "kernel", 1)


def _height(area: int) -> int:
    """How high a kernel of this area is that is as square as can be."""
    return max(size for size in range(1, math.isqrt(area) + 1) if area % size == 0)


def _pair(asked: Asked, name: str, plain: int) -> tuple[int, int]:
    """What is asked on each axis; a number is for the last one."""
    value = asked.get(name, plain)
    return value if isinstance(value, tuple) else (plain, value)


def _resize(asked: Asked, axes: int, channels: int) -> tuple[nn.Module, torch.Tensor]:
    scale, flat = asked.get("scale", 2), asked.get("unit_axes", 1)
    scales = _pair({"scale": scale if flat or isinstance(scale, tuple) else (scale, scale)}, "scale", 1)
    before = (1 if flat and scales[0] == 1 else 4, 4)
    aligned = bool(asked.get("align_corners", 0))
    after = [(size - 1) * by + 1 if aligned else size * by for size, by in zip(before, scales, strict=True)]
    word = asked.get("mode", "nearest")
    mode = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}[axes], "cubic": "bicubic"}.get(word, word)
    options = {"align_corners": aligned} if word in ("linear", "cubic") else {}
    if math.prod(after) > _LARGE:
        raise ValueError("such a result takes long to compile")
    more = [1] * (axes - 2)
    layer = nn.Upsample(size=(*more, *after)[-axes:], mode=mode, **options)
    return layer, torch.randn(1, channels, *(*more, *before)[-axes:])


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)
