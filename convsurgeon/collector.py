"""Python's cyclic garbage collector, and why a conversion runs without it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Inside, no cyclic garbage is looked for.

    A conversion makes many small objects that live on. Each full collection on the way would walk all of them, and all
    of the model's, which was measured to cost more than the work itself; most garbage goes by its reference count.
    """
    was_enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_enabled:
            gc.enable()
