"""Symbolic tracing of one model in one mode: torch.fx's tracer, taught what it would silently drop."""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from convsurgeon.capture.arguments import default_of, hold, of_python, plain
from convsurgeon.capture.lost import FROZEN, Weights, WouldBeLost, hooked, without_own_backward
from convsurgeon.capture.places import user_frames
from convsurgeon.capture.proxies import StateProxy, ValueProxy, answering_isinstance
from convsurgeon.capture.state import ModeFlag
from convsurgeon.clones.remembering import remembered

_OVERRIDABLE = {
    *("__init__", "__repr__", "extra_repr", "reset_parameters", "__module__", "__doc__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
}
"""What a subclass of a layer may have of its own; every class has the second row from Python 3.13 or 3.14 on."""

_LAYER_MODULES = ("torch.nn.modules.", "torch.ao.nn.")


class ModelTracer(fx.Tracer):
    """Traces a clone of the user's model.

    Beyond ``fx.Tracer``: parameters *and buffers* become nodes (an in-place update of a buffer would otherwise run
    once, at trace time), with known shapes; layers whose subclass changes what they compute are traced into; regions
    without gradient are kept; arguments that the sample leaves out are held at their defaults; each node has the user's
    line. Layers whose names are in `opened` are traced into as well. The clone is one of `model`, whose own tensors
    forward may know too, as a closure over ``self`` does. `taken_for_tensors`: what forward asked for its class, and
    was told to be a tensor.
    """

    def __init__(self, held: Mapping[str, Any], opened: Container[str], model: nn.Module) -> None:
        super().__init__()
        self._held = held
        self._opened = opened
        self._model = model
        self._names: dict[int, str] = {}
        self._grad_enabled = True
        self._autocast = _autocast()
        self._callers_grad: fx.Node | None = None
        self.frames: dict[fx.Node, tuple[tuple[str, int, str], ...]] = {}
        self.taken_for_tensors: set[fx.Node] = set()

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        assert isinstance(root, nn.Module)
        self._names = {id(p): name for name, p in (*root.named_parameters(), *root.named_buffers())}
        self._grad_enabled = torch.is_grad_enabled()
        self._weights = Weights(root, self._model)
        self._hooked = {id(one) for one in hooked(module for module in root.modules() if module is not root)}
        with without_own_backward(), _hooks_in_forward(root), self._weights, answering_isinstance():
            graph = super().trace(root, concrete_args)
        for node, frames in self.frames.items():
            node.stack_trace = "\n".join(
                f'  File "{file}", line {line}, in {name}\n    {linecache.getline(file, line).strip()}'
                for file, line, name in frames
            )
        return graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._opened:
            return False
        if isinstance(m, ParametrizationList):
            return not _is_weight_norm(m)
        if isinstance(m, torch.jit.ScriptModule) or (has_hooks(m) and m is not self.root):
            return not _is_weight_normed(m)
        return computes_as_its_layer(m) and not _is_weight_normed(m) and not _convolves_with_computed_weight(m)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        name = self._names.get(id(attr_val)) if isinstance(attr_val, torch.Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy(
                "get_attr", name, (), {}, proxy_factory_fn=lambda node: StateProxy(self, node, attr_val)
            )
        return parameter_proxy_cache[name]

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if kind.startswith(("call", "output")) and torch.is_grad_enabled() is not self._grad_enabled:
            self._follow_grad_mode(torch.is_grad_enabled())
        if _autocast() != self._autocast:
            raise RuntimeError("forward runs under torch.autocast, which a traced graph doesn't keep")
        node = super().create_node(kind, target, *args, **kwargs)
        if kind.startswith("call"):
            self.frames[node] = user_frames(sys._getframe(1))
        return node

    def _follow_grad_mode(self, enabled: bool) -> None:
        """Enter or leave a region without gradient; a region is left to what the caller of the graph had."""
        self._grad_enabled = enabled
        if enabled:
            self.create_node("call_function", torch._C._set_grad_enabled, (self._callers_grad,), {})
        else:
            self._callers_grad = self.create_node("call_function", torch.is_grad_enabled, (), {})
            self.create_node("call_function", torch._C._set_grad_enabled, (False,), {})

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, ModeFlag):
            return self.create_node("get_attr", f"{a.path}.training".removeprefix("."), (), {})
        if isinstance(a, torch.Tensor) and not self._has_name(a) and a in self._weights:
            raise WouldBeLost(f"a tensor of shape {tuple(a.shape)} {FROZEN}")
        return super().create_arg(of_python(a))

    def _has_name(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is read where it hangs; any other becomes a constant.

        What a hook computes before its module is called isn't there yet.
        """
        return id(tensor) in self._names or (tensor in self.tensor_attrs and id(tensor) not in self._hooked)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return ValueProxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # Not through concrete_args, which would flatten every input and output as soon as one of these is a container.
        function, args = super().create_args_for_root(root_fn, is_module, None)
        return function, [self._hold(arg) for arg in args]

    def _hold(self, arg: Any) -> Any:
        """The argument itself, or the value that it is held at."""
        if not isinstance(arg, fx.Proxy) or arg.node.target not in self._held:
            return arg
        name = str(arg.node.target)
        value = self._held[name]
        self.create_proxy("call_function", hold, (arg, plain(value), name), {})
        return value

    def _proxy_placeholder(self, name: str, concrete_args: Any, sig: inspect.Signature, fn_for_analysis: Any) -> Any:
        return self.create_proxy("placeholder", name, default_of(sig, name), {})


def computes_as_its_layer(module: nn.Module) -> bool:
    """Whether `module` is one of torch's own layers, or a subclass that leaves what it computes alone."""
    kind: Any = type(module)
    return not _has_a_method_of_its_own(module) and _class_computes_as_its_layer(kind)


def _has_a_method_of_its_own(module: nn.Module) -> bool:
    """Whether something hangs on `module` in the place of a method of its class, as ``conv._conv_forward = ...``."""
    hung = [name for name, value in vars(module).items() if callable(value) and name not in _OVERRIDABLE]
    classes = type(module).__mro__[: type(module).__mro__.index(nn.Module)] if hung else ()
    return any(name in vars(cls) for cls in classes for name in hung)


@remembered
def _class_computes_as_its_layer(kind: Any) -> bool:
    if issubclass(kind, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    own: set[str] = set()
    for cls in kind.__mro__:
        if cls.__module__.startswith(_LAYER_MODULES):
            return not any(hasattr(cls, name) for name in own)
        if cls.__module__ == "torch.nn.utils.parametrize":
            continue
        own.update(set(vars(cls)) - _OVERRIDABLE)
    return kind.__module__.startswith("torch.nn") and not issubclass(kind, fx.GraphModule)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called with this module's inputs, outputs or their gradients."""
    return any(vars(module).get(hooks) for hooks in HOOKS)


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu")


def _is_weight_normed(module: nn.Module) -> bool:
    """Weight norm, as hook or parametrization, is a function of parameters: traced into, it stays alive."""
    hooks = tuple(module._forward_pre_hooks.values())
    if hooks:
        return not module._forward_hooks and all(type(hook).__name__ == "WeightNorm" for hook in hooks)
    lists = getattr(module, "parametrizations", {})
    return bool(lists) and all(map(_is_weight_norm, lists.values()))


def _is_weight_norm(parametrizations: Iterable[nn.Module]) -> bool:
    return all(type(one).__name__ == "_WeightNorm" for one in parametrizations)


def _convolves_with_computed_weight(module: nn.Module) -> bool:
    """Whether `module` is a convolution whose parametrization is called by itself, and its weight 2-D from there on."""
    return isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and is_parametrized(module)


@contextmanager
def _hooks_in_forward(root: nn.Module) -> Iterator[None]:
    """Inside, forward of a weight-normed root does what its hook does, which torch.fx would otherwise not see."""
    kind = type(root)
    if not root._forward_pre_hooks or not _is_weight_normed(root):
        yield
        return

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for hook in self._forward_pre_hooks.values():
            hook(self, args)
        return kind.forward(self, *args, **kwargs)

    root.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        yield
    finally:
        root.__class__ = kind
