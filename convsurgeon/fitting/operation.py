"""One ATen operator as it ran: what it took and made, and its quantities. It knows no graph and no accelerator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from convsurgeon.targets import Family


class Operand(NamedTuple):
    """A tensor that an operator took or made: `constant` where it is computed from weights and numbers alone."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    constant: bool


Facts = dict[str, tuple[Any, ...]]
"""Values of quantities by name, of an operator's own kind."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator that ran: its family, what flowed in and out of it, its multiply-accumulates and its own quantities.

    `inputs` and `outputs` are activations, as the call had them that this operator is all of (a linear layer of rank
    3, though it ran on a matrix).
    """

    operator: str
    family: Family
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    macs: int
    facts: Facts

    def measure(self, quantity: str) -> Sequence[Any]:
        """The values of a quantity; none where it has no such quantity."""
        if quantity in self.facts:
            return self.facts[quantity]
        if quantity in _OF_VALUES:
            return tuple(_OF_VALUES[quantity]((*self.inputs, *self.outputs)))
        name, _, axis = quantity.rpartition("_")
        values = self.facts.get(name, ())
        if axis == "h":
            return values[-2:-1]
        return values[-1:] if axis == "w" else self._derived(quantity)

    def _derived(self, quantity: str) -> Sequence[Any]:
        if quantity == "operator":
            return (self.operator,)
        of, _, kind = quantity.rpartition("_")
        values = self.facts.get(of, ())
        if kind == "area":
            return (math.prod(values),) if values else ()
        if kind == "shape":
            return ("x".join(map(str, values)),) if values else ()
        if quantity == "unit_axes":
            sides = (self.facts.get(name) for name in (("input", "output") if "scale" in self.facts else _WINDOW))
            return (sum(axes == (1, 1) for axes in zip(*(side or () for side in sides), strict=False)),)
        one, minus, other = quantity.partition("_minus_")
        pairs = zip(self.facts.get(one, ()), self.facts.get(other, ()), strict=False)
        return tuple(a - b for a, b in pairs) if minus else ()


_WINDOW = ("kernel", "input")

_OF_VALUES: Mapping[str, Callable[[Sequence[Operand]], Iterable[Any]]] = {
    "rank": lambda values: (len(one.shape) for one in values),
    "batch": lambda values: (one.shape[0] for one in values if len(one.shape) > 1),
    "sizes": lambda values: (size for one in values if len(one.shape) > 1 for size in one.shape[1:]),
    "non_singleton": lambda values: (sum(size > 1 for size in one.shape) for one in values),
    "dtype": lambda values: (str(one.dtype).removeprefix("torch.") for one in values),
}


class Call(NamedTuple):
    """An overload with its arguments, each tensor an `Operand`, and what it made."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Operand, ...]

    def named(self) -> dict[str, Any]:
        """The arguments by name, with the schema's defaults for those that were left out."""
        schema = self.func._schema.arguments
        given = {one.name: one.default_value for one in schema if one.has_default_value()}
        given.update(zip((one.name for one in schema), self.args, strict=False))
        return {**given, **self.kwargs}


@dataclass(frozen=True, slots=True)
class _Read:
    family: Family
    macs: int = 0
    facts: Facts | None = None


def operation_of(call: Call, inputs: tuple[Operand, ...], outputs: tuple[Operand, ...], *, flat: bool) -> Operation:
    """What a call of ATen is; `flat` where it is a 1-D pool, which ATen computes with an axis of one more."""
    name = call.func.overloadpacket.__name__
    reader = _READERS.get(name) or (_batch_norm if "batch_norm" in name else _other)
    read = reader(call)
    facts = read.facts or {}
    if flat:
        facts = {key: value[-1:] if key in _SPATIAL else value for key, value in facts.items()}
    if read.family != "other" or name.startswith(_ALSO_GIVE_STATISTICS):
        outputs = outputs[:1]
    return Operation(name, read.family, inputs, outputs, read.macs, facts)


_ALSO_GIVE_STATISTICS = ("native_layer_norm", "native_group_norm", "_scaled_dot_product_")
"""Operators of which all results but the first are for the backward pass alone, as are indices of maxima."""


_SPATIAL = frozenset({"kernel", "stride", "dilation", "padding", "same", "input", "output"})


def _spread(values: Any, axes: int) -> tuple[int, ...]:
    """One value for each spatial axis, of a number, a list of one, or a list of all."""
    listed = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    return listed * axes if len(listed) == 1 else listed


def _convolution(call: Call) -> _Read:
    given = call.named()
    source, weight, (result,) = given["input"], given["weight"], call.outputs
    axes = len(weight.shape) - 2
    kernel, groups, transposed = weight.shape[2:], given["groups"], given["transposed"]
    taken, made = source.shape[-axes - 1], result.shape[-axes - 1]
    stepped = source if transposed else result
    depthwise = groups == taken > 1
    facts: Facts = {
        "kernel": kernel,
        "stride": _spread(given["stride"], axes),
        "dilation": _spread(given["dilation"], axes),
        "padding": _spread(given["padding"], axes),
        "input": source.shape[-axes:],
        "output": result.shape[-axes:],
        "groups": (groups,),
        "in_channels": (taken,),
        "out_channels": (made,),
        "rank": (axes + 2,),
    }
    facts["same"] = _same_transposed(facts) if transposed else _same(facts)
    if transposed:
        facts["output_padding"] = _spread(given["output_padding"], axes)
    family: Family = "transposed_convolution" if transposed else "convolution"
    macs = math.prod(stepped.shape) * weight.shape[1] * math.prod(kernel)
    return _Read("depthwise_convolution" if depthwise and not transposed else family, macs, facts)


