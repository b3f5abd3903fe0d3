"""The result: a GraphModule with the original's tree, names, aliases, hooks and metadata, however it is copied."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules.module import _WrappedHook

from convsurgeon.axis import UnitAxis
from convsurgeon.errors import UnsupportedError

ORIGIN = "convsurgeon"
"""Node metadata key under which every node of a converted graph holds its `Origin`."""

_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "tensor_meta", "custom", ORIGIN)


Form = Literal["1d", "2d"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which node of the original graph a node stands for, which rule made it ("" for a copy), and its value's form."""

    node: str
    rule: str
    form: Form


class Scope(nn.Module):
    """A place in the module tree whose forward was captured into the graph above it.

    It holds the submodules, parameters and buffers of the original module under their names, and its mode.
    """

    original: str

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: what this module computed is part of the converted model's graph.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"this {self.original} was captured into the graph of the converted model and can't be called alone; "
            "call the converted model, or convert this submodule by itself"
        )

    def _get_name(self) -> str:
        return f"Scope[{self.original}]"


class ConvertedModule(fx.GraphModule):
    """A GraphModule that keeps what a stock one drops.

    Modules that forward never calls, aliases, hooks on the root, node metadata and the class survive `copy.deepcopy`,
    pickling and `torch.save`. ``train()`` and ``eval()`` raise `UnsupportedError` if the graph is frozen to the other
    mode.
    """

    captured_mode: Literal["train", "eval"] | None
    unit_axis: Literal[-2, -1]

    @classmethod
    def build(
        cls,
        tree: nn.Module,
        graph: fx.Graph,
        class_name: str,
        captured_mode: Literal["train", "eval"] | None,
        unit_axis: Literal[-2, -1],
    ) -> ConvertedModule:
        """A converted module with the contents of `tree` (modules, parameters, buffers, hooks, mode) and `graph`."""
        result = cls(nn.Module(), fx.Graph(), class_name)
        take_contents(result, tree)
        result.__dict__.update({"captured_mode": captured_mode, "unit_axis": unit_axis})
        result.graph = graph
        return result

    def train(self, mode: bool = True) -> ConvertedModule:
        """Set the mode, as ``nn.Module.train`` does.

        Raises:
            UnsupportedError: the graph could only be captured in the other mode.
        """
        asked = "train" if mode else "eval"
        if self.captured_mode not in (None, asked):
            raise UnsupportedError(
                f"this graph was captured in {self.captured_mode} mode only, since the model takes another path in "
                f"{asked} mode; put the original in {asked} mode and convert it again"
            )
        return super().train(mode)

    def __deepcopy__(self, memo: dict[int, Any]) -> ConvertedModule:
        result = ConvertedModule.__new__(ConvertedModule)
        memo[id(self)] = result
        return _fill(result, type(self).__name__, copy.deepcopy(_contents(self), memo), copy.deepcopy(self._graph))

    def __copy__(self) -> ConvertedModule:
        return _fill(
            ConvertedModule.__new__(ConvertedModule), type(self).__name__, _contents(self), copy.deepcopy(self._graph)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (), (type(self).__name__, _contents(self), freeze_graph(self._graph)), None, None, _restore


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


def _contents(module: ConvertedModule) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key != "_graph"}


def _fill(module: ConvertedModule, name: str, contents: Mapping[str, Any], graph: fx.Graph) -> ConvertedModule:
    type(module).__name__ = name
    module.__dict__.update(contents)
    module.graph = graph
    return module


def _new() -> ConvertedModule:
    return ConvertedModule.__new__(ConvertedModule)


def _restore(module: ConvertedModule, state: tuple[str, dict[str, Any], FrozenGraph]) -> None:
    name, contents, graph = state
    _fill(module, name, contents, thaw_graph(graph))


@dataclass(frozen=True, slots=True)
class _Ref:
    """Stands for the node at this place in a pickled graph."""

    index: int


@dataclass(frozen=True, slots=True)
class _Overload:
    """Stands for an ATen operator, which can't be pickled itself."""

    path: tuple[str, ...]


FrozenGraph = tuple[Any, list[tuple[Any, ...]]]


def freeze_graph(graph: fx.Graph) -> FrozenGraph:
    """A graph as flat data that pickles at any size: nodes linked to each other would nest once for each node."""
    index = {node: _Ref(i) for i, node in enumerate(graph.nodes)}

    def flat(value: Any) -> Any:
        def freeze(leaf: Any) -> Any:
            return index[leaf] if isinstance(leaf, fx.Node) else _freeze_target(leaf)

        return fx.node.map_aggregate(value, freeze)

    records = [
        (
            node.op,
            node.name,
            _freeze_target(node.target),
            flat(node.args),
            flat(node.kwargs),
            node.type,
            _freeze_meta(node),
        )
        for node in graph.nodes
    ]
    return graph._codegen, records


def thaw_graph(frozen: FrozenGraph) -> fx.Graph:
    """The graph that `freeze_graph` froze."""
    codegen, records = frozen
    graph = fx.Graph()
    graph._codegen = codegen
    nodes: list[fx.Node] = []

    def deep(value: Any) -> Any:
        return fx.node.map_aggregate(
            value, lambda leaf: nodes[leaf.index] if isinstance(leaf, _Ref) else _thaw_target(leaf)
        )

    for op, name, target, args, kwargs, type_expr, meta in records:
        node = graph.create_node(op, _thaw_target(target), deep(args), deep(kwargs), name, type_expr)
        node.meta = meta
        nodes.append(node)
    return graph


def _freeze_target(target: Any) -> Any:
    return _Overload(tuple(str(target).split("."))) if isinstance(target, torch._ops.OpOverload) else target


def _thaw_target(target: Any) -> Any:
    if not isinstance(target, _Overload):
        return target
    value: Any = torch.ops
    for atom in target.path:
        value = getattr(value, atom)
    return value


def _freeze_meta(node: fx.Node) -> dict[str, Any]:
    meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
    stack = meta.get("nn_module_stack")
    if stack:
        meta["nn_module_stack"] = {key: (path, _importable(cls)) for key, (path, cls) in stack.items()}
    return meta


def _importable(cls: Any) -> Any:
    """The class if a pickle can name it, else its name."""
    if not isinstance(cls, type):
        return cls
    name = f"{cls.__module__}.{cls.__qualname__}"
    if "<locals>" in name:
        return name
    found: Any = importlib.import_module(cls.__module__)
    for atom in cls.__qualname__.split("."):
        found = getattr(found, atom, None)
    return cls if found is cls else name


def load_1d_state(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any, axes: Mapping[str, Literal[-2, -1]]
) -> None:
    """Load hook of modules whose state has moved: an entry of the original's shape gains the unit axis."""
    for name, position in axes.items():
        given, held = state_dict.get(prefix + name), getattr(module, name)
        if isinstance(given, torch.Tensor) and UnitAxis(position).lifted_shape(given.shape) == tuple(held.shape):
            state_dict[prefix + name] = UnitAxis(position).lift(given)
