"""A limit on how long a piece of somebody else's code may take."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(BaseException):
    """Raised inside `time_limit`; no ordinary exception, so that what is interrupted doesn't handle it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after `seconds`, as soon as this thread runs Python again."""
    thread = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(OutOfTime))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            done = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that is still on its way
        timer.cancel()
