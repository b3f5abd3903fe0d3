"""Turns the user's model into a graph, over a clone, so that the model itself is never touched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import fx, nn

from convsurgeon.capture.arguments import held_arguments
from convsurgeon.capture.by_export import export_graph
from convsurgeon.capture.counters import Place, counted_since, numbers_of, watch
from convsurgeon.capture.held import version_of
from convsurgeon.capture.modes import Trace, difference, follows_mode
from convsurgeon.capture.own_train import training_changes_more
from convsurgeon.capture.places import where_in_user_code
from convsurgeon.capture.state import fetch, in_mode, undone, without_global_hooks
from convsurgeon.capture.tracer import ModelTracer
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.converted.frozen_graph import copied_graph
from convsurgeon.errors import CaptureError
from convsurgeon.samples import Sample

__all__ = ["Capture", "Modules", "capture_export", "capture_model", "fetch", "inlined_paths", "modules_of"]


Modules = Mapping[str, nn.Module]
"""Every module of a tree by qualified name, aliases included."""


@dataclass(frozen=True)
class Capture:
    """A graph that computes what the model computes, and a clone of the model's modules for it to run on.

    `mode` is the mode that the graph is frozen to, or None where it follows ``train()`` and ``eval()``; `reason` says
    what froze it. `path` is the name of the captured submodule, "" for the whole model. `pinned` names tensors that
    have to keep their shape, and why. `admits` says in words what inputs an exported graph takes. `constants` names the
    tensors that forward made while it was traced, each with how often it had been written in place.
    `taken_for_tensors`: the nodes whose class forward asked for, while there was no value to tell it by.
    """

    root: nn.Module
    graph: fx.Graph
    how: Literal["trace", "export", "graph"]
    mode: Literal["train", "eval"] | None = None
    reason: str = ""
    path: str = ""
    pinned: Mapping[str, str] = field(default_factory=dict)
    admits: str = ""
    constants: Mapping[str, int] = field(default_factory=dict)
    taken_for_tensors: frozenset[fx.Node] = frozenset()

    @property
    def refilled(self) -> str:
        """The constant that the graph wrote to when it ran, where forward makes another in each call; "" if none."""
        written = (name for name, times in self.constants.items() if version_of(fetch(self.root, name)) > times)
        return next(written, "")

    @cached_property
    def modules(self) -> Modules:
        """The clone's modules, as ``call_module`` nodes name them."""
        return modules_of(self.root)

    def qualified(self, name: str) -> str:
        """The name in the whole model of what has `name` in the captured submodule."""
        return ".".join(part for part in (self.path, name) if part)

    def restore_buffers(self, model: nn.Module) -> None:
        """Take back what a run of the graph wrote to the clone's buffers: they hold what those of `model` do."""
        held = dict(model.named_buffers())
        with torch.no_grad():
            for name, buffer in self.root.named_buffers():
                if version_of(buffer) > 0 and name in held and held[name].shape == buffer.shape:
                    buffer.copy_(held[name])


def modules_of(root: nn.Module) -> Modules:
    """Every module under `root` by qualified name, aliases included."""
    return dict(root.named_modules(remove_duplicate=False))


