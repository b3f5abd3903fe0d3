"""Turns the user's model into a graph, over a clone, so that the model itself is never touched."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import fx, nn

from convsurgeon.capture.modes import fetch, merge_modes
from convsurgeon.capture.tracer import ModelTracer, is_users_file
from convsurgeon.cloning import clone_module, share_parameters
from convsurgeon.errors import CaptureError
from convsurgeon.rng import RandomState, preserved_random_state
from convsurgeon.samples import Sample

__all__ = ["Capture", "Modules", "capture_model", "fetch", "inlined_paths", "modules_of", "where_in_user_code"]


Modules = Mapping[str, nn.Module]
"""Every module of a tree by qualified name, aliases included."""


@dataclass(frozen=True)
class Capture:
    """A graph that computes what the model computes, and a clone of the model's modules for it to run on.

    `mode` is the mode that the graph is frozen to, or None where it follows ``train()`` and ``eval()``; `reason` says
    what froze it.
    """

    root: nn.Module
    graph: fx.Graph
    how: Literal["trace", "graph"]
    mode: Literal["train", "eval"] | None = None
    reason: str = ""

    @cached_property
    def modules(self) -> Modules:
        """The clone's modules, as ``call_module`` nodes name them."""
        return modules_of(self.root)


def modules_of(root: nn.Module) -> Modules:
    """Every module under `root` by qualified name, aliases included."""
    return dict(root.named_modules(remove_duplicate=False))


def capture_model(model: nn.Module, sample: Sample | None) -> Capture:
    """Capture `model` by symbolic tracing; a GraphModule is taken as it is.

    Raises:
        CaptureError: forward can't be traced, or keeps something that a graph doesn't; says where, and what to try.
    """
    root = clone_module(model, share_parameters)
    if isinstance(root, fx.GraphModule):
        return Capture(root, copy.deepcopy(root.graph), "graph")
    held = _held_arguments(model, sample)
    asked: Literal["train", "eval"] = "train" if model.training else "eval"
    with preserved_random_state() as state:
        as_it_is = _trace(root, held, state, None)
        modes = {module.training for module in root.modules()}
        try:
            training, evaluation = (
                as_it_is if modes == {mode} else _trace(root, held, state, mode) for mode in (True, False)
            )
        except CaptureError as error:
            return Capture(root, as_it_is, "trace", asked, str(error).splitlines()[0])
    difference = merge_modes(root, training, evaluation)
    if difference is None:
        return Capture(root, training, "trace")
    return Capture(root, as_it_is, "trace", asked, difference)


def _held_arguments(model: nn.Module, sample: Sample | None) -> dict[str, Any]:
    """Arguments that steer forward rather than flow through it: flags, None, and whatever the sample leaves out."""
    signature = inspect.signature(type(model).forward)
    if sample is None:
        given: dict[str, Any] = {}
    else:
        try:
            given = dict(signature.bind(model, *sample.args, **sample.kwargs).arguments)
        except TypeError as error:
            raise ValueError(
                f"sample_inputs don't fit {type(model).__name__}.forward{signature}: {error}; given: {sample}"
            ) from None
    held = {}
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in given and parameter.default is not parameter.empty:
            held[name] = parameter.default
        elif name in given and isinstance(given[name], (bool, str, type(None))):
            held[name] = given[name]
    return held


def _trace(root: nn.Module, held: dict[str, Any], state: RandomState, mode: bool | None) -> fx.Graph:
    tracer = ModelTracer(held)
    with _in_mode(root, mode), _unchanged_state(root):
        try:
            with torch.enable_grad():
                graph = tracer.trace(root)
        except Exception as error:  # forward is the user's code and may raise anything: it is reported, with its place
            raise CaptureError(_explain(root, error)) from error
    if not RandomState.capture().same_stream(state):
        state.restore()
        raise CaptureError(
            f"{type(root).__name__}.forward draws random numbers that depend on no input\n"
            "  torch.fx would freeze them into the graph as constants\n"
            "  draw them from an input's shape (torch.randn_like), or pass them in as an argument"
        )
    return graph


@contextmanager
def _in_mode(root: nn.Module, mode: bool | None) -> Iterator[None]:
    flags = [(module, module.training) for module in root.modules()]
    for module, _ in flags if mode is not None else ():
        object.__setattr__(module, "training", mode)
    try:
        yield
    finally:
        for module, flag in flags:
            object.__setattr__(module, "training", flag)


@contextmanager
def _unchanged_state(root: nn.Module) -> Iterator[None]:
    """Undo, and refuse, what forward leaves behind in its modules: a graph has no memory from call to call."""
    modules = list(root.named_modules())
    before = [(vars(m).copy(), m._buffers.copy(), m._parameters.copy()) for _, m in modules]
    versions = [(name, t, t._version) for name, t in _tensors(root)]
    found = None
    try:
        yield
        for (name, module), (attributes, _, _) in zip(modules, before, strict=True):
            computed = {getattr(hook, "name", None) for hook in module._forward_pre_hooks.values()}
            for key, value in vars(module).items():
                changed = key not in attributes or attributes[key] is not value
                if changed and _holds_proxy(value) and key not in computed:
                    found = (name, key)
        for name, tensor, version in versions:
            if tensor._version != version:
                found = (name, "its values")
    finally:
        for (_, module), (attributes, buffers, parameters) in zip(modules, before, strict=True):
            traced = {k: v for k, v in vars(module).items() if k.startswith("_") and k not in attributes}
            vars(module).clear()
            vars(module).update(attributes)
            vars(module).update({k: v for k, v in traced.items() if isinstance(v, torch.Tensor)})
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
    if found:
        raise CaptureError(
            f"{type(root).__name__} keeps a value from one call to the next: "
            f"'{found[0]}' changes {found[1]!r} in forward\n"
            "  a traced graph has no such memory, and would compute something else from the second call on\n"
            "  pass the value in and out as an argument, keep it in a buffer that is written in place from inputs, or "
            "convert the submodules that keep nothing"
        )


def _tensors(root: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in root.named_modules():
        for held in (vars(module), module._parameters, module._buffers):
            for value in held.values():
                if isinstance(value, torch.Tensor):
                    yield name, value


def _holds_proxy(value: Any) -> bool:
    found = []
    fx.node.map_aggregate(value, lambda leaf: found.append(leaf) if isinstance(leaf, fx.Proxy) else None)
    return bool(found)


def where_in_user_code(error: BaseException) -> str:
    """The innermost line of the user's own code that an error passed through, or ""."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users_file(f.filename)]
    if not frames:
        return ""
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}"


def _explain(root: nn.Module, error: Exception) -> str:
    where = where_in_user_code(error)
    seen = " ".join(str(error).split())
    return (
        f"{type(root).__name__} can't be traced by torch.fx\n"
        + (f"  at {where}\n" if where else "")
        + f"  {type(error).__name__}: {seen[:300]}\n"
        "  a trace records operations without running them, so forward must not branch, loop or index on the values or "
        "sizes of tensors\n"
        "  move that out of forward, or convert the submodules that can be traced: convsurgeon.convert(model.part, ...)"
    )


def inlined_paths(root: nn.Module, graph: fx.Graph) -> set[str]:
    """The submodules whose forward the graph holds: on the way to a call, but not called as a whole."""
    stacks = (node.meta.get("nn_module_stack", {}).values() for node in graph.nodes)
    paths = {str(entry[0]) for stack in stacks for entry in stack}
    called = {str(node.target) for node in graph.find_nodes(op="call_module")}
    known = {name for name, _ in root.named_modules(remove_duplicate=False)}
    return (paths - called - {""}) & known
