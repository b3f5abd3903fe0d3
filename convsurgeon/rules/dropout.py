"""Random operators that keep their random stream: as many numbers are drawn, in the same order, in both forms."""

from __future__ import annotations

import torch

from convsurgeon.axis import UnitAxis
from convsurgeon.rules.base import Arguments, Lifted, Refusal, rule


@rule("dropout", "alpha_dropout", "rrelu", "bernoulli", "rand_like", "randn_like")
def lift_elementwise_noise(drop: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """Noise per element of (N, C, L) is drawn in memory order, which the unit axis leaves alone.

    In a memory_format of its own the order is another.
    """
    if drop.memory_format not in (None, torch.contiguous_format, torch.preserve_format):
        return Refusal(f"memory_format={drop.memory_format} means another layout in 2-D")
    return Lifted("noise")


@rule("feature_dropout", "feature_alpha_dropout")
def lift_feature_noise(drop: Arguments, axis: UnitAxis) -> Lifted | Refusal:
    """Noise per channel, (N, C, 1), becomes (N, C, 1, 1): the same N * C numbers.

    Limits: the input is (N, C, L).
    """
    if drop.input is None:
        return Refusal("the rank of its input was not observed")
    if drop.input.rank != 3:
        return Refusal(
            f"its input has rank {drop.input.rank}; (N, C, L) is lifted, whose channels are axis 1 in both forms"
        )
    return Lifted("feature_noise")
