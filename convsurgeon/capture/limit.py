"""A limit on how long a piece of somebody else's code may take."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(BaseException):
    """Raised inside `time_limit`; no ordinary exception, so that what is interrupted doesn't handle it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, `OutOfTime` is raised after `seconds`, as soon as this thread runs Python again."""
    thread = threading.get_ident()
    lock, done, sent = threading.Lock(), False, False

    def interrupt() -> None:
        nonlocal sent
        with lock:
            if not done:
                sent = True
                _raise_in(thread)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            done = True
        if sent:
            _take_back(thread)


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))


def _take_back(thread: int) -> None:
    """End what may still be on its way to this thread.

    CPython 3.11 takes a null pointer for that nothing is, but goes on looking: a thread that a profiler or debugger is
    then set on never gets beyond its next call. So another one is sent, and caught.
    """
    try:
        _raise_in(thread)
        while True:
            time.sleep(0)
    except OutOfTime:
        pass
