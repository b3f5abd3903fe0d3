"""What a graph holds of a module's plain attributes: to set one later changes nothing, and that is told."""

from __future__ import annotations

import dis
import inspect
import types
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from convsurgeon.remembering import remembered

FROZEN = "_convsurgeon_frozen"
_PLAIN = (bool, int, float, complex, str, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def frozen_attributes(module: nn.Module) -> dict[str, Any]:
    """The flags, numbers and names on `module` that its class reads in forward, with their values."""
    if FROZEN in vars(module):
        known: dict[str, Any] = vars(module)[FROZEN]
        return known
    read = _read_by_forward(type(module)) - _OF_EVERY_MODULE
    return {name: value for name, value in vars(module).items() if name in read and isinstance(value, _PLAIN)}


class TellsWhatIsFrozen(nn.Module):
    """A module whose forward is in a graph: it warns where an attribute is set that the graph holds at a value."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, as ``nn.Module`` does."""
        frozen = vars(self).get(FROZEN, {})
        if name in frozen and (type(value) is not type(frozen[name]) or value != frozen[name]):
            kind: str = self._get_name()  # type: ignore[no-untyped-call]
            warnings.warn(
                f"{kind}.{name} was {frozen[name]!r} when the model was captured, and the graph holds it "
                f"at that: what is computed doesn't follow {value!r}; set it on the original, and convert that again",
                stacklevel=2,
            )
        super().__setattr__(name, value)


@remembered
def _read_by_forward(kind: Any) -> frozenset[str]:
    """The names of all attributes that ``forward`` reads of anything, itself or in methods and properties it uses."""
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


def _read_in(code: types.CodeType) -> Iterator[str]:
    yield from (str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_ATTR", "LOAD_METHOD"))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _read_in(inner)