def capture_model(
    model: nn.Module,
    sample: Sample | None,
    *,
    path: str = "",
    pinned: Mapping[str, str] | None = None,
    opened: frozenset[str] = frozenset(),
) -> Capture:
    """Capture `model` by symbolic tracing; a GraphModule is taken as it is.

    `path` and `pinned` are told on; modules that hold a pinned tensor, and those in `opened`, are traced into.

    Raises:
        CaptureError: forward can't be traced, or keeps something that a graph doesn't; says where, and what to try.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            f"{type(model).__name__} is a scripted module, which has no Python to trace\n"
            "  convert the nn.Module that it was scripted from, and script the result"
        )
    root = clone_module(model, share_parameters)
    pinned = {**_computed_by_hooks(model), **(pinned or {})}
    if isinstance(root, fx.GraphModule):
        mode = getattr(root, "captured_mode", None)
        reason = "the graph holds it" if mode else ""
        return Capture(root, copied_graph(root.graph), "graph", mode, reason, path, pinned)
    opened |= {name.rpartition(".")[0] for name in pinned}
    held = _held(model, sample)
    asked: Literal["train", "eval"] = "train" if model.training else "eval"
    with preserved_random_state() as state:
        tracer = functools.partial(ModelTracer, held, opened, model)
        once = functools.partial(_trace, root, tracer, state)
        trace = once(None)
        reason, asked = _frozen_by(root) or ("", asked)
        if not reason:
            reason, trace = _of_both_modes(root, once, trace)
        reason = reason or _of_evaluation_alone(model)
    vars(root).update(trace.constants)
    made = {name: version_of(tensor) for name, tensor in trace.constants.items()}
    mode = asked if reason else None
    return Capture(root, trace.graph, "trace", mode, reason, path, pinned, "", made, trace.taken_for_tensors)


def capture_export(model: nn.Module, sample: Sample, *, open_only: bool = False) -> Capture:
    """Capture `model` by ``torch.export``; with `open_only`, in no way that bakes the sample's sizes in.

    Raises:
        CaptureError: it can't be exported; says where, and what to try.
    """
    _held(model, sample)
    exported = export_graph(model, sample, open_only=open_only)
    root = clone_module(model, share_parameters)
    vars(root).update(exported.trace.constants)
    alone = _of_evaluation_alone(model) if exported.mode is None else ""
    return Capture(
        root,
        exported.trace.graph,
        "export",
        "eval" if alone else exported.mode,
        alone or exported.reason,
        pinned=_computed_by_hooks(model),
        admits=exported.admits,
    )


def _held(model: nn.Module, sample: Sample | None) -> dict[str, Any]:
    """The arguments of forward that are held; one that hangs on the model itself may take others.

    Raises:
        CaptureError: that is so.
        ValueError: the sample doesn't fit the model's forward.
    """
    try:
        return held_arguments(model, sample)
    except ValueError as error:
        if "forward" not in vars(model):
            raise
        raise CaptureError(
            f"another forward hangs on {type(model).__name__} than its class has, and takes other arguments\n"
            "  a graph is called as that of the class; wrap what is to be called in a module of its own, or use "
            "capture='islands'"
        ) from error


def _computed_by_hooks(model: nn.Module) -> dict[str, str]:
    """What a hook of `model` itself may compute before each call, as old spectral norm does, in a shape of its own."""
    names = [name for name, value in vars(model).items() if isinstance(value, torch.Tensor)]
    return dict.fromkeys(names if model._forward_pre_hooks else (), "is computed by a hook of the model")


def _of_both_modes(root: nn.Module, trace: Callable[..., Trace], as_it_is: Trace) -> tuple[str, Trace]:
    """The graph that follows the mode, or what keeps the graph of the model's own mode from doing so."""
    flags = {module.training for module in root.modules()}
    try:
        training, evaluation = (as_it_is if flags == {mode} else trace(mode) for mode in (True, False))
        if difference(training, evaluation) is None:
            return "", training
        flagged = trace(True, flagged=True)
    except CaptureError as error:
        return str(error).splitlines()[0], as_it_is
    reason = follows_mode(training, evaluation, flagged)
    return (reason, as_it_is) if reason else ("", flagged)


def _of_evaluation_alone(model: nn.Module) -> str:
    """Why a graph that was captured in evaluation mode is of no other, in words; "" where it follows the mode."""
    frozen = not model.training and training_changes_more(model)
    return "the model's own train() changes more than modes" if frozen else ""


def _frozen_by(root: nn.Module) -> tuple[str, Literal["train", "eval"]] | None:
    """The converted submodule, if any, whose own graph is frozen to one mode: in words, and the mode."""
    for name, module in root.named_modules():
        mode = getattr(module, "captured_mode", None)
        if mode in ("train", "eval"):
            return f"{name} was captured in {mode} mode only", mode
    return None


