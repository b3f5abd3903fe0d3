"""Records which ATen operators a run calls, in which call of the model's; what they mean, it can't know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from convsurgeon.clones.guard import WriteGuard
from convsurgeon.fitting.operation import Call, Operand, Operation, operation_of


@dataclass(frozen=True, slots=True)
class Ran:
    """An operator that ran, the node or function that called it, and the module that is or whose forward does.

    `parameters` counts the elements of weights and buffers that no operator before it read.
    """

    node: str
    name: str
    operation: Operation
    parameters: int


@dataclass(slots=True)
class _Step:
    """One operator within a unit: what it read that was there before the unit, and whether ATen only makes a view."""

    call: Call
    entering: list[Operand]
    parameters: int
    is_view: bool
    flat: bool


@dataclass(slots=True)
class _Unit:
    """One call of the model's: a node of its graph, or a function that its Python calls."""

    node: str
    name: str
    steps: list[_Step] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    flattened: frozenset[int] = frozenset()


class _Traits(NamedTuple):
    """What holds for every call of an overload."""

    is_view: bool
    writes: bool
    is_random: bool


_PLAIN: frozenset[type] = frozenset({int, float, bool, str, type(None)})
_HASHABLE: tuple[type, ...] = (*_PLAIN, complex, torch.dtype, torch.device, torch.layout, torch.memory_format)
_NONE: Mapping[str, Any] = {}


class Recorder(WriteGuard):
    """While active, notes every operator that takes part in what flows; computing with weights alone doesn't.

    What is written to a parameter of `module` is undone on leaving.
    """

    supports_higher_order_operators = False  # what one computes can't be read from it

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        # ids of tensors that are constant, each kept alive with the id of the weight that it stems from, 0 for none
        self._constant: dict[int, tuple[torch.Tensor, int]] = {}
        self._counted: set[int] = set()
        self._units: list[_Unit] = []
        self._traits: dict[int, _Traits] = {}
        self.begin("", "")

    def hold(self, weights: Iterable[torch.Tensor]) -> None:
        """Take these tensors for weights, which flow from nowhere."""
        self._constant.update((id(one), (one, id(one))) for one in weights)

    def begin(self, node: str, name: str) -> None:
        """What is recorded from here on belongs to this call of the model's."""
        self._unit = _Unit(node, name)
        self._units.append(self._unit)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.protect(func, args, kwargs)
        result = func(*args, **kwargs)
        self._note(func, args, kwargs, result)
        return result

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        taken = _tensors((*args, *kwargs.values()) if kwargs else args)
        made = _tensors((result,))
        constant, unit, traits = self._constant, self._unit, self._traits_of(func)
        if not traits.is_random and all(id(one) in constant for one in taken):
            weight = next((constant[id(one)][1] for one in taken if constant[id(one)][1]), 0)
            constant.update((id(one), (one, weight)) for one in made)
            return
        if traits.writes and taken and id(taken[0]) in constant:
            constant = self._release(taken[0])
        entering = [_operand(one, False) for one in taken if id(one) not in constant and id(one) not in unit.made]
        flat = bool(unit.flattened) and id(taken[0]) in unit.flattened
        call = Call(
            func,
            tuple([one if type(one) in _PLAIN else self._snapshot(one) for one in args]),
            {name: self._snapshot(one) for name, one in kwargs.items()} if kwargs else _NONE,
            tuple(_operand(one, False) for one in made),
        )
        unit.steps.append(_Step(call, entering, self._first_read(taken), traits.is_view, flat))
        unit.made.update(map(id, made))
        if func is torch.ops.aten.unsqueeze.default and args[1] == -2:
            unit.flattened |= set(map(id, made))

    def _release(self, tensor: torch.Tensor) -> dict[int, tuple[torch.Tensor, int]]:
        """A buffer that is written from what flows, and every view of it, is a value from now on."""
        _, weight = self._constant.pop(id(tensor))
        self._constant = {key: held for key, held in self._constant.items() if not weight or held[1] != weight}
        return self._constant

    def _traits_of(self, func: Any) -> _Traits:
        if id(func) not in self._traits:  # an overload's own hash is computed in Python
            returns, writes = func._schema.returns, func._schema.is_mutable
            is_view = bool(returns) and returns[0].alias_info is not None and not writes
            is_view = is_view or func is torch.ops.aten._unsafe_view.default
            self._traits[id(func)] = _Traits(is_view, writes, torch.Tag.nondeterministic_seeded in func.tags)
        return self._traits[id(func)]

    def _snapshot(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _operand(value, id(value) in self._constant)
        if isinstance(value, (list, tuple)):
            return tuple([one if type(one) in _PLAIN else self._snapshot(one) for one in value])
        return value if isinstance(value, _HASHABLE) else str(value)

    def _first_read(self, taken: list[torch.Tensor]) -> int:
        """How many elements of weights are read here for the first time."""
        found = 0
        for one in taken:
            _, weight = self._constant.get(id(one), (one, 0))
            if weight and weight not in self._counted:
                self._counted.add(weight)
                found += one.numel()
        return found

    def ran(self) -> Iterator[Ran]:
        """Every operator that ran, in order; views count where a call makes nothing else.

        Those that are alike in all that is read of them share one `Operation`.
        """
        known: dict[Any, Operation] = {}
        for unit in self._units:
            steps = [one for one in unit.steps if not one.is_view] or unit.steps[-1:]
            for step in steps:
                inputs, outputs = tuple(_activations(step.call)), step.call.outputs
                if len(steps) == 1:
                    # what the whole call takes and makes: ATen computes it by way of views of other ranks
                    inputs = tuple(value for one in unit.steps for value in one.entering)
                    outputs = _seen_through_views(unit.steps[unit.steps.index(step) :])
                alike = (step.call.func, step.call.args, tuple(step.call.kwargs.items()), inputs, outputs, step.flat)
                operation = known.get(alike)
                if operation is None:
                    operation = known[alike] = operation_of(step.call, inputs, outputs, flat=step.flat)
                yield Ran(unit.node, unit.name, operation, step.parameters)


def _seen_through_views(steps: list[_Step]) -> tuple[Operand, ...]:
    """What an operator made, the first of it as the views after it leave it (another dtype is another result's)."""
    first, *others = steps[0].call.outputs or (None,)
    views = [one for step in steps[1:] for one in step.call.outputs if first and one.dtype == first.dtype]
    return tuple(one for one in (views[-1] if views else first, *others) if one is not None)


def _tensors(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _operand(tensor: torch.Tensor, constant: bool) -> Operand:
    return Operand(tuple(tensor.shape), tensor.dtype, constant)


def _activations(call: Call) -> Iterator[Operand]:
    def flat(values: Any) -> Iterator[Operand]:
        for value in values:
            if isinstance(value, Operand):
                yield value
            elif isinstance(value, (list, tuple)):
                yield from flat(value)

    return (one for one in flat((*call.args, *call.kwargs.values())) if not one.constant)


def elements(values: tuple[Operand, ...]) -> tuple[int, int]:
    """How many elements some values have, and how many bytes."""
    counts = [math.prod(one.shape) for one in values]
    return sum(counts), sum(count * one.dtype.itemsize for count, one in zip(counts, values, strict=True))