def _same(facts: Facts) -> tuple[float, ...]:
    sides = zip(*(facts[name] for name in ("kernel", "stride", "dilation", "input")), strict=True)
    return tuple(
        _half(max((math.ceil(size / step) - 1) * step + (kernel - 1) * apart + 1 - size, 0))
        for kernel, step, apart, size in sides
    )


def _same_transposed(facts: Facts) -> tuple[float, ...]:
    sides = zip(*(facts[name] for name in ("kernel", "stride", "dilation")), strict=True)
    return tuple(_half(max((kernel - 1) * apart + 1 - step, 0)) for kernel, step, apart in sides)


def _half(size: int) -> float:
    return size / 2 if size % 2 else size // 2


def _pool(call: Call) -> _Read:
    given = call.named()
    axes = 3 if "3d" in call.func.overloadpacket.__name__ else 2
    kernel = _spread(given["kernel_size"], axes)
    source, result = _only(given), call.outputs[0]
    facts: Facts = {
        "kernel": kernel,
        "stride": _spread(given["stride"], axes) if given["stride"] else kernel,
        "dilation": _spread(given.get("dilation", 1), axes),
        "padding": _spread(given["padding"], axes),
        "input": source.shape[-axes:],
        "output": result.shape[-axes:],
        "in_channels": (source.shape[-axes - 1],),
        "ceil_mode": (int(given["ceil_mode"]),),
    }
    facts["same"] = _same(facts)
    if "count_include_pad" in given:
        facts["count_include_pad"] = (int(given["count_include_pad"]),)
        facts["divisor"] = (given["divisor_override"],) if given["divisor_override"] else ()
    return _Read("average_pool" if "count_include_pad" in given else "max_pool", 0, facts)


def _adaptive_pool(call: Call) -> _Read:
    """The window is that of a plain pool where the sizes divide; elsewhere windows differ, and there is none."""
    given = call.named()
    axes = len(given["output_size"])
    source, result = _only(given), call.outputs[0]
    facts: Facts = {
        "input": source.shape[-axes:],
        "output": result.shape[-axes:],
        "in_channels": (source.shape[-axes - 1],),
    }
    pairs = list(zip(facts["input"], facts["output"], strict=True))
    if all(size % made == 0 for size, made in pairs):
        facts["kernel"] = facts["stride"] = tuple(size // made for size, made in pairs)
        facts["padding"], facts["dilation"] = (0,) * axes, (1,) * axes
    return _Read("max_pool" if "max" in call.func.overloadpacket.__name__ else "average_pool", 0, facts)


def _mean(call: Call) -> _Read:
    given = call.named()
    shape = _only(given).shape
    reduced = given.get("dim")
    taken = tuple(shape[axis] for axis in reduced) if reduced else shape
    return _Read("mean", 0, {"reduced": taken})


def _resize(call: Call) -> _Read:
    given = call.named()
    source, (result,) = _only(given), call.outputs
    axes = len(source.shape) - 2
    before, after = source.shape[2:], result.shape[2:]
    aligned = bool(given.get("align_corners"))
    name = call.func.overloadpacket.__name__
    mode = next((word for key, word in _MODES.items() if key in name), "linear")
    scale = ((b - 1) / (a - 1) if aligned and a > 1 and b > 1 else b / a for a, b in zip(before, after, strict=True))
    facts: Facts = {
        "scale": tuple(int(one) if float(one).is_integer() else one for one in scale),
        "input": before,
        "output": after,
        "in_channels": (source.shape[1],),
        "mode": (mode,),
        "align_corners": (int(aligned),),
    }
    return _Read("resize", 0, facts) if axes else _other(call)


def _product(call: Call) -> _Read:
    left, right = (one for one in call.args if isinstance(one, Operand) and len(one.shape) >= 2)
    facts: Facts = {"in_channels": left.shape[-1:], "out_channels": right.shape[-1:]}
    return _Read("linear", math.prod(left.shape) * right.shape[-1], facts)


def _added_product(call: Call) -> _Read:
    return _product(call._replace(args=call.args[1:]))


def _attention(call: Call) -> _Read:
    query, key, value = call.args[:3]
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return _Read("other", scores * (query.shape[-1] + value.shape[-1]))


def _recurrent_layer(call: Call) -> _Read:
    """One direction of one layer: every step multiplies by the input's weight and by the state's."""
    source, of_input, of_state = call.args[:3]
    steps = math.prod(source.shape[:-1])
    return _Read("other", steps * (math.prod(of_input.shape) + math.prod(of_state.shape)))


def _batch_norm(call: Call) -> _Read:
    shape = call.args[0].shape
    return _Read("batch_norm", 0, {"in_channels": shape[1:2], "input": shape[2:]})


def _other(call: Call) -> _Read:
    return _Read("other")


def _only(given: Mapping[str, Any]) -> Operand:
    return next(one for one in given.values() if isinstance(one, Operand))


_MODES = {"nearest_exact": "nearest-exact", "nearest": "nearest", "cubic": "cubic"}
_RESIZES = (
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
)
_ADAPTIVE = ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
_POOLS = ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
_ATTENTION = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")

_READERS: Mapping[str, Callable[[Call], _Read]] = {
    "convolution": _convolution,
    "mean": _mean,
    "mm": _product,
    "bmm": _product,
    "addmm": _added_product,
    "baddbmm": _added_product,
    "mkldnn_rnn_layer": _recurrent_layer,
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_ADAPTIVE, _adaptive_pool),
    **dict.fromkeys(_RESIZES, _resize),
    **{f"_scaled_dot_product_{name}": _attention for name in _ATTENTION},
}
"""How each of ATen's operators is read; all others are told by their name and the values that they take and make."""
