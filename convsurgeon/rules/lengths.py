"""Lengths that are 1 at every size of the input: which operators make one, and which leave the length as it is."""

from __future__ import annotations

from convsurgeon.rules.base import Arguments, listed_axes
from convsurgeon.runs.observe import Value

_ONE = (1, (1,), [1])

_POOLS = ("adaptive_avg_pool1d", "adaptive_max_pool1d")

_REDUCTIONS = ("sum", "mean", "nansum", "nanmean", "amax", "amin", "logsumexp", "var", "std", "norm", "vector_norm")

_KEEP = (
    *("identity", "clone", "detach", "detach_", "contiguous", "to", "prelu"),
    *("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu"),
    *("batch_norm", "instance_norm", "group_norm", "local_response_norm", "layer_norm", "rms_norm"),
)


def makes_one_long(operator: str, arguments: Arguments) -> bool:
    """Whether the last axis of what the operator returns has one element, whatever it is given.

    So it is behind an adaptive pool to 1, and behind a reduction over the length that keeps its axis.
    """
    if operator in _POOLS:
        return arguments.output_size in _ONE
    if operator not in _REDUCTIONS or arguments.keepdim is not True or not isinstance(arguments.input, Value):
        return False
    dims, rank = listed_axes(arguments.dim), arguments.input.rank
    return dims is not None and rank - 1 in [dim % rank for dim in dims]


def keeps_length(operator: str, arguments: Arguments) -> bool:
    """Whether the operator returns as many elements along the last axis as its input has."""
    if operator == "conv1d" and isinstance(arguments.weight, Value) and arguments.weight.shape[-1] == 1:
        return arguments.stride in _ONE and arguments.padding in (0, (0,), [0], "valid", "same")
    return operator in _KEEP
