"""What is known of a class of the user's, for as long as there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

R = TypeVar("R")


def remembered(function: Callable[[Any], R]) -> Callable[[Any], R]:
    """`functools.cache` for a function of one class, which lets the class go.

    A class made in a call holds all that it closes over, and a cache would hold the class for ever.
    """
    known: WeakKeyDictionary[Any, R] = WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(one: Any) -> R:
        if one not in known:
            known[one] = function(one)
        return known[one]

    return remembering
