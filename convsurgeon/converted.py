"""The result: a GraphModule with the original's tree, names, aliases, hooks and metadata, however it is copied."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Mapping
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


Mode = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which node of the original graph a node stands for, which rule made it ("" for a copy), and its value's form."""

    node: str
    rule: str
    form: Form


@dataclass(frozen=True, slots=True)
class Facts:
    """What a converted module knows of its conversion."""

    captured_mode: Mode | None
    unit_axis: Literal[-2, -1]
    own_modes: Mapping[bool, Mapping[str, bool]]


class Scope(nn.Module):
    """A place in the module tree whose forward was captured into the graph above it.

    It holds the submodules, parameters and buffers of the original module under their names, and its mode. Where the
    original's class has its own way of saving or loading state, the place is of that class as well.
    """

    @classmethod
    def of(cls, module: nn.Module) -> Scope:
        """The place of `module`, with what it holds."""
        kind = type(module)
        saves = any(getattr(kind, name) is not getattr(nn.Module, name) for name in _SAVING)
        scope = _new_scope(kind) if saves else cls()
        take_contents(scope, module, attributes=saves)
        scope.__dict__["_convsurgeon_original"] = kind.__name__
        return scope

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: what this module computed is part of the converted model's graph.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"this {self._convsurgeon_original} was captured into the graph of the converted model and can't be called "
            "alone; call the converted model, or convert this submodule by itself"
        )

    def _get_name(self) -> str:
        return f"Scope[{self._convsurgeon_original}]"

    def __getitem__(self, index: int | str) -> nn.Module:
        """A submodule by name or, as in a Sequential, by place."""
        return list(self.children())[index] if isinstance(index, int) else self.get_submodule(index)

    def __reduce__(self) -> Any:
        kind = type(self)
        return (_new_scope, (kind.__mro__[2],), vars(self)) if kind is not Scope else super().__reduce__()


_SAVING = (
    *("get_extra_state", "set_extra_state", "state_dict", "load_state_dict"),
    *("_save_to_state_dict", "_load_from_state_dict"),
)
"""The methods by which a class may change what a state_dict holds."""


def _new_scope(kind: type[nn.Module]) -> Scope:
    """An empty place that saves and loads as `kind` does."""
    scope: Scope = object.__new__(type(f"Scope_{kind.__name__}", (Scope, kind), {}))
    return scope


class ConvertedModule(fx.GraphModule):
    """A GraphModule that keeps what a stock one drops.

    Modules that forward never calls, aliases, hooks on the root, node metadata and the class survive `copy.deepcopy`,
    pickling and `torch.save`. ``train()`` and ``eval()`` raise `UnsupportedError` if the graph is frozen to the other
    mode.
    """

    @classmethod
    def build(
        cls,
        tree: nn.Module,
        graph: fx.Graph,
        class_name: str,
        captured_mode: Mode | None,
        unit_axis: Literal[-2, -1],
        own_modes: Mapping[bool, Mapping[str, bool]],
    ) -> ConvertedModule:
        """A converted module with the contents of `tree` (modules, parameters, buffers, hooks, mode) and `graph`.

        `own_modes`: the submodules that ``train(mode)`` leaves in another mode than it is given, as the original's
        does.

        Raises:
            UnsupportedError: the original holds something under a name that every GraphModule needs.
        """
        taken = [name for name in (*tree._modules, *tree._parameters, *tree._buffers) if name in _TAKEN]
        if taken:
            raise UnsupportedError(
                f"{class_name}.{taken[0]} has a name that torch.fx.GraphModule uses for itself; rename it in the model"
            )
        result = cls(nn.Module(), fx.Graph(), class_name)
        take_contents(result, tree)
        result.__dict__["_convsurgeon"] = Facts(captured_mode, unit_axis, own_modes)
        result.graph = graph
        return result

    @property
    def captured_mode(self) -> Mode | None:
        """The mode that the graph is frozen to, None where it follows ``train()`` and ``eval()``."""
        facts: Facts = self.__dict__["_convsurgeon"]
        return facts.captured_mode

    @property
    def unit_axis(self) -> Literal[-2, -1]:
        """Where the unit axis stands in 2-D values."""
        facts: Facts = self.__dict__["_convsurgeon"]
        return facts.unit_axis

    def recompile(self) -> Any:
        """Generate ``forward`` from the graph; one that changes the grad mode puts it back even where it fails."""
        code = super().recompile()
        if any(node.target is torch._C._set_grad_enabled for node in self._graph.nodes):
            kind: Any = type(self)
            kind.forward = _restoring_grad_mode(kind.forward)
        return code

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
        super().train(mode)
        facts: Facts = self.__dict__["_convsurgeon"]
        for path, own in facts.own_modes.get(mode, {}).items():
            self.get_submodule(path).training = own
        return self

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


def _restoring_grad_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def restoring(*args: Any, **kwargs: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return forward(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(before)

    return restoring


_TAKEN = frozenset({*dir(ConvertedModule), "meta", "shape_env"}) - frozenset(dir(nn.Module))
"""The names of a GraphModule's own attributes, which would hide a submodule, parameter or buffer."""


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
