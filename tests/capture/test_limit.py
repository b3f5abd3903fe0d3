"""What runs too long is interrupted, and nothing of the limit is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from convsurgeon.capture.limit import OutOfTime, time_limit


def _forever() -> None:
    while True:
        time.sleep(0.01)


def _swallowed() -> None:
    """Handles what interrupts it, as code with a bare except does."""
    try:
        _forever()
    except BaseException:
        return


def test_a_limit_interrupts() -> None:
    with pytest.raises(OutOfTime), time_limit(0.05):
        _forever()


@pytest.mark.parametrize("body", [time.time, _swallowed])
def test_a_limit_ends(body: Callable[[], object]) -> None:
    with time_limit(0.05):
        body()
    time.sleep(0.1)


def test_what_a_limit_sent_is_taken_back() -> None:
    for _ in range(20):
        try:
            with time_limit(0.01):
                time.sleep(0.01)
        except OutOfTime:
            pass
        sum(range(10_000))


def test_a_profiler_runs_after_a_limit() -> None:
    """In a process of its own: where the interpreter still looks for an exception, the first call under one hangs."""
    code = """if True:
        import sys
        from convsurgeon.capture.limit import OutOfTime, time_limit
        seen = []
        for seconds in (60, 0.05):
            try:
                with time_limit(seconds):
                    while seconds < 1:
                        pass
            except OutOfTime:
                pass
            sys.setprofile(lambda *event: seen.append(event))
            abs(-1)
            (lambda: 0)()
            sys.setprofile(None)
        assert len(seen) > 4
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
