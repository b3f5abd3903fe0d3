"""Whether an accelerator takes a model's operators: one run of clones, each operator read. It rewrites nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from convsurgeon.alone import alone
from convsurgeon.capture.places import where_in_user_code
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.collector import paused_collector
from convsurgeon.converted.forms import ranks_of
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.errors import MisfitError, UnsupportedError
from convsurgeon.exported import module_of_program
from convsurgeon.fitting.fit import Fit, FittedOperator, Misfit, Total, Verdict
from convsurgeon.fitting.mending import MENDS, Mend, mends
from convsurgeon.fitting.operation import Operation
from convsurgeon.fitting.recording import Ran, Recorder, elements
from convsurgeon.fitting.running import Calls, RecordedRun
from convsurgeon.runs.observe import bind
from convsurgeon.samples import Sample, as_samples
from convsurgeon.targets import Family, Limit, Target, load_target

__all__ = ["MENDS", "Fit", "FittedOperator", "Mend", "Misfit", "Total", "Verdict", "fit", "require_closed"]


@alone
@paused_collector()
@torch.inference_mode(False)
def fit(
    module: nn.Module | ExportedProgram,
    target: str | os.PathLike[str] | Target,
    sample_inputs: Any = None,
    *,
    strict: bool = False,
) -> Fit:
    """Say which operators of `module` an accelerator takes, which after an exact rewrite, and which not, and why.

    The model runs once on the sample, over clones, in the mode that it is in; nothing of it is changed. Sizes are those
    of that run. Computing with weights alone (weight norm) counts as nothing, as a compiler folds it. What fits breaks
    no limit of the profile; of what a profile says nothing, the compiler has the word.

    Args:
        module: what `convert` returns as ``module``, another ``fx.GraphModule``, an ``ExportedProgram``, or any
            ``nn.Module``, whose operators are then told by the module and the function of torch that ran.
        target: the name of an accelerator, the path of a profile of your own (`convsurgeon.targets` says what is in
            one), or a `Target`.
        sample_inputs: what to call the model with, as for `convert`; of a list, the first. A program is run with its
            example inputs where none is given.
        strict: raise where an operator doesn't fit as it is.

    Returns:
        A `Fit`: ``fits``, ``operators``, ``totals``; printed, it is the report.

    Raises:
        MisfitError: with `strict`, where an operator doesn't fit.
        UnsupportedError: a graph has branches or loops of its own (``torch.cond``).
        ValueError: an unknown target, a profile that is wrong, no sample, or one that the model can't run on; or the
            accelerator takes static shapes, and a program leaves a length open for which there is no sample.
        TypeError: an argument of another kind.
        OSError: a profile can't be read.
    """
    profile = load_target(target)
    if isinstance(module, OptimizedModule):
        module = module._orig_mod
    if not isinstance(module, (nn.Module, ExportedProgram)):
        raise TypeError(
            f"module is a {type(module).__name__}; accepted: a torch.nn.Module, a torch.fx.GraphModule or a "
            "torch.export.ExportedProgram"
        )
    sample = _sample(module, profile, sample_inputs)
    model = module_of_program(module) if isinstance(module, ExportedProgram) else module
    judge = _Judge(profile)
    found = Fit(
        model="ExportedProgram" if isinstance(module, ExportedProgram) else type(module).__name__,
        target=profile,
        sample=str(sample),
        operators=tuple(map(judge.judged, _run(model, sample).ran())),
    )
    if strict and not found.fits:
        raise MisfitError(f"{found}\n  strict=True asks that every operator fits as it is")
    return found


def _sample(module: nn.Module | ExportedProgram, target: Target, given: Any) -> Sample:
    """What to run with: the first sample, or a program's own example where that leaves nothing open."""
    samples = as_samples(given)
    if samples:
        return samples[0]
    if not isinstance(module, ExportedProgram) or module.example_inputs is None:
        raise ValueError("there is nothing to run the model with: give sample_inputs; sizes are those of that run")
    require_closed(module, target)
    return Sample(*module.example_inputs)


def require_closed(program: ExportedProgram, target: Target) -> None:
    """Refuse to take a program's own example for the length that it is to run at, where an accelerator needs one.

    Raises:
        ValueError: the accelerator takes static shapes, and the program leaves some open.
    """
    opened = _open_axes(program) if target.static_shapes else []
    if opened:
        raise ValueError(
            f"{target.title} takes static shapes ({target.source}), and the program leaves open: {'; '.join(opened)}\n"
            "  give a sample (in a shell: --input) of the length that it is to run at"
        )


