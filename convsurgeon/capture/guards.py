"""What an exported program assumed of its inputs' shapes, as nodes of a graph that refuse other shapes."""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

from convsurgeon.capture.arguments import admit
from convsurgeon.errors import CaptureError

_INPUTS = ("tensors", "flat_args")
"""What torch calls the inputs: as `ByLeaves.forward` does, or by a word of its own where it exports strictly."""


def write_guards(guards: Sequence[str], inputs: Sequence[fx.Node]) -> None:
    """Write torch's guards, on ``L['tensors'][i].size()[j]``, behind the last node of the graph of `inputs`.

    Raises:
        CaptureError: one of them can't stand in a graph.
    """
    if not inputs:
        return
    tracer = fx.proxy.GraphAppendingTracer(inputs[0].graph)
    record = functools.partial(_recorded, tracer)
    functions: dict[str, Any] = SYMPY_INTERP
    known: dict[str, Any] = {name: record(function) for name, function in functions.items()}
    known |= {**_OPERATORS, "math": _Recorded(math, record), "torch": _Recorded(torch, record), "inf": math.inf}
    known["max"] = lambda *values: functools.reduce(record(torch.sym_max), values)
    known["min"] = lambda *values: functools.reduce(record(torch.sym_min), values)
    sized = [_Sized(fx.Proxy(node, tracer)) for node in inputs]
    known["L"] = dict.fromkeys(_INPUTS, sized)
    for guard in dict.fromkeys(guards):
        tree: Any = ast.fix_missing_locations(_Traceable().visit(ast.parse(guard.strip(), mode="eval")))
        words = in_words(guard, inputs)
        try:
            condition = eval(compile(tree, "<guard>", "eval"), known)
        except Exception as error:  # whatever torch's guards use that can't stand in a graph
            raise CaptureError(
                f"torch.export asks of the inputs that {words}, which a graph can't ask: {error}\n"
                "  capture='islands' keeps the model's own Python"
            ) from error
        if isinstance(condition, fx.Proxy):
            tracer.graph.call_function(admit, (condition.node, words))


def in_words(guard: str, inputs: Sequence[fx.Node]) -> str:
    """A guard with the inputs by their names: ``x.shape[2] >= 3``."""
    named = re.sub(rf"L\['(?:{'|'.join(_INPUTS)})'\]\[(\d+)\]", lambda found: inputs[int(found[1])].name, guard)
    return ast.unparse(ast.parse(named.replace(".size()", ".shape").strip(), mode="eval"))


def _recorded(tracer: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that becomes a node where it is called on what the graph computes."""

    def call(*args: Any) -> Any:
        if any(isinstance(arg, fx.Proxy) for arg in args):
            return tracer.create_proxy("call_function", function, args, {})
        return function(*args)

    return call


_OPERATORS = {"_and": operator.and_, "_or": operator.or_, "_not": operator.not_}
"""What stands for ``and``, ``or`` and ``not``."""


class _Traceable(ast.NodeTransformer):
    """Writes ``a and b``, ``a or b``, ``not a`` and ``a < b < c`` as calls: a proxy can't decide them."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        name = "_and" if isinstance(node.op, ast.And) else "_or"
        return self._joined(name, [self.visit(value) for value in node.values])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self._called("_not", [node.operand]) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1:
            return node
        values = [node.left, *node.comparators]
        pairs = [ast.Compare(values[i], [op], [values[i + 1]]) for i, op in enumerate(node.ops)]
        return self._joined("_and", list(pairs))

    def _joined(self, name: str, values: Sequence[ast.AST]) -> ast.AST:
        first, *rest = values
        for value in rest:
            first = self._called(name, [first, value])
        return first

    def _called(self, name: str, args: Sequence[Any]) -> ast.AST:
        return ast.Call(ast.Name(name, ast.Load()), list(args), [])


class _Recorded:
    """A module as torch's guards ask it, ``math.trunc`` or (from 2.14) ``torch.sym_max``: its functions recorded."""

    def __init__(self, module: Any, recorded: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._module, self._recorded = module, recorded

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._recorded(getattr(self._module, name))


class _Sized:
    """An input as torch's guards ask it: by ``size()`` and ``stride()``; each size is one node, however often."""

    def __init__(self, value: fx.Proxy) -> None:
        self._value = value
        self._sizes: dict[int, fx.Proxy] = {}

    def size(self) -> _Sized:
        return self

    def __getitem__(self, at: int) -> fx.Proxy:
        if at not in self._sizes:
            self._sizes[at] = self._value.size(at)
        return self._sizes[at]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)
