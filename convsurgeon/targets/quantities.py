"""What a limit can be about: quantities of an operator, by name; how they are measured, this can't know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Family = Literal[
    "convolution",
    "depthwise_convolution",
    "transposed_convolution",
    "max_pool",
    "average_pool",
    "mean",
    "resize",
    "linear",
    "batch_norm",
    "other",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""Families of operators; "any" in a profile stands for all of them."""

_PER_AXIS = {
    "kernel": "size of the kernel or window",
    "stride": "step",
    "dilation": "step between the elements of a kernel",
    "padding": "zeros (in a maximum, nothing) at each end",
    "same": "padding that makes the result the input by the stride (transposed: times it), on average of both ends",
    "scale": "size of a resize's result by that of its input (align_corners: both less one)",
    "input": "size of the input",
    "output": "size of the result",
}
"""Quantities with one value for each spatial axis; ``_h`` and ``_w`` after the name ask for one of the last two."""

NUMBERS: Mapping[str, str] = {
    **{name: f"{text}, on every spatial axis" for name, text in _PER_AXIS.items()},
    **{f"{name}_h": f"{text}, on the last axis but one" for name, text in _PER_AXIS.items()},
    **{f"{name}_w": f"{text}, on the last axis" for name, text in _PER_AXIS.items()},
    "kernel_area": "product of the kernel's sizes",
    "input_area": "product of the input's spatial sizes",
    "padding_minus_kernel": "padding less kernel, on every spatial axis",
    "padding_minus_same": "padding less what `same` tells, on every spatial axis",
    "stride_minus_kernel": "stride less kernel, on every spatial axis",
    "output_padding": "elements added at the end of a transposed convolution's result, on every spatial axis",
    "unit_axes": "how many spatial axes have a kernel and an input (of a resize, an input and a result) of one element",
    "groups": "groups of a convolution",
    "in_channels": "channels that a convolution, pool or resize takes, or features of a linear layer",
    "out_channels": "channels that a convolution makes, or features of a linear layer",
    "ceil_mode": "1 if a pool rounds the size of its result up, else 0",
    "count_include_pad": "1 if an average counts padding, else 0",
    "divisor": "what an average divides by, where it isn't the window",
    "align_corners": "1 if a resize aligns corners, else 0",
    "reduced": "sizes of the axes that a mean is taken over",
    "reduced_area": "product of these",
    "rank": "axes of every value that comes in or goes out; of a convolution, those of its weight",
    "batch": "size of the first axis, of every value of two axes or more",
    "sizes": "sizes of all axes but the first, of every value of two axes or more",
    "non_singleton": "how many axes of a value are larger than one, of every value",
}
"""Quantities that are whole numbers (`scale` and `same` may be fractions)."""

WORDS: Mapping[str, str] = {
    "kernel_shape": "the kernel as a word, such as 1x3",
    "mode": "how a resize interpolates: nearest, nearest-exact, linear or cubic",
    "dtype": "dtype of every value that comes in or goes out, such as float32",
    "operator": "ATen's name of the operator, such as softmax",
}
"""Quantities that are words."""

QUANTITIES: Mapping[str, str] = {**NUMBERS, **WORDS}
