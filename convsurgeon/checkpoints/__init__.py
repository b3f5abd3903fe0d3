"""Converts checkpoints on disk: weights move between the original's form and the converted model's, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from convsurgeon.weight_map import Direction

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was done: the layout that was found, how many tensors there are, which moved, and what was copied as it is."""

    layout: Literal["safetensors", "torch", "distributed", "folder"]
    target: str
    direction: Direction
    tensors: int
    moved: tuple[str, ...]
    copied: tuple[str, ...] = ()
