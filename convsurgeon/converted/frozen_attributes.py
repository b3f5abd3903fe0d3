"""What a graph holds of a module's plain attributes: to set one later changes nothing, and that is told."""

from __future__ import annotations

import dis
import inspect
import types
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from convsurgeon.clones.remembering import remembered

FROZEN = "_convsurgeon_frozen"
_PLAIN = (bool, int, float, complex, str, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def frozen_attributes(module: nn.Module) -> dict[str, Any]:
    """The flags, numbers, names and tuples of these on `module` that its class reads in forward, with their values."""
    if FROZEN in vars(module):
        known: dict[str, Any] = vars(module)[FROZEN]
        return known
    held = {
        name: inspect.getattr_static(module, name, ...) for name in _read_by_forward(type(module)) - _OF_EVERY_MODULE
    }
    return {name: value for name, value in held.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if type(value) is tuple else isinstance(value, _PLAIN)


def tell_if_frozen(module: nn.Module, name: str, value: Any) -> None:
    """Warn where an attribute is being set that the module's graph holds at another value.

    It is called by ``__setattr__``, and the warning is of the line that calls that.
    """
    frozen = vars(module).get(FROZEN, {})
    if name in frozen and (type(value) is not type(frozen[name]) or value != frozen[name]):
        kind: str = module._get_name()
        warnings.warn(
            f"{kind}.{name} was {frozen[name]!r} when the model was captured, and the graph holds it "
            f"at that: what is computed doesn't follow {value!r}; set it on the original, and convert that again",
            stacklevel=3,
        )


@remembered
def _read_by_forward(kind: Any) -> frozenset[str]:
    """The names of all attributes that ``forward`` reads of its module, itself or in methods and properties it uses."""
    found, new = set[str](), {"forward"}
    while new:
        found |= new
        new = {read for name in new for code in _codes(kind, name) for read in _read_in(code)} - found
    return frozenset(found)


def _codes(kind: type, name: str) -> Iterator[types.CodeType]:
    """The code of a method or property, of the class and of those of the user's that it inherits from."""
    for base in kind.__mro__:
        held: Any = vars(base).get(name)
        getter: Any = held.fget if isinstance(held, property) else held
        function = inspect.unwrap(getter)
        if isinstance(function, types.FunctionType) and not base.__module__.startswith("torch."):
            yield function.__code__


def _read_in(code: types.CodeType, own: str = "") -> Iterator[str]:
    """The attributes that code reads of its first argument, which code inside of it knows by the name `own`."""
    own, loaded = own or next(iter(code.co_varnames), ""), ""
    for one in dis.get_instructions(code):
        if one.opname == "LOAD_SUPER_ATTR" or (one.opname in ("LOAD_ATTR", "LOAD_METHOD") and loaded == own):
            yield str(one.argval)
        if one.opname != "EXTENDED_ARG":
            names = one.argval if isinstance(one.argval, tuple) else (one.argval,)  # some load two at once
            loaded = str(names[-1]) if one.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) else ""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _read_in(inner, own)
