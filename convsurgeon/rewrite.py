"""Carries out a plan: the graph in 2-D, and a module tree for it. Decides nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.capture import Modules, fetch, inlined_paths, modules_of
from convsurgeon.clones.cloning import clone_module, copied, own, rewrap
from convsurgeon.converted.forms import ranks_taken
from convsurgeon.converted.frozen_attributes import FROZEN, frozen_attributes
from convsurgeon.converted.given_in_1d import load_1d_state
from convsurgeon.converted.module import ConvertedModule, Facts
from convsurgeon.converted.origin import ORIGIN, Form, Origin
from convsurgeon.converted.own_modes import own_modes
from convsurgeon.converted.own_state import saves_as
from convsurgeon.converted.scope import Scope
from convsurgeon.islands.in_place import convolve_in_place
from convsurgeon.islands.standing import become
from convsurgeon.lifting import Candidate, marks_a_value
from convsurgeon.parts import Part
from convsurgeon.planning import Border, Plan
from convsurgeon.rules import Deferred, Lowered
from convsurgeon.runs.storage import sharing_of
from convsurgeon.spellings import is_aten, respell

_CHANGES: dict[str, tuple[Form, Form]] = {"lift": ("1d", "2d"), "lower": ("2d", "1d")}
"""The form that a border finds, and the one that it makes."""

aten = torch.ops.aten
_TORCH = {
    "lift": torch.unsqueeze,
    "lower": torch.squeeze,
    "contiguous": "contiguous",
    "clone": "clone",
    "align": aten.slice.Tensor,
}
_ATEN = {
    "lift": aten.unsqueeze.default,
    "lower": aten.squeeze.dim,
    "contiguous": aten.contiguous.default,
    "clone": aten.clone.default,
    "align": aten.slice.Tensor,
}
"""What changes forms and layouts, in graphs of functions and methods, and in graphs of ATen's operators."""

_SHAPED_META = ("val", "example_value", "tensor_meta", "unbacked_bindings")
"""What a node's metadata tells of its value in 1-D, and would be wrong in 2-D."""


def _unshaped(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key not in _SHAPED_META}


def rewrite(model: nn.Module, planned: Sequence[tuple[Part, Plan]], whole: Plan, *, copy_weights: bool) -> nn.Module:
    """The converted model: each plan carried out over a clone of `model`, sharing its storage unless `copy_weights`.

    A plan for the whole makes a `ConvertedModule` of it; one for a submodule puts one in that submodule's place, and
    what is computed in place is said by the plan of the `whole`.
    """
    tree = clone_module(model, own if copy_weights else sharing_of(model, [part.captured for part, _ in planned]))
    for part, plan in planned:
        old, original = tree.get_submodule(part.path), model.get_submodule(part.path)
        new = _rewritten(old, original, part, plan)
        if part.path == "":
            return new
        become(old, new)
    for path in whole.in_place:
        convolve_in_place(tree.get_submodule(path), whole.axis)
    return tree


def _rewritten(tree: nn.Module, original: nn.Module, part: Part, plan: Plan) -> ConvertedModule:
    """The converted module of one captured graph, out of a clone of the original's modules, which is used up."""
    capture = part.captured
    for node in capture.graph.find_nodes(op="get_attr"):
        _adopt_constant(tree, capture.root, str(node.target))
    stands_for = None if capture.path == "" else type(tree)
    kind = saves_as(tree)
    attributes = {} if stands_for is None and kind is None else dict(vars(tree))
    tree = _lift_tree(tree, capture.graph, plan)
    graph = _GraphWriter(capture.graph, plan).write()
    modes = own_modes(original)
    facts = Facts(
        capture.mode,
        plan.axis,
        modes.pop("", {}),
        tuple(port.name for port in plan.ports if port.kind == "input"),
        tuple(port.name for port in plan.ports if port.kind == "output"),
        stands_for,
        saves_as=kind,
        ranks=ranks_taken(original) | part.ranks(plan.steps.keys()),
    )
    for path, left in modes.items():
        if isinstance(place := tree.get_submodule(path), Scope):
            place.own_modes = left
    module = ConvertedModule.build(tree, graph, type(original).__name__, facts)
    taken = {*vars(module), *dir(ConvertedModule)}
    vars(module).update({name: value for name, value in attributes.items() if name not in taken})
    vars(module)[FROZEN] = frozen_attributes(original)
    return module


