"""Measures the steps of a conversion."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds by the name of the step that they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """A step ends here, and the next begins."""
        now = time.perf_counter()
        self.seconds[name], self._last = self.seconds.get(name, 0.0) + now - self._last, now
