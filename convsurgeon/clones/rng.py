"""The state of every random stream that a model may draw from: torch's, Python's and NumPy's."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class RandomState:
    """A snapshot that can be restored, and compared to say whether something drew."""

    torch_cpu: torch.Tensor
    torch_cuda: tuple[torch.Tensor, ...]
    python: Any
    numpy: Any

    @classmethod
    def capture(cls) -> RandomState:
        """The streams as they stand; CUDA and NumPy only where they are in use."""
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        numpy = sys.modules.get("numpy")
        return cls(torch.get_rng_state(), cuda, random.getstate(), numpy.random.get_state() if numpy else None)

    def restore(self) -> None:
        """Put every stream back to this state."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(list(self.torch_cuda))
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)

    def same_stream(self, other: RandomState) -> bool:
        """Whether as much was drawn from every stream in both."""
        return (
            torch.equal(self.torch_cpu, other.torch_cpu)
            and len(self.torch_cuda) == len(other.torch_cuda)
            and all(torch.equal(a, b) for a, b in zip(self.torch_cuda, other.torch_cuda, strict=True))
            and self.python == other.python
            and _same_numpy(self.numpy, other.numpy)
        )


def _same_numpy(one: Any, other: Any) -> bool:
    """Whether two states of NumPy's global stream are the same; one that was only just imported tells nothing."""
    return (
        one is None
        or other is None
        or all(bool((a == b).all() if hasattr(a, "all") else a == b) for a, b in zip(one, other, strict=True))
    )


@contextmanager
def preserved_random_state() -> Iterator[RandomState]:
    """Whatever is drawn inside, the streams go on afterwards as if nothing had been."""
    state = RandomState.capture()
    try:
        yield state
    finally:
        state.restore()
