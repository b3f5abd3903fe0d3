"""What a graph takes and returns where that is more than tensors: containers, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class _Structure:
    """Puts leaves together."""

    spec: pytree.TreeSpec

    def __call__(self, leaves: Any) -> Any:
        return pytree.tree_unflatten(leaves, self.spec)

    def __reduce__(self) -> Any:
        """As an example: torch warns where a spec itself is copied or pickled."""
        return _structure_of, (example_of(self.spec),)


def example_of(spec: pytree.TreeSpec) -> Any:
    """Something of the structure of `spec`, with tensors of no elements in it."""
    return pytree.tree_unflatten([torch.empty(0)] * spec.num_leaves, spec)


def _structure_of(example: Any) -> _Structure:
    return _Structure(pytree.tree_structure(example))


class Structured(fx.graph.CodeGen):
    """Generates a ``forward`` that returns its leaves in the structure of `spec`, such as a dataclass."""

    def __init__(self, spec: pytree.TreeSpec) -> None:
        super().__init__()
        self._structure = _Structure(spec)

    def process_outputs(self, outputs: Any) -> Any:
        return self._structure(outputs)

    def additional_globals(self) -> list[tuple[str, Any]]:
        return [*super().additional_globals(), ("_structured", self._structure)]

    def generate_output(self, output_args: Any, *, descs: Sequence[str] | None = None, **options: Any) -> str:
        written = options.get("repr_fn") or repr
        return f"return _structured({written(output_args)})"


def named_leaves(value: Any) -> list[tuple[str, Any]]:
    """The leaves of what a model returns, in order, each with its place: ``['y'][0]``.

    By number, where a class is registered with torch's pytree without names for what it holds.
    """
    try:
        return [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(value)[0]]
    except ValueError:
        return [(f"[{at}]", leaf) for at, leaf in enumerate(pytree.tree_leaves(value))]


def checked_leaves(value: Any, spec: str, name: str) -> list[Any]:
    """The leaves of an argument that is a container; stands in captured graphs.

    Raises:
        ValueError: its structure isn't the one that the graph was captured for.
    """
    leaves, given = pytree.tree_flatten(value)
    if torch.compiler.is_compiling():
        return leaves
    if pytree.treespec_dumps(given) != spec:
        raise ValueError(
            f"argument '{name}' has another structure than when the model was captured: now {given}; "
            "convert the model again with a sample that gives it"
        )
    return leaves
