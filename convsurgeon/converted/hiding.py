"""Generated code of models with names that hide what the code means by them, or that no code may have.

An argument such as ``device`` is a value ``device_1`` to torch.fx, but the parameter has the name that it was
given, and may be passed by. A submodule may be called ``in`` or ``global``, as one of an ``nn.ModuleDict``.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Callable, Mapping

from torch import fx
from torch.fx.graph import _custom_builtins, _format_target

Transform = Callable[[list[str]], list[str]]


def restoring_names(graph: fx.Graph) -> Callable[[Transform | None], Transform]:
    """What ``graph.on_generate_code`` takes, for code that gives a name back its meaning once the argument is read.

    Names that are keywords of Python's are read by ``getattr``.
    """
    read = {
        f"{node} = {name}\n": name
        for node in graph.find_nodes(op="placeholder")
        if (name := str(node.target).lstrip("*")) in _custom_builtins or hasattr(builtins, name)
    }

    spelled = {
        node.name: (_format_target("self", str(node.target)), of_target("self", str(node.target)))
        for node in graph.nodes
        if node.op in ("call_module", "get_attr") and any(map(keyword.iskeyword, str(node.target).split(".")))
    }

    def transformed(lines: list[str]) -> list[str]:
        if spelled:
            lines = [rewritten(line, spelled) for line in lines]
        code = "".join(line for line in lines if line not in read)
        maybe = any(re.search(rf"\b{name}\b", code) for name in read.values())
        used = _names(code) if maybe else ()  # to parse it takes far longer
        return [line + _statement(read[line]) if read.get(line) in used else line for line in lines]

    return lambda before: transformed if before is None else lambda lines: transformed(before(lines))


def of_target(base: str, target: str) -> str:
    """Code that reads a qualified name from `base`."""
    for atom in target.split("."):
        base = f"getattr({base}, {atom!r})" if keyword.iskeyword(atom) else _format_target(base, atom)
    return base


def rewritten(line: str, written: Mapping[str, tuple[str, str]]) -> str:
    """A line of generated code, which begins with the node's name; `written`: by it, what to write for what stands."""
    name, assigns, value = line.partition(" = ")
    before, after = written.get(name.partition(" ")[0], ("", ""))
    return f"{name}{assigns}{after}{value.removeprefix(before)}" if before and value.startswith(before) else line


def _names(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _statement(name: str) -> str:
    """What makes a name mean what torch.fx does by it."""
    known = _custom_builtins.get(name)
    return f"{known.import_str if known else f'from builtins import {name}'}\n"