def _trace(
    root: nn.Module, tracer: Callable[[], ModelTracer], state: RandomState, mode: bool | None, *, flagged: bool = False
) -> Trace:
    """One trace in one mode; the modules are left as they were."""
    with in_mode(root, mode, flagged=flagged), without_global_hooks(), undone(root) as left, torch.enable_grad():
        trace = _traced(root, tracer())
    if left.changed and left.proxies is None:
        with in_mode(root, mode, flagged=flagged), without_global_hooks(), undone(root) as left, torch.enable_grad():
            trace, numbers = _traced(root, tracer()), numbers_of(root)
            again = _traced(root, tracer())
            kept = [replace(one, constants=_constants(root, one.graph)) for one in (trace, again)]
            if difference(*kept) is not None:
                raise CaptureError(_has_memory(root, "what it computed before"))
            if (counted := counted_since(root, numbers)) and (decides := _decides_by(root, counted, tracer())):
                raise CaptureError(_has_memory(root, f"'{decides}', by which it decides,"))
    if left.proxies is not None:
        raise CaptureError(_has_memory(root, f"'{left.proxies}'"))
    if left.drew or not RandomState.capture().same_stream(state):
        state.restore()
        raise CaptureError(
            f"{type(root).__name__}.forward draws random numbers that depend on no input\n"
            "  torch.fx would freeze them into the graph as constants\n"
            "  draw them from an input's shape (torch.randn_like), or pass them in as an argument"
        )
    return replace(trace, constants=left.constants)


def _decides_by(root: nn.Module, counted: list[Place], tracer: ModelTracer) -> str:
    """Which of these numbers, that are others after each call, forward decides by; "" if it only counts."""
    told = watch(root, counted)
    _traced(root, tracer)
    return next(iter(told), "")


def _constants(root: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    """The tensors that a graph reads and that are no state: what forward made, under whatever name it is found."""
    state = {id(one) for one in (*root.parameters(), *root.buffers())}
    read = {str(node.target): fetch(root, str(node.target)) for node in graph.find_nodes(op="get_attr")}
    return {name: one for name, one in read.items() if isinstance(one, torch.Tensor) and id(one) not in state}


def _traced(root: nn.Module, tracer: ModelTracer) -> Trace:
    try:
        with WriteGuard(root) as guard:
            graph = tracer.trace(root)
    except Exception as error:  # forward is the user's code and may raise anything: it is reported, with its place
        raise CaptureError(_explain(root, error)) from error
    if guard.saw_writes:
        raise CaptureError(
            f"{type(root).__name__}.forward writes to a parameter that it holds beside its modules, or iterates over\n"
            "  a trace sees only what is read as an attribute of a module, and would lose it\n"
            "  write to it outside forward, or use capture='islands', which keeps the model's own Python"
        )
    return Trace(graph, {}, frozenset(tracer.taken_for_tensors))


def _has_memory(root: nn.Module, what: str) -> str:
    return (
        f"{type(root).__name__} keeps {what} from one call to the next\n"
        "  a traced graph has no such memory, and would compute something else from the second call on\n"
        "  pass the value in and out as an argument, keep it in a buffer that is written in place from inputs, or "
        "convert the submodules that keep nothing"
    )


def _explain(root: nn.Module, error: Exception) -> str:
    where = where_in_user_code(error)
    seen = " ".join(str(error).split())
    return (
        f"{type(root).__name__} can't be traced by torch.fx\n"
        + (f"  at {where}\n" if where else "")
        + f"  {type(error).__name__}: {seen[:300]}\n"
        "  a trace records operations without running them, so forward must not branch, loop or index on the values or "
        "sizes of tensors\n"
        "  move that out of forward, or convert the submodules that can be traced: capture='auto' or 'islands' does"
    )


def inlined_paths(modules: Modules, graph: fx.Graph) -> set[str]:
    """The submodules whose forward the graph holds: on the way to a call, but not called as a whole."""
    stacks = (node.meta.get("nn_module_stack", {}).values() for node in graph.nodes)
    paths = {str(entry[0]) for stack in stacks for entry in stack}
    called = {str(node.target) for node in graph.find_nodes(op="call_module")}
    return (paths - called - {""}) & modules.keys()
