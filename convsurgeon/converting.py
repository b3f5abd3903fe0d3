"""The one call: capture, plan, rewrite, verify, in this order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram

from convsurgeon.aiming import asks_for_square, rewritten_for
from convsurgeon.alone import alone
from convsurgeon.capture import modules_of
from convsurgeon.choosing import Choice, How, choose
from convsurgeon.collector import paused_collector
from convsurgeon.conversion import Conversion
from convsurgeon.errors import MisfitError, UnsupportedError
from convsurgeon.exact import Notes, rewrite_parts, wanted_of
from convsurgeon.fitting import require_closed
from convsurgeon.folding import folded
from convsurgeon.parts import Part
from convsurgeon.planning import Kept, Plan, Selection, make_plan
from convsurgeon.proof import proven
from convsurgeon.request import Request
from convsurgeon.rewrite import rewrite
from convsurgeon.stopwatch import Stopwatch
from convsurgeon.targets import Target, load_target
from convsurgeon.verification import Tolerance
from convsurgeon.weights.weight_map import WeightMap

Planned = tuple[list[tuple[Part, Plan]], Plan]
Lift = Literal["regions", "ops"]
Io = Literal["1d", "2d"]
Axis = Literal[-2, -1]


@alone
@paused_collector()
@torch.inference_mode(False)
def convert(
    model: nn.Module | ExportedProgram,
    sample_inputs: Any = None,
    *,
    lift: Lift = "regions",
    io: Io = "1d",
    unit_axis: Axis = -2,
    square: bool = False,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    capture: How = "auto",
    copy_weights: bool = False,
    fold: bool = False,
    exact: Sequence[str] = (),
    target: str | os.PathLike[str] | Target | None = None,
    strict: bool = False,
    tune: bool = False,
    verify: bool = True,
    tolerance: Tolerance | None = None,
) -> Conversion:
    """Convert the 1-D convolutions of `model` to 2-D, with what stands between them, and prove the result equal.

    `model` isn't changed in any way that can be seen, nor is any random stream.

    Args:
        model: an ``nn.Module``; a ``fx.GraphModule`` or an ``ExportedProgram`` is taken as it is, and of a program the
            result is one too, as ``exported_program``.
        sample_inputs: what to call the model with: a tensor, a tuple of positional arguments, a dict of keyword
            arguments, a `Sample`, or a list of these. The first teaches the ranks, every one is verified. Without
            samples nothing can be proven: ``verify=False`` must be said, and ``lift="ops"`` is what is done.
        lift: "regions" computes the neighbours of convolutions in 2-D too, so that unsqueeze and squeeze stand only at
            the borders of regions, as few as the graph allows. "ops" wraps each convolution alone.
        io: "1d" keeps the shapes of inputs and outputs. "2d" makes those that touch a region 4-D, where that spares
            borders; ``plan.ports`` names them.
        unit_axis: -2 for (N, C, L) -> (N, C, 1, L) and (1, K) kernels; -1 for (N, C, L, 1) and (K, 1).
        square: True makes strides and dilations of convolutions and pools equal on both axes, (s, s) for (1, s), as
            some compilers ask for; over an axis of one element, with a kernel of one, that computes the same.
        include: globs on the qualified names of modules, everything inside them included: the convolutions to convert.
        exclude: globs likewise: modules whose operators all stay 1-D.
        capture: "trace" makes one graph of the model, by torch.fx symbolic tracing, "export" one by torch.export.
            "islands" leaves the model its own Python, and makes graphs of the largest submodules that can be traced,
            down to single convolutions. The latter two need a sample. "auto" takes the first that works, in this order,
            and the report says why the others didn't.
        copy_weights: True gives every tensor of the result its own memory. False shares storage (but for BatchNorm
            statistics and buffers that running the model writes): objects are new, but training or loading into one
            model writes the other's numbers.
        fold: True replaces the computed weights of convolutions (weight and spectral norm, parametrizations, pruning)
            by their values as they are now: the result has plain weights, under the names that a model without these
            would have. In training mode spectral norm changes the weight in each call, and a plain one can't follow.
            False keeps them computed, and trainable.
        exact: names of exact rewrites (`convsurgeon.exact.REWRITES`) that change the result further, to fit what can
            run it: ``["fold_stride", "split_kernel:7"]``. They change weights, which then no checkpoint of the original
            fits; ``conversion.exact`` tells what was done and what was left.
        target: an accelerator, as `convsurgeon.fit` takes it: operators that break its limits are rewritten exactly,
            where that mends them, and strides and dilations made equal where it asks for that. ``conversion.fit`` tells
            how the result fits; what no rewrite mends stays as it is.
        strict: with a target, raise where something doesn't fit in the end.
        tune: make the result faster on the machine at hand, by measurement, as `convsurgeon.tune` does; it is compared
            with `model`, gradients too. ``conversion.tuning`` tells what was tried. Strides may change then.
        verify: compare with the original on every sample, and raise where they differ.
        tolerance: compare directly within these bounds instead of judging by a float64 run.

    Returns:
        A `Conversion`: ``module``, ``plan``, ``verification``, ``weight_map``; printed, it is the report.

    Raises:
        CaptureError: the model can't be made into a graph.
        EquivalenceError: the result isn't equal to the original; nothing is returned that isn't.
        UnsupportedError: the weights are on the meta device, a name collides with one of GraphModule's, or, as a
            `MisfitError`, something doesn't fit the target though it is to be strict.
        TypeError, ValueError: a wrong argument.
    """
    request = Request.of(model, sample_inputs, locals())
    model, samples = request.model, request.samples
    if strict and target is None:
        raise ValueError("strict asks that every operator fits a target, and none is given; give one")
    aim = None if target is None else load_target(target)
    if aim is not None and not samples:
        raise ValueError("a target is given, and there is no sample to tell shapes by; give a sample")
    if aim is not None and sample_inputs is None and request.program is not None:
        require_closed(request.program, aim)
    if tune and not samples:
        raise ValueError("tune is asked for, and there is no sample to measure on; give a sample")
    if not samples and verify:
        raise ValueError(
            "sample_inputs is None, so nothing can be verified; give a sample, or say verify=False, and each "
            "convolution will be converted alone"
        )
    if verify and any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UnsupportedError("model has weights on the meta device, so nothing can be computed; say verify=False")
    wanted = wanted_of(exact, samples)
    watch, source = Stopwatch(), folded(model) if fold else model
    choice = choose(source, samples, capture, watch.lap)
    options: dict[str, Any] = {"lift": lift, "io": io, "unit_axis": unit_axis, "square": square}
    planned, plan_ = _planned(request, source, choice, include, exclude, **options)
    parts, found = [part for part, _ in planned], None

    def made(own_weights: bool = copy_weights) -> tuple[nn.Module, Notes]:
        result = rewrite(source, planned, plan_, copy_weights=own_weights)
        return result, rewrite_parts(result, parts, wanted)

    if aim is not None and not square:
        trial, _ = made(own_weights=False)
        if asks_for_square(trial, aim, samples[0]):
            planned, plan_ = _planned(request, source, choice, include, exclude, **{**options, "square": True})
    watch.lap("plan")
    weight_map = WeightMap.of(source if choice.whole is None else choice.whole.captured.root, plan_.moved, unit_axis)
    if aim is None:
        module, notes = made()
    else:
        aimed = rewritten_for(made, parts, aim, samples[0])
        module, notes, found = aimed.module, aimed.notes, aimed.fit
    watch.lap("rewrite")
    if strict and found is not None and not found.fits:
        raise MisfitError(f"{found}\n  strict=True asks that every operator fits")
    verification = None
    if verify:
        verification = proven(model, source, module, samples, tolerance, choice.whole, notes.baked)
        watch.lap("verify")
    program, weight_map = None if notes.baked else request.program, weight_map.with_baked(notes.baked)
    conversion = Conversion(
        module, plan_, verification, weight_map, watch.seconds, tuple(planned), program, samples, notes, found
    )
    if not tune:
        return conversion
    from convsurgeon.tuning import tuned_like

    return tuned_like(conversion, model if verify else module, tolerance)


@alone
@paused_collector()
@torch.inference_mode(False)
def plan(
    model: nn.Module | ExportedProgram,
    sample_inputs: Any = None,
    *,
    lift: Lift = "regions",
    io: Io = "1d",
    unit_axis: Axis = -2,
    square: bool = False,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    capture: How = "auto",
) -> Plan:
    """What `convert` would do with these arguments, without rewriting or verifying anything.

    Raises:
        CaptureError: the model can't be made into a graph.
        TypeError, ValueError: a wrong argument.
    """
    request = Request.of(model, sample_inputs, locals())
    choice = choose(request.model, request.samples, capture, Stopwatch().lap)
    options: dict[str, Any] = {"lift": lift, "io": io, "unit_axis": unit_axis, "square": square}
    return _planned(request, request.model, choice, include, exclude, **options)[1]


def _planned(
    request: Request, model: nn.Module, choice: Choice, include: Sequence[str], exclude: Sequence[str], **options: Any
) -> Planned:
    """The plan of each part, and all of it as one."""
    selection = Selection.of(modules_of(model), include, exclude)
    whole, before = choice.whole, [*request.notes, *map(_without_advice, choice.failed)]
    if whole is not None:
        plan = make_plan(whole.captured, whole.facts, selection=selection, **options)
        return [(whole, plan)], plan.after(before)
    if options["io"] == "2d":
        raise UnsupportedError(
            f"io is '2d', and {type(model).__name__} keeps its own Python, whose inputs and outputs are 1-D\n"
            f"  {'; '.join(before) or 'capture is islands'}\n"
            "  say io='1d', or convert the part that is to take 4-D inputs"
        )
    planned = [(part, make_plan(part.captured, part.facts, selection=selection, **options)) for part in choice.parts]
    alone = [
        Kept("", path, type(model.get_submodule(path)).__name__, reason, "")
        for path, reason in choice.reasons.items()
        if path not in choice.in_place and isinstance(model.get_submodule(path), (nn.Conv1d, nn.ConvTranspose1d))
    ]
    in_place = tuple(path for path in choice.in_place if selection.refuses_module(path) is None)
    plans = {part.path: plan for part, plan in planned}
    return planned, Plan.of_islands(plans, alone, in_place, **options).after(before)


def _without_advice(message: str) -> str:
    """What failed and where, in one line: the advice in an error's last lines has been followed."""
    lines = [line.strip() for line in message.splitlines()[:-1]]
    return "; ".join(line for line in lines if not line.startswith("a trace records"))
