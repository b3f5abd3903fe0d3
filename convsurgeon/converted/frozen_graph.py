"""Graphs as flat data: what fx itself pickles is code, which loses all metadata."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from convsurgeon.converted.origin import ORIGIN
from convsurgeon.converted.structure import example_of

_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "tensor_meta", "custom", ORIGIN)


@dataclass(frozen=True, slots=True)
class _Ref:
    """Stands for the node at this place in a pickled graph."""

    index: int


@dataclass(frozen=True, slots=True)
class _Named:
    """Stands for what torch has by this name: an ATen operator or a memory format, which pickles don't take."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Flattening:
    """Stands for torch's generator of code that flattens inputs and outputs: an example in the place of each spec."""

    names: list[str]
    examples: tuple[Any, ...]


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
    return _freeze_codegen(graph._codegen), records


def thaw_graph(frozen: FrozenGraph) -> fx.Graph:
    """The graph that `freeze_graph` froze."""
    codegen, records = frozen
    graph = fx.Graph()
    graph._codegen = _thaw_codegen(codegen)
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


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph, with its metadata; how code is generated for it is shared, since it doesn't change."""
    new = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = new.node_copy(node, nodes.__getitem__)
    new._codegen = graph._codegen
    return new


def _freeze_codegen(codegen: fx.graph.CodeGen) -> Any:
    """Specs aren't pickled themselves: torch warns where they are made again."""
    if type(codegen) is not fx.graph._PyTreeCodeGen:
        return codegen
    names, *specs = codegen.pytree_info
    return _Flattening(names, tuple(None if spec is None else example_of(spec) for spec in specs))


def _thaw_codegen(frozen: Any) -> fx.graph.CodeGen:
    if not isinstance(frozen, _Flattening):
        return frozen  # type: ignore[no-any-return]
    specs: Any = (None if example is None else pytree.tree_structure(example) for example in frozen.examples)
    return fx.graph._PyTreeCodeGen(fx.graph._PyTreeInfo(frozen.names, *specs))


def _freeze_target(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        return _Named(("ops", *str(target).split(".")))
    return _Named(tuple(str(target).split(".")[1:])) if isinstance(target, torch.memory_format) else target


def _thaw_target(target: Any) -> Any:
    if not isinstance(target, _Named):
        return target
    value: Any = torch
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
    found: Any = sys.modules.get(cls.__module__)
    for atom in cls.__qualname__.split("."):
        found = getattr(found, atom, None)
    return cls if found is cls else name