class _GraphWriter:
    """Writes the new graph node by node, in the order and under the names of the old one."""

    def __init__(self, graph: fx.Graph, plan: Plan) -> None:
        self._plan = plan
        self._spelled: dict[str, Any] = _ATEN if is_aten(graph) else _TORCH
        self._old = graph
        self._new = fx.Graph()
        self._new._codegen = graph._codegen
        self._forms: dict[tuple[fx.Node, str], fx.Node] = {}

    def write(self) -> fx.Graph:
        """The whole new graph.

        A border stands right behind what made its value; those of inputs and parameters stand before the first call,
        since a view taken inside a region without gradient would cut off a value that has one. Where a value is marked
        as one that needs a gradient, or has none, its border is taken again.
        """
        bordered: dict[str, list[Border]] = {}
        for border in self._plan.borders:
            bordered.setdefault(border.value, []).append(border)
        given = list(self._old.find_nodes(op="placeholder"))
        given += [node for node in self._old.find_nodes(op="get_attr") if node.name in bordered]
        stated = set(given)
        for node in given:
            self._copy(node)
        for node in given:
            self._border(node, bordered.get(node.name, ()))
        for node in self._old.nodes:
            if node in stated:
                continue
            step = self._plan.steps.get(node.name)
            if step is None:
                self._copy(node)
            else:
                self._lift(node, step)
            self._border(node, bordered.get(node.name, ()))
            if marks_a_value(node):
                self._border_again(node.all_input_nodes[0], bordered)
        return self._new

    def _border_again(self, node: fx.Node, bordered: Mapping[str, Sequence[Border]]) -> None:
        """Take the borders of a value anew, for all that comes; those before go where nothing read them."""
        borders = bordered.get(node.name, ())
        for one in [self._forms[node, _CHANGES[border.direction][1]] for border in borders]:
            if not one.users:
                self._new.erase_node(one)
        self._border(node, borders)

    def _copy(self, node: fx.Node) -> None:
        form = self._held(node)
        if node.op == "output" and self._plan.io == "2d":
            new = self._new.node_copy(node, lambda operand: self._forms[operand, self._held(operand)])
            form = self._held(node.args[0]) if isinstance(node.args[0], fx.Node) else "1d"
        else:
            new = self._new.node_copy(node, lambda operand: self._forms[operand, "1d"])
        if form == "2d":
            new.meta = _unshaped(new.meta)
        self._sign(new, node, "", form)

    def _held(self, node: fx.Node) -> Form:
        return "2d" if node.name in self._plan.two_d else "1d"

    def _lift(self, node: fx.Node, step: Candidate) -> None:
        target, args, kwargs = node.target, node.args, dict(node.kwargs)
        if step.spelling is not None:
            target = step.spelling.lifted_target(node, step.lifted)
            args, kwargs = respell(step.spelling, node, step.lifted.changes)
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda leaf: self._argument(leaf, node, step))
        op = "call_function" if node.op == "call_method" and callable(target) else node.op
        new = self._new.create_node(op, target, args, kwargs, node.name, node.type)
        new.meta = _unshaped(node.meta)
        self._sign(new, node, step.rule.operator, "1d" if isinstance(step.lifted, Lowered) else "2d")

    def _argument(self, leaf: Any, node: fx.Node, step: Candidate) -> Any:
        if isinstance(leaf, Deferred):
            inner = fx.node.map_aggregate(leaf.args, lambda one: self._argument(one, node, step))
            return self._made(self._new.call_function(leaf.function, inner), node, step.rule.operator, "1d")
        if not isinstance(leaf, fx.Node):
            return leaf
        if leaf not in step.operands:
            return self._forms[leaf, "1d"]
        return self._restored(self._forms[leaf, "2d"], node, leaf, step.rule.operator)

    def _restored(self, operand: fx.Node, node: fx.Node, leaf: fx.Node, rule: str) -> fx.Node:
        """The 2-D form of `leaf`, in the layout in which the plan has `node` take it."""
        restore = self._plan.restored.get((node.name, leaf.name))
        if restore is None:
            return operand
        layout: dict[str, Any] = {"memory_format": torch.contiguous_format} if restore == "clone" else {}
        given = (operand, 0) if restore == "align" else (operand,)
        change = self._spelled[restore]
        op = "call_method" if isinstance(change, str) else "call_function"
        return self._made(self._new.create_node(op, change, given, layout), node, rule, "2d")

    def _border(self, node: fx.Node, borders: Iterable[Border]) -> None:
        """Bring `node`'s value into its other form as well, for each border that the plan has there."""
        for border in borders:
            have, need = _CHANGES[border.direction]
            value = self._forms[node, have]
            if border.direction == "lower":
                value = self._restored(value, node, node, "border")
            change, given = self._spelled[border.direction], (value, self._plan.axis.position)
            new = self._new.create_node("call_function", change, given, {}, f"{node.name}_{need}")
            self._forms[node, need] = self._made(new, node, "border", need)

    def _made(self, new: fx.Node, old: fx.Node, rule: str, form: Form) -> fx.Node:
        """Sign a node that has no counterpart of its own."""
        new.meta = {key: value for key, value in old.meta.items() if key in ("stack_trace", "nn_module_stack")}
        new.meta[ORIGIN] = Origin(old.name, rule, form)
        return new

    def _sign(self, new: fx.Node, old: fx.Node, rule: str, form: Form) -> None:
        new.meta[ORIGIN] = Origin(old.name, rule, form)
        self._forms[old, form] = new


