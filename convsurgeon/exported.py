"""Exported programs: one that came in as a module over its graph, and the converted module as a program again."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Literal, TypeGuard

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export._unlift import _StatefulGraphModule
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind, OutputSpec

from convsurgeon.capture import fetch
from convsurgeon.capture.arguments import admit
from convsurgeon.capture.guards import write_guards
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.converted.module import ConvertedModule, axis_of
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.errors import UnsupportedError
from convsurgeon.exact.checks import of_length

aten = torch.ops.aten
_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATED = [kind for kind in OutputKind if kind.name.endswith("_MUTATION")]
"""By name, for torch 2.6 has none for a parameter."""


def module_of_program(program: ExportedProgram) -> fx.GraphModule:
    """The program as a module that can be converted: weights by their names, checks of its inputs' sizes in the graph.

    It shares its weights with the program.
    """
    module = unlifted(program)
    module._forward_pre_hooks.clear()  # torch's own check reads metadata that no converted graph has
    inputs = module.graph.find_nodes(op="placeholder")
    if inputs:
        with module.graph.inserting_before(inputs[-1].next):
            write_guards(list(_sizes(program)), inputs)
    module.recompile()
    return _of_one_mode(module)


def unlifted(program: ExportedProgram) -> fx.GraphModule:
    """``program.module()`` without torch's own guards in the graph, which has them from torch 2.9."""
    guards = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    module: fx.GraphModule = program.module(**guards)
    return module


def is_of_program(model: object) -> TypeGuard[fx.GraphModule]:
    """Whether a model is what ``module()`` of a program gives."""
    return isinstance(model, _StatefulGraphModule)


def without_hooks(module: fx.GraphModule) -> fx.GraphModule:
    """What ``module()`` of a program gave, as a module that can be converted: its graph calls the guards already.

    It shares its weights with `module`.

    Raises:
        UnsupportedError: the guards aren't in the graph, but in a hook that no converted graph can have.
    """
    if _of_torch(module._forward_pre_hooks) and "_guards_fn" not in module._modules:
        raise UnsupportedError(
            "model was made of an exported program, and its graph is without the guards on its inputs "
            "(check_guards=False, or torch before 2.9), which hold the sizes that it is for; convert the program itself"
        )
    result: fx.GraphModule = clone_module(module, share_parameters)
    for hooks in (result._forward_pre_hooks, result._forward_hooks):
        for key in _of_torch(hooks):
            del hooks[key]
    return _of_one_mode(result)


def _of_torch(hooks: Mapping[int, Any]) -> list[int]:
    """The keys of those that ``program.module()`` hangs on what it makes."""
    return [key for key, hook in hooks.items() if hook.__module__ == _StatefulGraphModule.__module__]


def _of_one_mode(module: fx.GraphModule) -> fx.GraphModule:
    mode = _mode(module.graph)
    module.__dict__["captured_mode"] = mode
    for one in module.modules():
        one.__dict__["training"] = mode == "train"
    return module


def _mode(graph: fx.Graph) -> Literal["train", "eval"]:
    """The mode that a program holds: training if anything in it trains."""
    return "train" if any(map(_trains, graph.nodes)) else "eval"


def _trains(node: fx.Node) -> bool:
    """Whether a call has an argument ``train`` or ``training``, and it is True."""
    if not isinstance(node.target, OpOverload):
        return False
    given = {**dict(zip((one.name for one in node.target._schema.arguments), node.args, strict=False)), **node.kwargs}
    return given.get("train") is True or given.get("training") is True


