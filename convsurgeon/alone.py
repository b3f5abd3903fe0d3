"""One at a time: what is set aside for a conversion is one per process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_LOCK = threading.RLock()


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which waits until no other thread is in one that is `alone`.

    Tracing, and running models without a trace, replace what belongs to the process (``nn.Module.__call__``, the
    default dtype, random streams, filters of warnings) and put back what they found: two at once would each put back
    what the other had put there, for good.
    """

    @functools.wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            return function(*args, **kwargs)

    return waiting