def _adopt_constant(tree: nn.Module, root: nn.Module, target: str) -> None:
    """Take over a tensor that tracing found outside every module's state; it moves with the module, and isn't saved."""
    if not hasattr(tree, target) and "." not in target:
        value = fetch(root, target)
        if isinstance(value, torch.Tensor):
            tree.register_buffer(target, copied(value), persistent=False)
        else:
            setattr(tree, target, value)


def _lift_tree(tree: nn.Module, graph: fx.Graph, plan: Plan) -> nn.Module:
    """The module tree of the converted graph, out of a clone of the original's, which is used up."""
    modules = modules_of(tree)
    moved = _move_state(modules, plan)
    replaced: dict[int, nn.Module] = {}
    for node in graph.find_nodes(op="call_module"):
        step = plan.steps.get(node.name)
        if step is not None and step.replaces_module and step.spelling is not None:
            old = modules[str(node.target)]
            if id(old) not in replaced:
                new = step.spelling.lift_module(old, step.lifted.changes, plan.axis)
                assert new is not None
                replaced[id(old)] = new
    inlined = {id(modules[path]) for path in inlined_paths(modules, graph)}
    _scope(tree, replaced, inlined | set(moved))
    for parent in {id(m): m for m in (*tree.modules(), *replaced.values())}.values():
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = replaced.get(id(child), child)
    for owner, names in moved.values():
        holder = replaced.get(id(owner), owner)
        axes = dict.fromkeys(names, plan.unit_axis)
        holder.register_load_state_dict_pre_hook(functools.partial(load_1d_state, axes=axes))
    return tree


def _move_state(modules: Modules, plan: Plan) -> dict[int, tuple[nn.Module, list[str]]]:
    """Give every tensor that moves its 2-D shape, under every name; returns which module holds which in its state."""
    moved: dict[int, torch.Tensor] = {}
    holders: dict[int, tuple[nn.Module, list[str]]] = {}
    for qualified in plan.moved:
        path, _, name = qualified.rpartition(".")
        owner = modules[path]
        old = getattr(owner, name)
        if id(old) not in moved:
            moved[id(old)] = rewrap(old, plan.axis.lift(old.detach()))
        held: dict[str, Any] = next(held for held in (owner._parameters, owner._buffers, vars(owner)) if name in held)
        held[name] = moved[id(old)]
        if held is not vars(owner):
            holders.setdefault(id(owner), (owner, []))[1].append(name)
    return holders


def _scope(tree: nn.Module, replaced: dict[int, nn.Module], touched: set[int]) -> None:
    """Replace by a `Scope` each module whose forward is in the graph, or no longer fits what the module holds."""

    def visit(module: nn.Module) -> bool:
        if id(module) in known:
            return known[id(module)]
        known[id(module)] = id(module) in replaced
        below = [visit(child) for child in module.children()]
        inconsistent = id(module) in replaced or id(module) in touched or any(below)
        known[id(module)] = inconsistent
        container = isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict))
        if inconsistent and id(module) not in replaced and module is not tree and not container:
            replaced[id(module)] = Scope.of(module)
        return inconsistent

    known: dict[int, bool] = {}
    visit(tree)
