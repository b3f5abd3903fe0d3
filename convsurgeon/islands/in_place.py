"""The last resort, with no graph at all: convolutions that a module's own Python calls run in 2-D."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convsurgeon.axis import UnitAxis
from convsurgeon.rules import RULES, Arguments, Lifted
from convsurgeon.spellings import FUNCTIONS


class ConvolvesIn2d(TorchFunctionMode):
    """While active, ``torch.conv1d`` and ``torch.conv_transpose1d`` are computed by their 2-D forms."""

    def __init__(self, axis: UnitAxis) -> None:
        super().__init__()
        self._axis = axis

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.conv1d, torch.conv_transpose1d):
            return _in_2d(func, self._axis, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _in_2d(
    func: Any,
    axis: UnitAxis,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *given: Any,
    **named: Any,
) -> torch.Tensor:
    geometry = tuple(tuple(one) if isinstance(one, list) else one for one in (*given, *named.values()))
    arguments = _geometry_in_2d(func, axis.position, axis.square, geometry, tuple(named))
    # by name, for dynamo can't guard a function that comes out of a constant
    in_2d = torch.conv2d if func is torch.conv1d else torch.conv_transpose2d
    result = in_2d(axis.lift(input.contiguous()), axis.lift(weight.contiguous()), bias, *arguments)
    return axis.lower(result).contiguous()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch leaves it untyped
def _geometry_in_2d(func: Any, *given: Any) -> tuple[Any, ...]:
    """The arguments of the 2-D function that aren't tensors; dynamo, which can't trace a rule, asks for them once."""
    return _asked(func, *given)


@functools.lru_cache(maxsize=1024)
def _asked(
    func: Any, position: Literal[-2, -1], square: bool, geometry: tuple[Any, ...], named: tuple[str, ...]
) -> tuple[Any, ...]:
    """What the rule says of the 1-D arguments in `geometry`, the last of which have names.

    It takes longer than a small convolution, and the same layers are called again and again.
    """
    spelling, unnamed = FUNCTIONS[func], len(geometry) - len(named)
    by_name = dict(zip(named, geometry[unnamed:], strict=True))
    bound = spelling.signature.bind(None, None, None, *geometry[:unnamed], **by_name)
    bound.apply_defaults()
    way = RULES[spelling.operator].lift(Arguments(bound.arguments), UnitAxis(position, square))
    assert isinstance(way, Lifted)
    bound.arguments.update({name: value for name, value in way.changes.items() if name in bound.arguments})
    return bound.args[3:]


def convolve_in_place(module: nn.Module, axis: UnitAxis) -> None:
    """Let the convolutions that `module` calls while its forward runs be computed in 2-D, in copies of it too."""
    vars(module)["forward"] = _ForwardIn2d(module, axis)
    vars(module)["_replicate_for_data_parallel"] = functools.partial(_replicated, module, axis)


def _replicated(module: nn.Module, axis: UnitAxis) -> nn.Module:
    """A replica for `nn.DataParallel`, which copies shallowly: the forward that it takes along is the module's."""
    kind: Any = type(module)
    replica: nn.Module = kind._replicate_for_data_parallel(module)
    convolve_as_called(replica)
    convolve_in_place(replica, axis)
    return replica


def convolve_as_called(module: nn.Module) -> None:
    """Take back what `convolve_in_place` did."""
    del vars(module)["_replicate_for_data_parallel"]
    forward = vars(module).pop("forward")
    if forward.own is not None:
        vars(module)["forward"] = forward.own


class _ForwardIn2d:
    """The forward of a module, computed in 2-D, a value of its own so that a module with it can be copied and pickled.

    Hooks can't do this: torch calls none after a ``KeyboardInterrupt``, and the mode would stay for ever.
    """

    def __init__(self, module: nn.Module, axis: UnitAxis) -> None:
        self._module, self._axis = module, axis
        self.own = vars(module).get("forward")

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What is called, as `inspect` asks for it: the forward of the class, or one that hung on the module."""
        forward: Callable[..., Any] = self.own or type(self._module).forward.__get__(self._module)
        return forward

    @property
    def __code__(self) -> types.CodeType:
        """Where it is written, as ``torch.export`` asks for it."""
        code: types.CodeType = inspect.unwrap(self).__code__
        return code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with ConvolvesIn2d(self._axis):
            return self.__wrapped__(*args, **kwargs)
