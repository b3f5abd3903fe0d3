"""Captures a model by ``torch.export``: its program in both modes, as one graph over a clone of its modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from convsurgeon.capture.export_modes import follow_mode
from convsurgeon.capture.exporting import ALL_WAYS, OPEN_WAYS, ByLeaves, Exported, ExportFailed, Way, export_model
from convsurgeon.capture.lost import FROZEN, Weights, without_own_backward
from convsurgeon.capture.modes import DiffersError, Trace
from convsurgeon.capture.places import where_in_user_code
from convsurgeon.capture.program import admitted, graph_of, require_leaves
from convsurgeon.capture.state import in_mode, undone, without_global_hooks
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.errors import CaptureError
from convsurgeon.samples import Sample


@dataclass(frozen=True, slots=True)
class Export:
    """The graph of a model, the mode that it is frozen to and why, and what it admits, in words."""

    trace: Trace
    mode: Literal["train", "eval"] | None
    reason: str
    admits: str


def export_graph(model: nn.Module, sample: Sample, *, open_only: bool) -> Export:
    """Export `model`, which isn't changed, in its own mode, and so that it follows the mode where that is possible.

    `open_only`: in no way that bakes the sample's sizes in.

    Raises:
        CaptureError: torch.export can't make a program of it.
    """
    if not _tells_guards():
        raise CaptureError(
            f"torch {torch.__version__} doesn't tell what an exported program asks of its inputs\n"
            "  install torch 2.9 or later, or use capture='islands'"
        )
    require_leaves(model, sample)
    asked: Literal["train", "eval"] = "train" if model.training else "eval"
    flags = {module.training for module in model.modules()}
    with preserved_random_state(), without_global_hooks(), torch.enable_grad():
        as_it_is = _exported(model, sample, None, OPEN_WAYS if open_only else ALL_WAYS)
        guards = as_it_is.program._guards_code
        reason = ""
        try:
            both = {
                mode: as_it_is if flags == {mode} else _exported(model, sample, mode, (as_it_is.way,))
                for mode in (True, False)
            }
            guards = list(dict.fromkeys(guard for one in both.values() for guard in one.program._guards_code))
            trace, evaluation = (graph_of(one.program, model, sample, guards) for one in both.values())
            follow_mode(trace, evaluation)
        except (CaptureError, DiffersError) as error:
            reason = f"{'eval' if model.training else 'train'} mode takes another path ({_first_line(error)})"
            guards = as_it_is.program._guards_code
            trace = graph_of(as_it_is.program, model, sample, guards)
    return Export(trace, asked if reason else None, reason, admitted(trace.graph, as_it_is.way))


def _tells_guards() -> bool:
    return "_guards_code" in torch.export.ExportedProgram.__annotations__


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _exported(model: nn.Module, sample: Sample, mode: bool | None, ways: Sequence[Way]) -> Exported:
    """The program of a clone in one mode.

    Raises:
        CaptureError: it can't be exported, or draws from a generator of its own.
    """
    clone = clone_module(model, share_parameters)
    for hooks in (clone._forward_hooks, clone._forward_pre_hooks):
        hooks.clear()  # the converted module has them too, and calls them around the graph
    weights = Weights(clone, model)
    buffers = {f"{ByLeaves.PREFIX}.{name}" for name, _ in clone.named_buffers(remove_duplicate=False)}
    try:
        with in_mode(clone, mode), without_own_backward(), undone(clone) as left:
            exported = export_model(clone, sample, ways)
    except ExportFailed as error:
        raise CaptureError(_explain(model, error)) from error.first
    # what is drawn in a run on fake tensors leaves the generator where it was
    if left.drew or any(isinstance(held, torch.Generator) for held in exported.program.constants.values()):
        raise CaptureError(
            f"{type(model).__name__} draws from a generator of its own, which an exported program would freeze\n"
            "  pass the generator in, or use capture='islands'"
        )
    frozen = [constant for name, constant in exported.program.constants.items() if name not in buffers]
    if any(isinstance(one, torch.Tensor) and one in weights for one in frozen):
        raise CaptureError(
            f"a tensor of {type(model).__name__} {FROZEN}\n"
            "  read it as an attribute of its module, or use capture='islands'"
        )
    return exported


def _explain(model: nn.Module, error: ExportFailed) -> str:
    where = where_in_user_code(error.first)
    seen = " ".join(str(error.first).split()) or "it took too long"
    ways = ", ".join(f"{way.name} ({type(one).__name__})" for way, one in error.failed)
    return (
        f"{type(model).__name__} can't be exported by torch.export\n"
        + (f"  at {where}\n" if where else "")
        + f"  {type(error.first).__name__}: {seen[:300]}\n"
        f"  tried: {ways}\n"
        "  a program can't decide by the values of tensors; capture='auto' or 'islands' keeps the model's own Python"
    )
