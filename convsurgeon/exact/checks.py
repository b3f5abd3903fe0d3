"""What stands in rewritten graphs to refuse what they weren't made for."""

from __future__ import annotations

import torch


def of_length(value: torch.Tensor, length: int, axis: int) -> torch.Tensor:
    """`value`, if its length is the one that a pool was fixed to.

    Raises:
        ValueError: it is another.
    """
    if value.shape[axis] != length:
        raise ValueError(
            f"this value has length {value.shape[axis]}, and the exact rewrite fix_pool fixed it to {length}, that of "
            "the sample; convert the model again with a sample of the length that you need, or without fix_pool"
        )
    return value
