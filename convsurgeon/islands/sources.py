"""What the methods of a class say that they do with the modules below ``self``. Knows classes, and no objects.

A run shows only the branches that it takes; what a cache or a streaming step does with a layer is in the source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from convsurgeon.clones.remembering import remembered

_HARMLESS = {"dtype", "device", "requires_grad", "requires_grad_", "is_cuda", "grad"}
"""What may be asked of a weight whatever its shape."""

_BEFORE_USE = ("__init__", "_init", "init_", "reset_")
"""The beginnings of the names of methods that run before a model is used."""

_GEOMETRY = {"kernel_size", "stride", "padding", "dilation", "output_padding", "_reversed_padding_repeated_twice"}
"""The attributes of a convolution that are others in 2-D."""

_MEMBERS = {"items", "values", "children", "named_children", "modules", "named_modules"}
"""The methods by which one goes through what a module holds."""

EACH = "*"
"""In a place: whatever stands one level below."""

LISTED = "[]"
"""At the end of a place: a list, or anything else that isn't a module, which holds what stands there."""

Place = tuple[str, ...]
"""Where a module is, seen from ``self``: ("blocks", EACH, "conv") for the `b.conv` of ``for b in self.blocks``."""

What = Literal["weight", "geometry", "call", "super"]


@dataclass(frozen=True, slots=True)
class Mention:
    """What one method does with the module at a place.

    `by_forward`: the method is ``forward``, which a trace follows; `with_forward`: it is that, or forward calls it.
    """

    what: What
    place: Place
    by_forward: bool
    with_forward: bool


@remembered
def mentions_in(kind: Any) -> frozenset[Mention]:
    """What the methods of a class do with modules, its own and those that it inherits from outside of torch."""
    methods = [one for base in kind.__mro__ for one in _methods_of(base)]
    traced = _called_by_forward(methods)
    return frozenset(
        Mention(what, place, method.name == "forward", method.name in traced)
        for method in methods
        if not method.name.startswith(_BEFORE_USE)
        for what, place in _done_in(method)
    )


def _methods_of(base: type) -> Iterator[ast.FunctionDef]:
    if base.__module__.startswith("torch.") or base is object:
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return  # no source: what runs is still recorded
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _called_by_forward(methods: list[ast.FunctionDef]) -> set[str]:
    """The names of the methods that ``forward`` calls, itself or through others."""
    calls: dict[str, set[str]] = {}
    for method in methods:
        calls.setdefault(method.name, set()).update(n.attr for n in ast.walk(method) if isinstance(n, ast.Attribute))
    found, new = set[str](), {"forward"}
    while new:
        found |= new
        new = {name for one in new for name in calls.get(one, ()) if name in calls} - found
    return found


def _done_in(method: ast.FunctionDef) -> Iterator[tuple[What, Place]]:
    bound = _bound_in(method)
    asked = {id(node.value) for node in ast.walk(method) if isinstance(node, ast.Attribute) and node.attr in _HARMLESS}
    asked |= {id(node.func) for node in ast.walk(method) if isinstance(node, ast.Call)}  # a tensor's ``stride()``
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and node.attr in {"weight", *_GEOMETRY} and id(node) not in asked:
            for place in _places(node.value, bound):
                yield ("weight" if node.attr == "weight" else "geometry"), place
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "super":
                yield "super", ()
            for place in _places(node.func, bound):
                yield "call", place


_Bound = dict[str, set[Place]]


def _bound_in(method: ast.FunctionDef) -> _Bound:
    """The places that local names may stand for."""
    bound: _Bound = {}
    for _ in range(2):  # a name may be bound by another, which the walk comes to later
        for node in ast.walk(method):
            if isinstance(node, (ast.For, ast.comprehension)):
                _bind(node.target, _members(node.iter, bound), bound)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    unpacked = isinstance(target, (ast.Tuple, ast.List))
                    _bind(target, (_members if unpacked else _mentioned)(node.value, bound), bound)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
                _bind(node.target, _mentioned(node.value, bound), bound)
    return bound


def _bind(target: ast.expr, places: set[Place], bound: _Bound) -> None:
    """Bind every name in `target`; each of several may be any of the places, or what a pair among them holds."""
    if not isinstance(target, ast.Name):
        places = {place[: place.index(LISTED)] if LISTED in place else place for place in places}
    for node in ast.walk(target) if places else ():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, set()).update(places)


def _places(node: ast.expr, bound: _Bound) -> set[Place]:
    """What an expression stands for, where that is one module: ``self.convs[0].inner``."""
    if isinstance(node, ast.Name):
        return {()} if node.id == "self" else bound.get(node.id, set())
    if isinstance(node, ast.Attribute):
        return {(*place, node.attr) for place in _places(node.value, bound)}
    if isinstance(node, ast.Subscript):
        found = _places(node.value, bound)
        return found if isinstance(node.slice, ast.Slice) else set(map(_member, found))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        return set(map(_member, _places(node.args[0], bound))) if node.args else set()
    return set()


def _member(place: Place) -> Place:
    return place[:-1] if place[-1:] == (LISTED,) else (*place, EACH)


def _members(node: ast.expr, bound: _Bound) -> set[Place]:
    return set(map(_member, _mentioned(node, bound)))


def _mentioned(node: ast.expr, bound: _Bound) -> set[Place]:
    """What an expression is made of, as ``zip(self.convs, self.norms)``; what a module returned is made of none."""
    found = _places(node, bound)
    if found:
        return found
    if isinstance(node, ast.Call) and _places(node.func, bound):
        held = isinstance(node.func, ast.Attribute) and node.func.attr in _MEMBERS
        return _places(node.func.value, bound) if held and isinstance(node.func, ast.Attribute) else set()
    if isinstance(node, ast.Starred):
        return _members(node.value, bound)
    inner = [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
    mentioned = {place for one in inner for place in _mentioned(one, bound)}
    return {(*place, LISTED) for place in mentioned} if isinstance(node, _LISTS) else mentioned


_LISTS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
