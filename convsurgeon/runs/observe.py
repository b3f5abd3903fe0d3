"""One run of a captured graph: the shape, dtype and strides of every value, and what each node dispatches to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Capture
from convsurgeon.clones.cloning import copied
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.runs.given import Given
from convsurgeon.samples import Sample

UNKNOWN: Any = torch.ops.aten.as_strided.default
"""Stands for what an operator dispatches to where that can't be seen: neither pointwise, nor blind to strides."""


@dataclass(frozen=True, slots=True)
class Value:
    """Facts of one tensor value, in its 1-D form."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]
    is_contiguous: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Value:
        return cls(tuple(tensor.shape), tensor.dtype, tensor.stride(), tensor.is_contiguous())

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one node did in the observed run.

    `value` is None where the result is not one tensor; `result` is then its Python type, and `items` the facts of a
    tuple of tensors. `overloads` are the ATen
    operators that it dispatched to, `resized` the operands whose own shape it may change (``unsqueeze_``).
    """

    value: Value | None
    result: type
    items: tuple[Value, ...] = ()
    overloads: frozenset[Any] = frozenset()
    resized: tuple[fx.Node, ...] = ()


Facts = dict[fx.Node, NodeFacts]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one run of a graph showed: the facts of its nodes, what it returned, and the random streams after it.

    `written`: what of the arguments is another than before.
    """

    facts: Facts
    output: Any
    after: RandomState
    written: Mapping[str, Any]


def has_form(node: fx.Node, facts: Facts | None, axis: UnitAxis) -> bool:
    """Whether the node's value is a tensor that takes part; without facts, every value that is asked about does."""
    if facts is None:
        return True
    seen = facts[node]
    values = seen.items if seen.value is None else (seen.value,)
    return bool(values) and all(axis.has_form(value.rank) for value in values)


class GraphRun(fx.Interpreter):
    """Runs a graph over any module tree with the inputs of a `Sample`, node by node."""

    def __init__(self, root: nn.Module, graph: fx.Graph, sample: Sample) -> None:
        super().__init__(root, graph=graph)
        self._inputs = bind(graph, sample)
        self.at: fx.Node | None = None

    def steps(self) -> Iterator[tuple[fx.Node, Any]]:
        """Each node with its value, right after it ran; a value is let go after its last use."""
        for node in self.graph.nodes:
            self.at = node
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            value = self.env[node] = getattr(self, node.op)(node.target, args, kwargs)
            yield node, value
            for done in self.user_to_last_uses.get(node, ()):
                del self.env[done]

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in self._inputs:
            return self._inputs[target]
        if args:
            return args[0]
        raise TypeError(f"missing argument '{target}'")


def bind(graph: fx.Graph, sample: Sample) -> dict[str, Any]:
    """The sample's inputs by placeholder, as the graph's generated ``forward`` would bind them.

    Raises:
        TypeError: the sample has more arguments than the graph takes, or others.
    """
    placeholders = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    if isinstance(graph._codegen, fx.graph._PyTreeCodeGen):
        info = graph._codegen.pytree_info
        named = [sample.kwargs[name] for name in info.orig_args[len(sample.args) :] if name in sample.kwargs]
        flat = graph.process_inputs(*sample.args, *named)
        return dict(zip(placeholders, flat, strict=True))
    plain = [name for name in placeholders if not name.startswith("*")]
    several = next((at for at, name in enumerate(placeholders) if name.startswith("*")), len(placeholders))
    by_place = plain[:several]
    inputs: dict[str, Any] = dict(zip(by_place, sample.args, strict=False))
    extra = {name: value for name, value in sample.kwargs.items() if name not in plain}
    for name, value in sample.kwargs.items():
        if name in inputs:
            raise TypeError(f"argument '{name}' is given twice")
        if name in plain:
            inputs[name] = value
    for name in placeholders:
        if name.startswith("**"):
            inputs[name], extra = extra, {}
        elif name.startswith("*"):
            inputs[name] = sample.args[len(by_place) :]
    too_many = len(sample.args) > len(by_place) and not any(n.startswith("*") for n in placeholders)
    if too_many or extra:
        raise TypeError(f"the graph takes {', '.join(placeholders)}; given: {sample}")
    return inputs


def observe(capture: Capture, sample: Sample) -> Observation:
    """Run the captured graph once on `sample`.

    The capture's clone takes the effects of the run (BatchNorm statistics); the random streams and the sample don't.
    """
    inputs = sample.map(copied)
    run, given = GraphRun(capture.root, capture.graph, inputs), Given(inputs)
    facts: Facts = {}
    with preserved_random_state(), torch.no_grad(), Overloads(capture.root) as dispatched:
        for node, result in run.steps():
            facts[node] = NodeFacts(
                value=Value.of(result) if isinstance(result, torch.Tensor) else None,
                result=type(result),
                items=items_of(result),
                overloads=frozenset(dispatched.seen),
                resized=dispatched.resized({one: run.env[one] for one in node.all_input_nodes}),
            )
            dispatched.reset()
        return Observation(facts, capture.graph.process_outputs(result), RandomState.capture(), given.written())


def items_of(result: Any) -> tuple[Value, ...]:
    """The facts of a tuple or list of tensors; () of anything else."""
    plain = isinstance(result, (tuple, list)) and all(isinstance(one, torch.Tensor) for one in result)
    return tuple(Value.of(one) for one in result) if plain else ()


class Overloads(WriteGuard):
    """Records the overloads that run, and the tensors whose own shape one may change (``unsqueeze_``)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.reset()

    def reset(self) -> None:
        """Forget what was recorded."""
        self.seen: set[Any] = set()
        self.reshaped: list[torch.Tensor] = []

    def resized(self, values: Mapping[fx.Node, Any]) -> tuple[fx.Node, ...]:
        """The nodes whose values are among the tensors that may have another shape now."""
        return tuple(node for node, value in values.items() if any(value is tensor for tensor in self.reshaped))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func if isinstance(func, OpOverload) else UNKNOWN)
        if isinstance(func, OpOverload) and torch.Tag.inplace_view in func.tags:
            self.reshaped.append(args[0])
        self.protect(func, args, kwargs)
        return func(*args, **(kwargs or {}))
