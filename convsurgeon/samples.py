"""What a model is called with: samples, as the caller may write them, in one form."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of the model: a tuple (or list) of positional arguments, and a dict of keyword arguments.

    Raises:
        TypeError: `args` is neither, such as a tensor, which would be taken apart, or `kwargs` is no mapping.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.args, (tuple, list)):
            given = type(self.args).__name__
            raise TypeError(f"args is a {given}; accepted: a tuple of positional arguments, such as Sample((x,))")
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(f"kwargs is a {type(self.kwargs).__name__}; accepted: a dict of keyword arguments")

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Sample:
        """The sample with every tensor in it, however deep, replaced by ``change(tensor)``.

        Containers and objects are copies, so that writing to them leaves those of this sample alone.
        """
        args, kwargs = pytree.tree_map(lambda leaf: _changed(leaf, change), (self.args, dict(self.kwargs)))
        return Sample(args, kwargs)

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor of the call, in order."""
        found: list[torch.Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def __str__(self) -> str:
        """The call in words, each tensor by shape and dtype."""

        def word(leaf: Any) -> str:
            if isinstance(leaf, torch.Tensor):
                return f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"
            return repr(leaf)[:40]

        shown = [", ".join(word(leaf) for leaf in pytree.tree_leaves(arg)) for arg in self.args]
        shown += [f"{k}={', '.join(word(leaf) for leaf in pytree.tree_leaves(v))}" for k, v in self.kwargs.items()]
        return f"({', '.join(shown)})"


def _changed(leaf: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(leaf, torch.Tensor):
        return change(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        result = copy.copy(leaf)
        for field_ in dataclasses.fields(leaf):
            value = pytree.tree_map(lambda one: _changed(one, change), getattr(leaf, field_.name))
            object.__setattr__(result, field_.name, value)
        return result
    return leaf if type(leaf) in _ATOMS else _object_of_its_own(leaf, change)


_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None)})


def _object_of_its_own(leaf: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of an object such as a cache, for forward may write to it; modules, functions and torch's own stay."""
    if callable(leaf) or not (hasattr(leaf, "__dict__") or isinstance(leaf, set)):
        return leaf
    if type(leaf).__module__.partition(".")[0] == "torch":
        return leaf
    try:
        with _Changing(change):
            return copy.deepcopy(leaf)
    except Exception:  # a copy protocol of the user's may raise anything; what can't be copied is shared
        return leaf


class _Changing(TorchFunctionMode):
    """While active, a tensor that is copied deeply is changed instead."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo[id(tensor)] if id(tensor) in memo else memo.setdefault(id(tensor), self._change(tensor))


def as_samples(sample_inputs: Any) -> tuple[Sample, ...]:
    """The caller's `sample_inputs` as samples.

    One sample is a tensor, a tuple of positional arguments, a dict of keyword arguments, or a `Sample`; a list holds
    several. A model that takes a list as its argument is given it inside a tuple.

    Raises:
        TypeError: anything else, naming what was given.
        ValueError: an empty list.
    """
    if sample_inputs is None:
        return ()
    if isinstance(sample_inputs, list):
        if not sample_inputs:
            raise ValueError("sample_inputs is an empty list; give at least one sample, or None with verify=False")
        return tuple(_as_sample(one, f"sample_inputs[{i}]") for i, one in enumerate(sample_inputs))
    return (_as_sample(sample_inputs, "sample_inputs"),)


def _as_sample(given: Any, where: str) -> Sample:
    if isinstance(given, Sample):
        return given
    if isinstance(given, torch.Tensor):
        return Sample((given,))
    if isinstance(given, tuple):
        return Sample(given)
    if isinstance(given, Mapping):
        return Sample((), dict(given))
    raise TypeError(
        f"{where} is a {type(given).__name__}; accepted: a tensor, a tuple of positional arguments, a dict of keyword "
        "arguments, convsurgeon.Sample(args, kwargs), or a list of these"
    )
