"""What the operators of a converted graph ask of layouts, by one run of it: where a copy may stand, and where not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from convsurgeon.capture import modules_of
from convsurgeon.clones.cloning import clone_module, memory_of, share_parameters
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.origin import ORIGIN, Form
from convsurgeon.runs.observe import GraphRun, Overloads
from convsurgeon.samples import Sample
from convsurgeon.spellings import is_torchs_own, operator_name
from convsurgeon.tuning.layouts import Layout, has_layout, layout_of

_READS_STRIDES = frozenset(
    {"view", "view_as", "as_strided", "as_strided_", "view_as_complex", "view_as_real", "_unsafe_view"}
    | {"_reshape_alias", "stride", "is_contiguous", "set_", "resize_", "resize_as_", "data_ptr", "storage_offset"}
)
"""Operators that fail, or tell something else, where strides are others."""

_MAY_ALIAS = frozenset({"reshape", "reshape_as", "flatten", "Flatten", "contiguous", "to", "type", "type_as", "ravel"})
"""Operators whose result is a view of the operand or a copy, by its strides."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What one node asks of layouts.

    `operands`: those that flow (weights don't) and whose value has a layout, with the one that it had. `made`: that of
    the result; None if the result has none, and `several` says that it is a tuple of values. `strict`: operands keep
    the layout that they had. `bound`: no copy may stand before it, for it is a view, or writes what it takes, which
    `writes` says, of what has a layout. `restores`: it is there for the layout alone. Nodes with one `key` compute the
    same from operands of the same shapes and layouts.
    """

    operands: Mapping[fx.Node, Layout]
    made: Layout | None
    several: bool
    strict: bool
    bound: bool
    writes: bool
    restores: bool
    key: Hashable


def form_of(node: fx.Node) -> Form:
    """The form of a node's value."""
    origin = node.meta.get(ORIGIN)
    return "1d" if origin is None else origin.form


def tensors_in(value: Any) -> list[torch.Tensor]:
    """A tensor, or those of a tuple or list; [] of anything else."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [one for one in values if isinstance(one, torch.Tensor)]


def made_layout(value: Any, form: Form) -> Layout | None:
    """The layout of a value, or of all values of a tuple; None if they have none. What is in both is plain."""
    tensors = tensors_in(value)
    if not tensors or not all(has_layout(one, form) for one in tensors):
        return None
    return layout_of(tensors[0]) or "plain"


def traits_of(module: nn.Module, graph: fx.Graph, sample: Sample) -> dict[fx.Node, Traits]:
    """The traits of every node, by one run on a clone; nothing that can be seen changes."""
    clone = clone_module(module, share_parameters)
    modules = modules_of(clone)
    run = GraphRun(clone, graph, sample.map(lambda tensor: tensor.detach().clone()))
    found: dict[fx.Node, Traits] = {}
    constant: set[fx.Node] = set()
    memories: dict[fx.Node, set[int]] = {}
    written: set[int] = set()
    with preserved_random_state(), torch.no_grad(), _Writes(clone) as watched:
        for node, value in run.steps():
            if node.op == "get_attr" or (node.all_input_nodes and constant.issuperset(node.all_input_nodes)):
                constant.add(node)
            flowing = {one: run.env[one] for one in node.all_input_nodes if one not in constant}
            layouts = {one: made_layout(operand, form_of(one)) for one, operand in flowing.items()}
            operands = {one: layout for one, layout in layouts.items() if layout is not None}
            others = [value, *(flowing[one] for one, layout in layouts.items() if layout is None)]
            made = None if node in constant else made_layout(value, form_of(node))
            taken = {memory_of(one) for operand in flowing.values() for one in tensors_in(operand)}
            own = {memory_of(one) for one in tensors_in(value)}
            writes = not taken.isdisjoint(watched.written)
            is_view = node.op != "output" and not taken.isdisjoint(own)
            memories[node] = (taken | own) if operands or made is not None else set()
            written |= watched.written
            found[node] = Traits(
                operands,
                made,
                isinstance(value, (tuple, list)),
                _reads_strides(node, modules, watched.seen)
                or any(one.ndim > 2 for each in (others if made is None else others[1:]) for one in tensors_in(each)),
                is_view or writes,
                writes,
                _restores(node, modules),
                _key(node, modules, {one: run.env[one] for one in node.all_input_nodes}),
            )
            watched.reset()
    return {
        node: _settled(one, operator_name(node, modules), touched=not written.isdisjoint(memories[node]))
        for node, one in found.items()
    }


def _reads_strides(node: fx.Node, modules: Mapping[str, nn.Module], overloads: set[Any]) -> bool:
    """Whether a node may compute something else where strides are others; random numbers come in memory's order."""
    if node.op in ("placeholder", "output", "get_attr"):
        return False
    name = operator_name(node, modules)
    foreign = (
        not type(modules[str(node.target)]).__module__.startswith(("torch.nn.", "convsurgeon."))
        if node.op == "call_module"
        else not is_torchs_own(node) and name != "getitem"
    )
    return (
        foreign
        or name in _READS_STRIDES
        or any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)
    )


def _restores(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node was put in for the strides that a 1-D operator has, which tuning decides anew."""
    origin = node.meta.get(ORIGIN)
    ours = origin is not None and origin.rule != "" and origin.node != node.name
    return ours and operator_name(node, modules) in ("contiguous", "clone")


def _key(node: fx.Node, modules: Mapping[str, nn.Module], given: Mapping[fx.Node, Any]) -> Hashable:
    """What a node computes, and from what: two of one key take the same time."""
    called: Hashable = str(node.target)
    if node.op == "call_module":
        layer = modules[str(node.target)]
        called = (repr(layer), layer.training, *((tuple(one.shape), one.dtype) for one in layer.parameters()))
    told = fx.node.map_aggregate((node.args, node.kwargs), lambda one: _described(one, given))
    return (called, repr(told))


def _described(leaf: Any, given: Mapping[fx.Node, Any]) -> Any:
    value = given[leaf] if isinstance(leaf, fx.Node) else leaf
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype, tuple(value.stride()))
    return type(value).__name__ if isinstance(value, nn.Module) else value


def _settled(traits: Traits, name: str, *, touched: bool) -> Traits:
    """What is written in place at some time is aliased as it was; elsewhere copies do no harm."""
    if not touched:
        traits = replace(traits, bound=traits.bound and not traits.strict, writes=False)
    elif name in _MAY_ALIAS and not traits.restores:
        traits = replace(traits, strict=True, bound=True)
    return replace(traits, key=(traits.key, traits.strict, traits.bound, traits.writes))


class _Writes(Overloads):
    """Records what is written as well, but for the module's own state."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._state = {memory_of(tensor) for tensor in (*module.parameters(), *module.buffers())}

    def reset(self) -> None:
        super().reset()
        self.written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload) and func._schema.is_mutable:
            given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | (kwargs or {})
            named = (one.name for one in func._schema.arguments if one.alias_info and one.alias_info.is_write)
            written = {memory_of(one) for name in named for one in tensors_in(given.get(name))} - self._state
            self.written |= written
        return super().__torch_dispatch__(func, types, args, kwargs)
