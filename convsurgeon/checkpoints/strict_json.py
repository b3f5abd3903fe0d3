"""Reads JSON that a stranger wrote, and refuses what another reader may read otherwise."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from convsurgeon.errors import CheckpointError

LARGEST = 100_000_000
"""How many bytes of JSON are read at all: the limit that the safetensors format has for its headers."""

_DIGITS = 20
"""Of the largest integer of 64 bits."""
_HALF = re.compile("[\ud800-\udfff]")
"""A surrogate: half a character of UTF-16, which an escape can spell and UTF-8 can't hold."""


def read_object(text: bytes) -> dict[str, Any]:
    """The object that `text` holds.

    Raises:
        ValueError: it is not UTF-8, not JSON, not one object, or one of its objects has a key twice; a number is NaN,
            infinite, or an integer that 64 bits can't hold by far; a key or value is not Unicode.
        RecursionError: it is nested too deeply.
    """
    try:
        content = json.loads(
            text.decode(), object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start} of its JSON") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"its JSON is {content!r:.200}; expected an object")
    return content


@contextmanager
def checking(name: str, kind: str) -> Iterator[None]:
    """What is found wrong inside is said of the file `name`, which should be a sound `kind`.

    Raises:
        CheckpointError: in place of a ValueError or RecursionError.
    """
    try:
        yield
    except (ValueError, RecursionError) as error:
        fault = error if isinstance(error, ValueError) else "its JSON is nested too deeply"
        raise CheckpointError(f"{name} is not a sound {kind}: {fault}\n  download it again, or save it anew") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, times),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r:.200} stands {times} times in one object of its JSON")
    for text in (one for pair in pairs for one in pair if isinstance(one, str)):
        if _HALF.search(text):
            raise ValueError(f"{text!r:.200} in its JSON is not Unicode")
    return found


def _integer(digits: str) -> int | float:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits in its JSON")
    return int(digits) if digits != "-0" else -0.0  # no integer: the safetensors library reads it so too


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} in its JSON")
