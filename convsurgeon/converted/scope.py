"""The places of a converted module's tree: what stands where a module's forward went into the graph."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.nn.utils.weight_norm import WeightNorm

from convsurgeon.converted.frozen_attributes import FROZEN, frozen_attributes, tell_if_frozen
from convsurgeon.converted.given_in_1d import in_2d
from convsurgeon.converted.own_state import KeepsState, as_its_kind, pickles_in_its_own_way, saves_as
from convsurgeon.errors import UnsupportedError

OwnModes = Mapping[bool, Mapping[str, bool]]
"""By the mode that ``train`` is given, the modules that it leaves in another, by name, and which."""

_MARK = "_convsurgeon_"
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def take_contents(module: nn.Module, source: nn.Module, *, attributes: bool = False) -> None:
    """Fill a new module with what `source` holds: submodules, parameters, buffers, tensors, hooks and mode.

    `attributes`: everything else that hangs on `source` as well, for a module of the same kind.
    """
    vars(module).update(
        (key, value)
        for key, value in vars(source).items()
        if attributes or key in _OF_EVERY_MODULE or isinstance(value, torch.Tensor)
    )
    hooks = module._load_state_dict_pre_hooks
    for key, hook in hooks.items():
        if isinstance(hook, _WrappedHook) and hook.with_module:
            hooks[key] = _WrappedHook(hook.hook, module)


def leave_weight_norm(module: nn.Module, read: Collection[str] = ()) -> None:
    """Take off the hooks of weight norm but for those whose weight is `read`: the graph does what the others did.

    So ``remove_weight_norm`` finds none, and takes away no parameter that the graph reads.
    """
    hooks = module._forward_pre_hooks
    kept = [(key, hook) for key, hook in hooks.items() if not isinstance(hook, WeightNorm) or hook.name in read]
    if len(kept) < len(hooks):
        module._forward_pre_hooks = type(hooks)(kept)


def set_own_modes(module: nn.Module, modes: Mapping[str, bool]) -> None:
    """Set the mode of each module below `module` that is named, and of that one alone."""
    for path, mode in modes.items():
        module.get_submodule(path).training = mode


class Scope(KeepsState):
    """A place in the module tree whose forward was captured into the graph above it.

    It holds the submodules, parameters and buffers of the original module under their names, and its mode. Where the
    original's class has its own way of saving, loading or pickling, what the place holds is saved so as well.
    """

    @classmethod
    def of(cls, module: nn.Module) -> Scope:
        """The place of `module`, with what it holds and its plain attributes."""
        kind = type(module)
        scope = _new_scope(kind if pickles_in_its_own_way(kind) else saves_as(module))
        take_contents(scope, module, attributes=True)
        leave_weight_norm(scope)
        for name in [name for name, value in vars(scope).items() if _is_weak(value) or name == "train"]:
            del scope.__dict__[name]  # a train that hangs on the original would set the original's mode
        vars(scope).setdefault("_convsurgeon_original", kind.__name__)  # which a place has already
        vars(scope)[FROZEN] = frozen_attributes(module)
        return scope

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, as ``nn.Module`` does, and warn where the graph holds it at another value."""
        tell_if_frozen(self, name, value)
        tell_if_in_graph(self, name, value)
        super().__setattr__(name, in_2d(self, name, value) if isinstance(value, torch.Tensor) else value)

    def _saves_as(self) -> type[nn.Module] | None:
        kind: type[nn.Module] | None = vars(self).get("_convsurgeon_kind")
        return kind

    @property
    def own_modes(self) -> OwnModes:
        """What ``train(mode)`` of the original's leaves in another mode than it is given."""
        found: OwnModes = vars(self).get("_convsurgeon_own_modes", {})
        return found

    @own_modes.setter
    def own_modes(self, modes: OwnModes) -> None:
        vars(self)["_convsurgeon_own_modes"] = modes

    def train(self, mode: bool = True) -> Scope:
        """Set the mode, as the original's ``train`` does."""
        super().train(mode)
        set_own_modes(self, self.own_modes.get(mode, {}))
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: what this module computed is part of the converted model's graph.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"this {self._convsurgeon_original} was captured into the graph of the converted model and can't be called "
            "alone; call the converted model, or convert this submodule by itself"
        )

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, as ``nn.Module`` does, and warn that it isn't called."""
        _tell_of_hook(self)
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, as ``nn.Module`` does, and warn that it isn't called."""
        _tell_of_hook(self)
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Register a hook, as ``nn.Module`` does, and warn that it isn't called."""
        _tell_of_hook(self)
        return super().register_full_backward_hook(*args, **kwargs)

    def _get_name(self) -> str:
        return f"Scope[{self._convsurgeon_original}]"

    def __getitem__(self, index: int | str) -> nn.Module:
        """A submodule by name or, as in a Sequential, by place."""
        return list(self.children())[index] if isinstance(index, int) else self.get_submodule(index)

    def __reduce__(self) -> Any:
        kind = self._saves_as()
        if kind is None:
            return super().__reduce__()
        held = as_its_kind(self, kind).__getstate__() if pickles_in_its_own_way(kind) else vars(self)
        marks = {name: value for name, value in vars(self).items() if name.startswith(_MARK)}
        return _new_scope, (kind,), (marks, held)

    def __setstate__(self, state: Any) -> None:
        kind = self._saves_as()
        if kind is None:
            super().__setstate__(state)  # type: ignore[no-untyped-call]
        else:
            marks, held = state
            as_its_kind(self, kind).__setstate__(held)
            vars(self).update(marks)  # what the class may leave out


class ExtraScope(Scope):
    """The place of a module with extra state, which torch looks for in classes."""

    def get_extra_state(self) -> Any:
        """As the original's class gives it."""
        return self._by_its_kind("get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """As the original's class takes it."""
        self._by_its_kind("set_extra_state", state)


def tell_if_in_graph(module: nn.Module, name: str, value: Any) -> None:
    """Warn where a module is being set in a place that isn't called; it is of the line that calls ``__setattr__``."""
    held = vars(module).get("_modules", {}).get(name)
    if isinstance(held, Scope) and not isinstance(value, Scope):  # which replicas have of their own
        warnings.warn(
            f"{held._get_name()} isn't called, for what it computed is in the converted model's graph: to set another "
            f"{name!r} changes nothing; set it on the original, and convert that again",
            stacklevel=3,
        )


def _tell_of_hook(scope: Scope) -> None:
    """Warn on the line that registers a hook on a place."""
    warnings.warn(
        f"{scope._get_name()} isn't called, for what it computed is in the converted model's graph, and neither is its "
        "hook; register it on a layer or on the whole, or exclude the module and convert again",
        stacklevel=3,
    )


def _is_weak(value: Any) -> bool:
    """Whether an attribute is made of weak references, as an LSTM holds some to its weights: they can't be pickled."""
    held = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(one, weakref.ref) for one in held)


def _new_scope(kind: type[nn.Module] | None) -> Scope:
    """An empty place, which saves and loads as `kind` does."""
    extra = kind is not None and kind.get_extra_state is not nn.Module.get_extra_state
    scope: Scope = object.__new__(ExtraScope if extra else Scope)
    vars(scope).update({} if kind is None else {"_convsurgeon_kind": kind})
    return scope
