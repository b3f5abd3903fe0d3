"""Who reads a convolution's weight or geometry from outside, as the source says: ``self.conv.weight.squeeze(1)``.

A run shows only the branches that it takes; what a cache or a streaming step does with a weight is in the source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from convsurgeon.remembering import remembered

_HARMLESS = {"dtype", "device", "requires_grad", "requires_grad_", "is_cuda", "grad"}
"""What may be asked of a weight whatever its shape."""

_BEFORE_USE = ("__init__", "_init", "init_", "reset_")
"""The beginnings of the names of methods that run before a model is used."""


_GEOMETRY = {"kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice"}
"""The attributes of a convolution that are others in 2-D."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What methods read of convolutions below them: (reader's path, convolution's path), by what is read."""

    weights: frozenset[tuple[str, str]]
    geometry: frozenset[tuple[str, str]]


def reads_of(root: nn.Module) -> Reads:
    """What the methods of every module say they read of the convolutions below it."""
    weights: set[tuple[str, str]] = set()
    geometry: set[tuple[str, str]] = set()
    for path, module in root.named_modules(remove_duplicate=False):
        kind: Any = type(module)
        for child, attribute in _named_in(kind):
            inner = getattr(module, child, None)
            for below, holder in inner.named_modules() if isinstance(inner, nn.Module) else ():
                if isinstance(holder, (nn.Conv1d, nn.ConvTranspose1d)):
                    name = ".".join(part for part in (path, child, below) if part)
                    (weights if attribute == "weight" else geometry).add((path, name))
    return Reads(frozenset(weights), frozenset(geometry))


@remembered
def _named_in(kind: Any) -> frozenset[tuple[str, str]]:
    """(child, attribute) for each ``self.child...attribute`` in the methods of a class."""
    found: set[tuple[str, str]] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch.") or base is object:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError, IndentationError):
            continue  # no source: what runs is still recorded
        for method in ast.walk(tree):
            if isinstance(method, ast.FunctionDef) and not method.name.startswith(_BEFORE_USE):
                found.update(_reads_in(method))
    return frozenset(found)


def _reads_in(method: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    asked = {id(node.value) for node in ast.walk(method) if isinstance(node, ast.Attribute) and node.attr in _HARMLESS}
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and node.attr in {"weight", *_GEOMETRY} and id(node) not in asked:
            child = _child_of_self(node.value)
            if child is not None:
                yield child, node.attr


def _child_of_self(node: ast.expr) -> str | None:
    """``conv`` of ``self.conv``, ``self.conv.inner`` and ``self.conv[0]``."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            return node.attr
        node = node.value
    return None
