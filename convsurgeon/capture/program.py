"""An exported program as a graph over the model's own tree: plain inputs, weights by their names, guards as checks."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from convsurgeon.capture.arguments import admit, bound_arguments, default_of, hold, is_plain, plain
from convsurgeon.capture.exporting import ByLeaves, Way
from convsurgeon.capture.guards import write_guards
from convsurgeon.capture.modes import Trace
from convsurgeon.capture.places import is_users_file
from convsurgeon.capture.state import fetch
from convsurgeon.converted.structure import Structured, checked_leaves
from convsurgeon.errors import CaptureError
from convsurgeon.samples import Sample

_PREFIX = f"{ByLeaves.PREFIX}."
_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")


def require_leaves(model: nn.Module, sample: Sample) -> None:
    """Refuse what is neither a tensor nor a number nor a name: an export may leave fake tensors in such an object.

    Raises:
        CaptureError: the sample holds something of the kind.
    """
    for name, given in list(bound_arguments(model, sample).items())[1:]:
        for leaf in pytree.tree_leaves(given):
            if not isinstance(leaf, torch.Tensor) and not is_plain(leaf):
                raise CaptureError(
                    f"argument '{name}' holds a {type(leaf).__name__}, which torch.export can't take apart\n"
                    "  register it with torch.utils._pytree.register_pytree_node, or use capture='islands'"
                )


def graph_of(program: ExportedProgram, model: nn.Module, sample: Sample, guards: Sequence[str]) -> Trace:
    """The graph of a program that `export_model` made, called as the model is, and the tensors no module holds.

    `guards` are what it asks of its inputs' shapes, as torch writes them.

    Raises:
        CaptureError: it holds what can't be carried over.
    """
    unlifted = program.module(check_guards=False)
    writer = _Writer(unlifted, model)
    leaves = writer.inputs(sample)
    write_guards(guards, leaves)
    writer.body(unlifted.graph, leaves)
    return Trace(writer.graph, writer.constants)


class _Writer:
    """Writes the new graph in the order of the old one."""

    def __init__(self, root: fx.GraphModule, model: nn.Module) -> None:
        self.graph = fx.Graph()
        self.constants: dict[str, Any] = {}
        self._root = root
        self._model = model

    def inputs(self, sample: Sample) -> list[fx.Node]:
        """The model's parameters as placeholders, and the sample's tensors, taken out of them; all else is held."""
        signature = inspect.signature(type(self._model).forward)
        given = bound_arguments(self._model, sample)
        placeholders = dict(self._placeholders(signature))
        tensors: list[fx.Node] = []
        for name, parameter in list(signature.parameters.items())[1:]:
            value = placeholders[name]
            if name in given:
                tensors += self._taken_out(name, value, given[name])
            elif parameter.default is not parameter.empty:
                self.graph.call_function(hold, (value, plain(parameter.default), name))
            else:  # *args or **kwargs, of which the sample has none
                self.graph.call_function(hold, (value, () if parameter.kind is parameter.VAR_POSITIONAL else {}, name))
        found = _tensors([given[name] for name in list(signature.parameters)[1:] if name in given])
        return _in_order(tensors, list(found), list(_tensors((sample.args, dict(sample.kwargs)))))

    def _placeholders(self, signature: inspect.Signature) -> Iterator[tuple[str, fx.Node]]:
        for name, parameter in list(signature.parameters.items())[1:]:
            stars = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (
                parameter.kind is parameter.VAR_KEYWORD
            )
            yield name, self.graph.create_node("placeholder", stars + name, default_of(signature, stars + name))

    def _taken_out(self, name: str, value: fx.Node, given: Any) -> list[fx.Node]:
        """The tensors in one argument; what else it holds must stay what it was."""
        leaves, spec = pytree.tree_flatten(given)
        if not spec.is_leaf():
            value = self.graph.call_function(checked_leaves, (value, pytree.treespec_dumps(spec), name))
        nodes = []
        for at, leaf in enumerate(leaves):
            one = value if spec.is_leaf() else self.graph.call_function(operator.getitem, (value, at))
            if isinstance(leaf, torch.Tensor):
                nodes.append(one)
            else:
                self.graph.call_function(hold, (one, plain(leaf), name))
        return nodes

    def body(self, graph: fx.Graph, leaves: Sequence[fx.Node]) -> None:
        """Every operator, and what is returned."""
        values: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), leaves, strict=True))
        returned = self._copied(graph, self._root, values)
        codegen: Any = graph._codegen
        spec = codegen.pytree_info.out_spec
        literal = _literal(spec, iter(returned))
        if literal is None:
            self.graph._codegen = Structured(spec)
            literal = (tuple(returned),)
        self.graph.output(literal[0])

    def _copied(self, graph: fx.Graph, root: nn.Module, values: dict[fx.Node, Any]) -> Sequence[Any]:
        """Copy the nodes of a graph; regions without gradient are opened, since convolutions may stand in them."""
        for node in graph.nodes:
            if node.op == "placeholder" or node.target is torch.ops.aten._assert_tensor_metadata.default:
                continue
            if node.op == "output":
                returned: Any = fx.node.map_arg(node.args[0], values.__getitem__)
                return returned if isinstance(returned, (tuple, list)) else (returned,)
            if node.op == "get_attr":
                if node.users and not isinstance(getattr(root, str(node.target), None), fx.GraphModule):
                    values[node] = self._weight(node, root)
            elif str(node.target) == "wrap_with_set_grad_enabled":
                values[node] = self._without_gradient(node, root, values)
            elif node.target is operator.getitem and isinstance(values.get(node.args[0]), (tuple, list)):
                values[node] = values[node.args[0]][node.args[1]]
            elif isinstance(node.target, torch._ops.HigherOrderOperator):
                values[node] = self._kept_whole(node, root, values)
            else:
                values[node] = self._signed(self.graph.node_copy(node, values.__getitem__), node)
        return ()

    def _weight(self, node: fx.Node, root: nn.Module) -> fx.Node:
        target = str(node.target)
        name = target.removeprefix(_PREFIX)
        if name == target or not _holds(self._model, name):
            name = name.replace(".", "_")
            self.constants[name] = fetch(root, target)
        return self._signed(self.graph.create_node("get_attr", name, name=name.replace(".", "_")), node)

    def _without_gradient(self, node: fx.Node, root: nn.Module, values: dict[fx.Node, Any]) -> Sequence[Any]:
        enabled, submodule, *args = node.args
        assert isinstance(submodule, fx.Node)
        inner = getattr(root, str(submodule.target))
        before = self.graph.call_function(torch.is_grad_enabled)
        self.graph.call_function(torch._C._set_grad_enabled, (enabled,))
        inside = dict(
            zip(inner.graph.find_nodes(op="placeholder"), fx.node.map_arg(args, values.__getitem__), strict=True)
        )
        returned = self._copied(inner.graph, inner, inside)
        self.graph.call_function(torch._C._set_grad_enabled, (before,))
        return returned

    def _kept_whole(self, node: fx.Node, root: nn.Module, values: dict[fx.Node, Any]) -> fx.Node:
        """A branch, loop or region of another kind, as it is: none of its operators is converted.

        Raises:
            CaptureError: convolutions stand in it.
        """
        for inner in (one for one in node.all_input_nodes if one.op == "get_attr" and one not in values):
            module = getattr(root, str(inner.target))
            if any(one.op.startswith("call") and "conv" in str(one.target) for one in _all_nodes(module)):
                raise CaptureError(
                    f"torch.export puts convolutions into a region of its own ({node.target}), which stays as it is\n"
                    "  capture='islands' keeps the model's own Python"
                )
            name = f"region_{len(self.constants)}"
            self.constants[name] = module
            values[inner] = self.graph.create_node("get_attr", name)
        return self._signed(self.graph.node_copy(node, values.__getitem__), node)

    def _signed(self, new: fx.Node, old: fx.Node) -> fx.Node:
        new.meta = {key: old.meta[key] for key in _KEPT_META if key in old.meta}
        new.meta["nn_module_stack"] = _clean_stack(old.meta.get("nn_module_stack", {}))
        new.stack_trace = _users_lines(old.stack_trace)
        return new


def _holds(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(fetch(model, name), torch.Tensor)
    except AttributeError:
        return False


def _all_nodes(module: Any) -> Iterator[fx.Node]:
    for one in module.modules():
        if isinstance(one, fx.GraphModule):
            yield from one.graph.nodes


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))


def _in_order(nodes: Sequence[fx.Node], found: Sequence[torch.Tensor], asked: Sequence[torch.Tensor]) -> list[fx.Node]:
    """The nodes of the tensors `found`, in the order in which these are `asked` for."""
    left = list(zip(found, nodes, strict=True))
    ordered = []
    for tensor in asked:
        at = next(i for i, (one, _) in enumerate(left) if one is tensor)
        ordered.append(left.pop(at)[1])
    return ordered


def _literal(spec: pytree.TreeSpec, leaves: Iterator[Any]) -> tuple[Any] | None:
    """What is returned as tuples, lists and dicts of nodes, in a tuple of one; None if it is more than these."""
    if spec.is_leaf():
        return (next(leaves),)
    children = [_literal(child, leaves) for child in spec.children()]
    if spec.type not in (tuple, list, dict) or None in children:
        return None
    values = [child[0] for child in children if child is not None]
    return (dict(zip(spec.context, values, strict=True)) if spec.type is dict else spec.type(values),)


def _clean_stack(stack: Mapping[str, Any]) -> dict[str, Any]:
    """The modules whose forward runs, by their names in the model; a second call of one is that one."""
    found = {}
    for key, (path, kind) in stack.items():
        name = re.sub(r"@\d+", "", str(path))
        if f"{name}.".startswith(_PREFIX):
            found[key] = (f"{name}.".removeprefix(_PREFIX).removesuffix("."), kind)
    return found


def _users_lines(trace: str | None) -> str:
    """A stack trace without torch's own frames."""
    lines = (trace or "").splitlines()
    kept = []
    for at, line in enumerate(lines):
        file = re.match(r'\s*File "([^"]+)"', line)
        if file and is_users_file(file[1]):
            kept += [line, *(one for one in lines[at + 1 : at + 2] if not one.lstrip().startswith("File "))]
    return "\n".join(kept)


def admitted(graph: fx.Graph, way: Way) -> str:
    """What inputs a graph with checks takes, in words."""
    asked = [str(node.args[1]) for node in graph.nodes if node.target is admit]
    sizes = "any sizes" if way.dynamic else "the sizes of the sample"
    return f"{sizes} with {', '.join(asked)}" if asked else sizes
