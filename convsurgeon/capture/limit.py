"""A limit on how long an export may take."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

_SAFE_POINTS = ((fx.Graph, "create_node"), (ShapeEnv, "evaluate_expr"))
"""What every export calls again and again, and where an error is nothing unusual to torch."""


class OutOfTime(BaseException):
    """Raised inside `time_limit`; no ordinary exception, so that what is interrupted doesn't handle it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after `seconds`, as soon as this thread writes a graph or asks for a size.

    And whenever it does so again. Nothing else is limited: neither what forward computes otherwise, nor the solver at
    the end of torch.export. An exception sent into the thread from outside would end these too, but where it meets the
    C++ of torch it ends the process.
    """
    thread, deadline = threading.get_ident(), time.monotonic() + seconds
    points = [(owner, name, getattr(owner, name)) for owner, name in _SAFE_POINTS]

    def checked(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def in_time(*args: Any, **kwargs: Any) -> Any:
            if time.monotonic() > deadline and threading.get_ident() == thread:
                raise OutOfTime
            return function(*args, **kwargs)

        return in_time

    try:
        for owner, name, function in points:
            setattr(owner, name, checked(function))
        yield
    finally:
        deadline = math.inf  # for another thread's limit may put ours back
        for owner, name, function in points:
            setattr(owner, name, function)
