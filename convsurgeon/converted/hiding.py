"""Generated code of models with arguments such as ``device`` or ``slice``, which hide what the code means by the name.

torch.fx calls the value ``device_1``, but the parameter has the name that it was given, and may be passed by.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable

from torch import fx
from torch.fx.graph import _custom_builtins

Transform = Callable[[list[str]], list[str]]


def restoring_names(graph: fx.Graph) -> Callable[[Transform | None], Transform]:
    """What ``graph.on_generate_code`` takes, for code that gives a name back its meaning once the argument is read."""
    read = {
        f"{node} = {name}\n": name
        for node in graph.find_nodes(op="placeholder")
        if (name := str(node.target).lstrip("*")) in _custom_builtins or hasattr(builtins, name)
    }

    def transformed(lines: list[str]) -> list[str]:
        code = "".join(line for line in lines if line not in read)
        maybe = any(re.search(rf"\b{name}\b", code) for name in read.values())
        used = _names(code) if maybe else ()  # to parse it takes far longer
        return [line + _statement(read[line]) if read.get(line) in used else line for line in lines]

    return lambda before: transformed if before is None else lambda lines: transformed(before(lines))


def _names(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _statement(name: str) -> str:
    """What makes a name mean what torch.fx does by it."""
    known = _custom_builtins.get(name)
    return f"{known.import_str if known else f'from builtins import {name}'}\n"
