"""Puts a converted module back where a change of it stops halfway. Knows no rewrite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from convsurgeon.converted.frozen_graph import copied_graph
from convsurgeon.converted.module import ConvertedModule


@contextmanager
def all_or_nothing(module: ConvertedModule) -> Iterator[None]:
    """Inside, its graph and what its tree holds may change; where that raises, both are put back as they were.

    Tensors are put back, not what they hold, so that none has to be copied: they may be replaced, but not written.
    """
    graph = copied_graph(module.graph)
    attributes = [vars(one) for one in module.modules()]
    registries = [value for held in attributes for value in held.values() if isinstance(value, (dict, set))]
    before: list[tuple[Any, Any]] = [(held, held.copy()) for held in (*attributes, *registries)]
    try:
        yield
    except BaseException:  # an interruption, too, would leave half of it
        for held, contents in before:
            held.clear()
            held.update(contents)
        module.graph = graph
        raise
