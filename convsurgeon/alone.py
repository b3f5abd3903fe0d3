"""One at a time: what is set aside for a conversion is one per process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from torch.nn.utils import parametrize

P = ParamSpec("P")
R = TypeVar("R")

_LOCK = threading.RLock()


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which waits until no other thread is in one that is `alone`, outside any ``parametrize.cached()``.

    Tracing, and running models without a trace, replace what belongs to the process (``nn.Module.__call__``, the
    default dtype, random streams, filters of warnings) and put back what they found: two at once would each put back
    what the other had put there, for good.
    """

    @functools.wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK, _without_cached_weights():
            return function(*args, **kwargs)

    return waiting


@contextmanager
def _without_cached_weights() -> Iterator[None]:
    """Inside, a caller's ``parametrize.cached()`` doesn't count.

    It keeps a weight by the address of its module: proxies would stay in it, and be found by whatever module is next
    at that address; and a program would hold what was computed before in the place of a computed weight.
    """
    cache: Any = parametrize
    kept = cache._cache_enabled, cache._cache
    try:
        cache._cache_enabled, cache._cache = 0, {}
        yield
    finally:
        cache._cache_enabled, cache._cache = kept
