"""Where a rewrite's result lies otherwise in memory than the original's, and something may see that."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import fx

from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.exact.base import REWRITES
from convsurgeon.exact.shapes import name_in
from convsurgeon.exact.surroundings import writes

Otherwise = Literal["cut", "turned"]
"""How a result isn't contiguous: it has gaps, or its channels vary fastest."""

_CUT = ("getitem", "slice")
_TURNED = ("transpose", "permute", "unsqueeze")
"""Operators that rewrites end in."""

_ANY_LAYOUT = frozenset(
    {"pointwise", "conv1d", "conv_transpose1d", "convolution", "batch_norm", "pad", "pad1d", "cat", "mean", "sum"}
    | {"max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d", "linear", "interpolate"}
)
"""Rules of operators that compute the same from whatever layout; what they make has no gaps, if it isn't in place."""

_FRESH = "linear"
"""The one of these whose result is contiguous where channels vary fastest in what it takes."""

_QUERIES = frozenset({"size", "dim", "numel", "sym_size"})
"""Rules of operators that tell of a value what is the same in every layout."""

_BLIND = _ANY_LAYOUT | _QUERIES


def lies_otherwise(result: fx.Node, new: Collection[fx.Node], module: ConvertedModule) -> Otherwise | None:
    """How the result of a rewrite that wrote these nodes lies, if not as the original's does; None if it does.

    Pads and convolutions lie as what they take.
    """
    if name_in(module, result) in _CUT:
        return "cut"
    node = result
    while node in new:
        name = name_in(module, node)
        if name in _TURNED:
            return "turned"
        if name != "pad" and "conv" not in name.lower():
            return None
        node = node.all_input_nodes[0]
    return None


def is_seen(value: fx.Node, lies: Otherwise, module: ConvertedModule) -> bool:
    """Whether something behind may look at how the value lies, or at what lies alike for that."""
    alike, left = {value}, [value]
    while left:
        for user in left.pop().users:
            origin = user.meta.get(ORIGIN)
            if origin is None or (origin.rule not in _BLIND and origin.rule not in REWRITES):
                return True
            keeps = origin.rule != _FRESH if lies == "turned" else writes(user, module)
            if keeps and origin.rule not in _QUERIES and user not in alike:
                alike.add(user)
                left.append(user)
    return False
