"""Calls that can be made again and again, and compute the same each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convsurgeon.clones.cloning import copied
from convsurgeon.runs.given import Given
from convsurgeon.samples import Sample


def repeated(run: Callable[..., Any], sample: Sample) -> Callable[[], None]:
    """A call of `run` without gradients, on tensors of its own, and on new ones each time if it writes to them.

    To see that, it is called once.
    """
    inputs = sample.map(copied)
    given = Given(inputs)
    with torch.no_grad():
        run(*inputs.args, **inputs.kwargs)
    kept = None if given.written() else inputs

    def call() -> None:
        fresh = sample.map(copied) if kept is None else kept
        with torch.no_grad():
            run(*fresh.args, **fresh.kwargs)

    return call