def _open_axes(program: ExportedProgram) -> list[str]:
    """The axes of a program's inputs whose size isn't fixed, in words."""
    values = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    names = [one.arg.name for one in program.graph_signature.input_specs if one.kind is InputKind.USER_INPUT]
    return [
        f"axis {axis} of {name} ({size})"
        for name in names
        for axis, size in enumerate(getattr(values[name], "shape", ()))
        if isinstance(size, torch.SymInt)
    ]


def _run(model: nn.Module, sample: Sample) -> Recorder:
    """Run clones of what the model runs once, and record it."""
    _require_readable(model)
    sample = _as_taken(model, sample).map(lambda tensor: tensor.detach().clone())
    recorder = Recorder(model)
    run = _prepared(model, sample, recorder)
    with preserved_random_state(), torch.no_grad(), recorder:
        try:
            run()
        except Exception as error:  # the user's model may raise anything on a sample: told with its line
            where = where_in_user_code(error)
            raise ValueError(
                f"sample_inputs: {type(model).__name__} can't run on {sample}"
                + (f"\n  at {where}" if where else "")
                + f"\n  {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
                "  give a sample that the model accepts"
            ) from error
    return recorder


def _require_readable(model: nn.Module) -> None:
    """Raise if a graph has a branch or a loop of its own.

    Raises:
        UnsupportedError: it has; what it computes there can't be read.
    """
    nodes = model.graph.nodes if isinstance(model, fx.GraphModule) else ()
    regions = [node for node in nodes if isinstance(node.target, HigherOrderOperator)]
    if regions:
        raise UnsupportedError(
            f"{type(model).__name__} has regions of its own ({regions[0]} calls {regions[0].target}), whose operators "
            "a run doesn't tell; ask for what is around them, or inside, by itself"
        )


def _as_taken(model: nn.Module, sample: Sample) -> Sample:
    """The sample as a graph takes it: of a converted module with ``io="2d"``, the original's is one as well."""
    if not isinstance(model, ConvertedModule) or not model.inputs_in_2d:
        return sample
    given, ranks = bind(model.graph, sample), ranks_of(model)
    in_1d = (
        given[name].dim() in ranks.get(name, ()) for name in model.inputs_in_2d if torch.is_tensor(given.get(name))
    )
    return Sample(*model.inputs_2d(*sample.args, **sample.kwargs)) if all(in_1d) else sample


def _prepared(model: nn.Module, sample: Sample, recorder: Recorder) -> Callable[[], object]:
    """What runs clones; these are made before anything is recorded.

    Raises:
        TypeError: a graph doesn't take the sample.
    """
    if isinstance(model, fx.GraphModule):
        return RecordedRun(model, sample, recorder).run_through
    clone = clone_module(model, share_parameters)
    recorder.hold((*clone.parameters(), *clone.buffers()))
    calls = Calls(recorder)
    calls.follow("", clone)

    def call() -> None:
        with calls:
            clone(*sample.args, **sample.kwargs)

    return call


class _Judge:
    """Holds operators against an accelerator's limits; those that are alike once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._limits: dict[Family, tuple[tuple[Limit, ...], tuple[Limit, ...]]] = {}
        self._known: dict[int, tuple[Operation, list[tuple[Misfit, ...]], tuple[int, int]]] = {}

    def judged(self, one: Ran) -> FittedOperator:
        """An operator that ran, with every limit that it breaks."""
        operation = one.operation
        if id(operation) not in self._known:
            self._known[id(operation)] = operation, self._broken(operation), elements(operation.outputs)
        _, (misfits, costly), (count, nbytes) = self._known[id(operation)]
        return FittedOperator(
            node=one.node,
            name=one.name,
            operator=operation.operator,
            family=operation.family,
            shape=operation.outputs[0].shape if operation.outputs else (),
            misfits=misfits,
            macs=operation.macs,
            parameters=one.parameters,
            elements=count,
            nbytes=nbytes,
            costly=costly,
        )

    def _broken(self, operation: Operation) -> list[tuple[Misfit, ...]]:
        """The limits that an operation breaks, and the preferences."""
        family = operation.family
        if family not in self._limits:
            self._limits[family] = self._target.limits_of(family), self._target.preferences_of(family)
        return [tuple(self._misfits(operation, limits)) for limits in self._limits[family]]

    def _misfits(self, operation: Operation, limits: tuple[Limit, ...]) -> Iterator[Misfit]:
        for limit in limits:
            seen = limit.broken_by(operation.measure)
            if seen:
                rewrites = mends(operation.family, limit, operation.measure, self._target)
                yield Misfit(
                    quantity=limit.quantity,
                    seen=seen,
                    accepted=limit.accepted,
                    source=limit.source,
                    effect=limit.effect,
                    rewrites=rewrites,
                    most=limit.bound.most,
                    confirmed=limit.confirmed,
                )
