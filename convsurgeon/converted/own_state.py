"""The state of a module as the class that it stands for saves and loads it. Knows no graphs."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

from torch import fx, nn

_SAVING = (
    *("get_extra_state", "set_extra_state", "state_dict", "load_state_dict"),
    *("_save_to_state_dict", "_load_from_state_dict", "_version"),
)
"""By what a class may change what a state_dict holds."""


def saves_as(module: nn.Module) -> type[nn.Module] | None:
    """The class of a module, or the one that it stands for, if that changes what a state_dict holds, or its version."""
    if isinstance(module, KeepsState):
        return module._saves_as()
    kind = type(module)
    return kind if any(getattr(kind, name) is not getattr(nn.Module, name) for name in _SAVING) else None


def pickles_in_its_own_way(kind: type[nn.Module]) -> bool:
    """Whether a class of the user's says what of its modules is pickled, as one that holds a lock has to.

    Torch's own do so for what isn't in a graph: recurrent layers for references to their weights, parametrized ones, to
    refuse.
    """
    told = getattr(kind, "__getstate__", None)
    return isinstance(told, types.FunctionType) and not told.__module__.startswith("torch.")


def as_its_kind(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """What `module` holds, seen as a module of `kind`: what is set on either is set on both.

    So the methods of `kind` find their ``super()``, and no class of ours has to be made of it, which a registry of the
    user's might keep.
    """
    view: nn.Module = object.__new__(kind)
    object.__setattr__(view, "__dict__", vars(module))
    return view


class KeepsState(nn.Module):
    """A module that saves and loads what it holds as the class does that `_saves_as` tells."""

    def _saves_as(self) -> type[nn.Module] | None:
        raise NotImplementedError

    def _by_its_kind(self, method: str, *args: Any, **kwargs: Any) -> Any:
        kind = self._saves_as()
        if kind is None:
            return getattr(nn.Module, method)(self, *args, **kwargs)
        return getattr(kind, method)(as_its_kind(self, kind), *args, **kwargs)

    @property
    def _version(self) -> int:  # type: ignore[override]  # the class has one for all
        return (self._saves_as() or nn.Module)._version

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state, under the original's names."""
        return self._by_its_kind("state_dict", *args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state of the original's, or of this module's."""
        return self._by_its_kind("load_state_dict", *args, **kwargs)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._by_its_kind("_save_to_state_dict", *args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._by_its_kind("_load_from_state_dict", *args)


def lend_methods(module: nn.Module, stands_for: type[nn.Module] | None, saves_as: type[nn.Module] | None) -> None:
    """Give the class of a module, which has to be its own, what Python and torch look for in classes alone.

    That are the special methods of the class that it stands for, as a container's for its length and its members, and
    those for extra state.
    """
    own: Any = type(module)
    special = (name for name in dir(stands_for) if name.startswith("__") and name.endswith("__"))
    for kind, names in ((stands_for, special), (saves_as, _EXTRA)):
        if kind is None:
            continue
        for name in names:
            method = inspect.getattr_static(kind, name)
            if inspect.isfunction(method) and getattr(nn.Module, name, None) is not method and name not in _LEFT:
                setattr(own, name, _lent(method, kind))


_EXTRA = ("get_extra_state", "set_extra_state")
_LEFT = frozenset(name for name in dir(fx.GraphModule) if name.startswith("__"))
"""The special methods that every GraphModule has."""


def _lent(method: Any, kind: type[nn.Module]) -> Any:
    @functools.wraps(method)
    def lent(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return method(as_its_kind(self, kind), *args, **kwargs)

    return lent
