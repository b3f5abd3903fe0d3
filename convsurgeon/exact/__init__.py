"""Exact rewrites of converted graphs, which fit them to what a target can compute; one family a file."""

from convsurgeon.exact import (
    channels,
    dilation,
    groups,
    kernels,
    linear,
    norm,
    padding,
    pooling,
    products,
    stride,
    transposed,
)
from convsurgeon.exact.base import REWRITES, Cost, Left, Notes, Rewrite, Rewritten, Wanted
from convsurgeon.exact.passes import rewrite_exactly, rewrite_parts, wanted_of

__all__ = [
    "REWRITES",
    "Cost",
    "Left",
    "Notes",
    "Rewrite",
    "Rewritten",
    "Wanted",
    "channels",
    "dilation",
    "groups",
    "kernels",
    "linear",
    "norm",
    "padding",
    "pooling",
    "products",
    "rewrite_exactly",
    "rewrite_parts",
    "stride",
    "transposed",
    "wanted_of",
]