def _sizes(program: ExportedProgram) -> Iterator[str]:
    """What the program's inputs may be, by their sizes: fixed ones, ranges, and those that equal each other."""
    known: dict[str, str] = {}
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    inputs = [spec for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    ranges = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    for at, spec in enumerate(inputs):
        value = nodes[spec.arg.name].meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            here, text = f"L['tensors'][{at}].size()[{axis}]", str(size)
            if text not in known and text in ranges:
                known[text] = here
                yield from (f"{here} >= {ranges[text].lower}",) if ranges[text].lower > 2 else ()
                yield from (f"{here} <= {ranges[text].upper}",) if ranges[text].upper < 2**31 else ()
            elif text in known or text.isdecimal():
                yield f"{here} == {known.get(text, text)}"


def program_of(module: ConvertedModule, program: ExportedProgram, moved: frozenset[str]) -> ExportedProgram:
    """The converted module as a program of the same signature, names, dynamic shapes and constraints.

    `moved` names the weights that have their 2-D shape; what `module` computes was made from `program`.
    """
    graph, signature = _Lifter(module, program, moved).lifted()
    root = fx.GraphModule(module, graph)
    inputs = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    with detect_fake_mode(inputs) or nullcontext():
        _Values(root).run(*inputs)
    return ExportedProgram(
        root=root,
        graph=root.graph,
        graph_signature=signature,
        state_dict={name: _held(module, name, value) for name, value in program.state_dict.items()},
        range_constraints=copy.deepcopy(program.range_constraints),
        module_call_graph=list(program.module_call_graph),
        example_inputs=None if program.example_inputs is None else _inputs_2d(module, *program.example_inputs),
        constants={name: _held(module, name, value) for name, value in program.constants.items()},
        verifiers=program.verifiers,
    )


def _inputs_2d(
    module: ConvertedModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as the converted module takes them, by place and by keyword as they were."""
    moved, named = module.inputs_2d(*args, **kwargs)
    named |= zip(inspect.signature(module.forward).parameters, moved, strict=False)
    return moved[: len(args)], {name: named[name] for name in kwargs}


class _Values(fx.Interpreter):
    """Tells the values that are new in a graph, from those that are known, without data."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            return super().run_node(n)
        if "val" not in n.meta:
            n.meta["val"] = super().run_node(n)
        return n.meta["val"]


def _held(module: ConvertedModule, name: str, value: Any) -> Any:
    """What the converted module holds under a name of the program's, or what the program does."""
    try:
        return fetch(module, name)
    except AttributeError:
        return value


def _is_border(node: fx.Node) -> bool:
    return ORIGIN in node.meta and node.meta[ORIGIN].rule == "border"


class _Lifter:
    """Writes a module's graph as a program's: every weight an input, every tensor that is written an output."""

    def __init__(self, module: ConvertedModule, program: ExportedProgram, moved: frozenset[str]) -> None:
        self._module = module
        self._program = program
        self._moved = moved
        self._axis = axis_of(module)
        self._written = {spec.target for spec in program.graph_signature.output_specs if spec.kind in _MUTATED}
        self._graph = fx.Graph()
        self._nodes: dict[fx.Node, fx.Node] = {}
        self._state: dict[str, fx.Node] = {}

    def lifted(self) -> tuple[fx.Graph, ExportGraphSignature]:
        """The graph, and its signature."""
        self._inputs()
        dropped = self._checks()
        written: dict[str, fx.Node] = {}
        for node in self._module.graph.nodes:
            if node.op in ("placeholder", "output") or node in dropped:
                continue
            if node.op == "get_attr" and str(node.target) in self._state:
                self._nodes[node] = self._state[str(node.target)]
            elif (target := self._written_back(node)) is not None:
                self._nodes[node] = self._nodes[node.args[1]]
                written[target] = self._as_held(node)
            elif node.target is of_length:
                self._nodes[node] = self._asserted(node)
            else:
                self._nodes[node] = self._graph.node_copy(node, self._nodes.__getitem__)
        return self._graph, self._signature(written)

    def _inputs(self) -> None:
        given = iter(self._module.graph.find_nodes(op="placeholder"))
        old = {node.name: node for node in self._program.graph.find_nodes(op="placeholder")}
        for spec in self._program.graph_signature.input_specs:
            before = old[spec.arg.name]
            new = self._graph.create_node("placeholder", before.target, name=spec.arg.name)
            new.name = spec.arg.name  # torch.fx renames what Python has a name for, such as input
            new.meta = dict(before.meta)
            value = new.meta.get("val")
            if spec.kind in _STATE:
                self._state[str(spec.target)] = new
                two_d = spec.target in self._moved
            else:
                node = next(given)
                self._nodes[node] = new
                two_d = node.target in self._module.inputs_in_2d
            if two_d and isinstance(value, torch.Tensor):
                new.meta["val"] = self._axis.lift(value)

    def _checks(self) -> set[fx.Node]:
        """The nodes that check the inputs: a program has its constraints for that."""
        dropped: set[fx.Node] = set()
        for node in reversed(self._module.graph.nodes):
            asks = node.op.startswith("call") and not isinstance(node.target, OpOverload)
            if node.target is admit or (asks and node.users and set(node.users) <= dropped):
                dropped.add(node)
        return dropped

    def _written_back(self, node: fx.Node) -> str | None:
        """The buffer or input of the program that the node writes an output of the program to."""
        first = node.args[0] if node.target is aten.copy_.default else None
        if not isinstance(first, fx.Node):
            return None
        held = first.all_input_nodes[0] if _is_border(first) else first
        return str(held.target) if str(held.target) in self._written else None

    def _as_held(self, node: fx.Node) -> fx.Node:
        """What the node writes back, in the form of what it is written to: it may write through a border."""
        first, value = node.args[0], self._nodes[node]
        if not isinstance(first, fx.Node) or not _is_border(first):
            return value
        change = aten.squeeze.dim if first.meta[ORIGIN].form == "2d" else aten.unsqueeze.default
        return self._graph.call_function(change, (value, self._axis.position))

    def _asserted(self, node: fx.Node) -> fx.Node:
        """A value whose length a rewrite fixed: a program asserts that by operators of its own."""
        fixed, length, axis = node.args
        assert isinstance(fixed, fx.Node)
        value = self._nodes[fixed]
        size = self._graph.call_function(aten.sym_size.int, (value, axis))
        fits = self._graph.call_function(operator.eq, (size, length))
        self._graph.call_function(aten._assert_scalar.default, (fits, f"a pool is fixed to the length {length}"))
        return value

    def _signature(self, written: Mapping[str, fx.Node]) -> ExportGraphSignature:
        (output,) = self._module.graph.find_nodes(op="output")
        results: Any = output.args[0]
        returned = iter(results if isinstance(results, (tuple, list)) else (results,))
        old = self._program.graph_signature
        values, specs = [], []
        for spec in old.output_specs:
            value = written[str(spec.target)] if spec.kind in _MUTATED else next(returned)
            value = self._nodes.get(value, value) if isinstance(value, fx.Node) else value
            values.append(value)
            named = isinstance(value, fx.Node)
            specs.append(OutputSpec(spec.kind, type(spec.arg)(value.name) if named else spec.arg, spec.target))
        self._graph.output(tuple(values))
        return ExportGraphSignature(list(old.input_specs), specs)
