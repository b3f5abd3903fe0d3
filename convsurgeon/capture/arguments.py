"""What a captured graph takes: the model's own signature, with what steers forward held at its value."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import has_side_effect

from convsurgeon.samples import Sample


def _stays_in_graphs(check: Callable[..., None]) -> Callable[..., None]:
    """A check that stands in graphs: not dead code, and recorded as a call where the graph is traced once more."""

    def checked(value: Any, *rest: Any) -> None:
        if isinstance(value, fx.Proxy):
            value.tracer.create_proxy("call_function", recorded, (value, *rest), {})
        else:
            check(value, *rest)

    recorded: Any = checked
    checked.__name__, checked.__qualname__ = check.__name__, check.__qualname__
    checked.__module__, checked.__doc__ = check.__module__, check.__doc__
    has_side_effect(recorded)
    return checked


@_stays_in_graphs
def hold(value: Any, expected: Any, name: str) -> None:
    """Refuse an argument that the graph was not captured for; stands in captured graphs.

    Raises:
        ValueError: `value` is not the `expected` one.
    """
    if value is expected or (isinstance(value, float) and value != value and expected != expected):
        return
    if all(isinstance(one, (tuple, list, dict)) and not one for one in (value, expected)):
        return  # no further arguments; torch.fx gives () or [] for ** as well
    if expected is None or isinstance(value, torch.Tensor) or value != expected:
        raise ValueError(
            f"argument '{name}' was {expected!r} when the model was captured, and the graph holds it at that; "
            "convert the model again with a sample that gives it"
        )


@_stays_in_graphs
def admit(value: Any, condition: str) -> None:
    """Refuse inputs of a shape that the graph was not captured for; stands in captured graphs.

    Raises:
        ValueError: the `condition`, whose `value` is given, doesn't hold.
    """
    if not value:
        raise ValueError(
            f"the model was captured for inputs with {condition}, and these are others; convert it again with a sample "
            "of this shape, or with capture='islands', which keeps the model's own Python"
        )


def held_arguments(model: nn.Module, sample: Sample | None) -> dict[str, Any]:
    """Arguments that steer forward rather than flow through it: flags, None, members, and what the sample leaves out.

    Raises:
        ValueError: the sample doesn't fit the model's forward.
    """
    signature = inspect.signature(type(model).forward)
    given = {} if sample is None else bound_arguments(model, sample)
    held = {}
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in given and parameter.default is not parameter.empty:
            held[name] = parameter.default
        elif name in given and _steers(given[name]):
            held[name] = given[name]
    return held


def _steers(value: Any) -> bool:
    return isinstance(value, (bool, str, type(None))) or _is_member(value)


def _is_member(value: Any) -> bool:
    """Whether a value is a member of an enumeration that has a name there: several flags at once have none."""
    return isinstance(value, Enum) and value.name in type(value).__members__


def bound_arguments(model: nn.Module, sample: Sample) -> dict[str, Any]:
    """What the sample gives, by the names of forward's parameters.

    Raises:
        ValueError: the sample doesn't fit the model's forward.
    """
    signature = inspect.signature(type(model).forward)
    try:
        return dict(signature.bind(model, *sample.args, **sample.kwargs).arguments)
    except TypeError as error:
        raise ValueError(
            f"sample_inputs don't fit {type(model).__name__}.forward{signature}: {error}; given: {sample}"
        ) from None


def default_of(signature: inspect.Signature, name: str) -> tuple[Any, ...]:
    """The default of a placeholder as its node's arguments: () where it has none, as ``*args`` and ``**kwargs``.

    A required keyword-only argument behind it takes it away: graphs know no such arguments.
    """
    parameter = signature.parameters[name.lstrip("*")]
    if name.startswith("*") or parameter.default is parameter.empty:
        return ()
    followed = list(signature.parameters.values())[list(signature.parameters).index(name) + 1 :]
    required = any(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in followed)
    return () if required else (plain(parameter.default),)


def plain(value: Any) -> Any:
    """A default or a held argument as it can be written into a graph, None if it can't."""
    if not is_plain(value):
        return None
    return type(value)(map(plain, value)) if isinstance(value, (tuple, list)) else of_python(value)


def is_plain(value: Any) -> bool:
    """Whether a value can be written into a graph."""
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list) and all(map(is_plain, value))
    if isinstance(value, Enum):
        return _is_member(value)
    return isinstance(of_python(value), (bool, int, float, complex, str, type(None), torch.dtype, torch.device))


def of_python(value: Any) -> Any:
    """A number or string of a class of its own, as NumPy's scalars, as Python's own: code has no words for others.

    Members of enumerations stay what they are, and so does what is no number of Python's, as a long double.
    """
    if type(value) in _WRITTEN or isinstance(value, Enum):
        return value
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        item = value.item()
        return item if type(item) in _WRITTEN else value
    return next((exactly(value) for kind, exactly in _EXACTLY.items() if isinstance(value, kind)), value)


_WRITTEN = frozenset({bool, int, float, complex, str, type(None)})
_EXACTLY: dict[type, Callable[[Any], Any]] = {int: int.__int__, float: float.__float__, str: str.__str__}
"""What gives the value itself, and not what a subclass would show of it."""
