"""The one call: capture, plan, rewrite, verify, in this order."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from convsurgeon.capture import Capture, modules_of
from convsurgeon.choosing import Choice, How, choose, unfaithful
from convsurgeon.collector import paused_collector
from convsurgeon.errors import UnsupportedError
from convsurgeon.files import write_text
from convsurgeon.observe import GraphRun
from convsurgeon.page import conversion_page
from convsurgeon.parts import Part
from convsurgeon.planning import Kept, Plan, Selection, make_plan
from convsurgeon.report import conversion_text
from convsurgeon.rewrite import rewrite
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification import Tolerance, Verification, verify_samples
from convsurgeon.weight_map import WeightMap

Planned = tuple[list[tuple[Part, Plan]], Plan]
Lift = Literal["regions", "ops"]
Io = Literal["1d", "2d"]
Axis = Literal[-2, -1]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "lift": ("regions", "ops"),
    "io": ("1d", "2d"),
    "unit_axis": (-2, -1),
    "square": (False, True),
    "capture": ("auto", "trace", "islands"),
    "copy_weights": (False, True),
    "verify": (True, False),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` returns: the module, what was decided, the proof, and how the weights moved.

    `verification` is None if none was asked for. `seconds` are those of each step. `planned`, the captured
    graphs and their plans, is kept for `to_html`, which runs original and result node by node.
    """

    module: nn.Module
    plan: Plan
    verification: Verification | None
    weight_map: WeightMap
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    planned: tuple[tuple[Part, Plan], ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "plan": self.plan.to_json(),
            "verification": None if self.verification is None else self.verification.to_json(),
            "weights": [
                {"name": e.name, "shape_1d": list(e.shape_1d), "shape_2d": list(e.shape_2d), "dtype": e.dtype}
                for e in self.weight_map.entries
            ],
            "seconds": dict(self.seconds),
        }

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one page that needs nothing else: both lanes, every node, its error, weights and totals.

        The first sample runs once more, in both models and in float64.

        Raises:
            OSError: the file can't be written; what was there stays.
        """
        write_text(path, conversion_page(self))

    def __str__(self) -> str:

        return conversion_text(self)


@paused_collector()
@torch.inference_mode(False)
def convert(
    model: nn.Module,
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
    verify: bool = True,
    tolerance: Tolerance | None = None,
) -> Conversion:
    """Convert the 1-D convolutions of `model` to 2-D, with what stands between them, and prove the result equal.

    `model` isn't changed in any way that can be seen, nor is any random stream.

    Args:
        model: an ``nn.Module``, or an ``fx.GraphModule``, which is taken as it is.
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
        capture: "trace" makes one graph of the model, by torch.fx symbolic tracing. "islands" leaves the model its own
            Python, and makes graphs of the largest submodules that can be traced, down to single convolutions; it needs
            a sample. "auto" takes the first that works, and the report says why the other didn't.
        copy_weights: True gives every tensor of the result its own memory. False shares storage (but for BatchNorm
            statistics and buffers that running the model writes): objects are new, but training or loading into one
            model writes the other's numbers.
        verify: compare with the original on every sample, and raise where they differ.
        tolerance: compare directly within these bounds instead of judging by a float64 run.

    Returns:
        A `Conversion`: ``module``, ``plan``, ``verification``, ``weight_map``; printed, it is the report.

    Raises:
        CaptureError: the model can't be made into a graph.
        EquivalenceError: the result isn't equal to the original; nothing is returned that isn't.
        UnsupportedError: the weights are on the meta device, or a name collides with one of GraphModule's.
        TypeError, ValueError: a wrong argument.
    """
    samples = _checked(model, sample_inputs, tolerance, locals())
    if not samples and verify:
        raise ValueError(
            "sample_inputs is None, so nothing can be verified; give a sample, or say verify=False, and each "
            "convolution will be converted alone"
        )
    if verify and any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UnsupportedError("model has weights on the meta device, so nothing can be computed; say verify=False")
    watch = _Stopwatch()
    choice = choose(model, samples, capture, watch.lap)
    planned, plan_ = _planned(model, choice, include, exclude, lift=lift, io=io, unit_axis=unit_axis, square=square)
    watch.lap("plan")
    weight_map = WeightMap.of(model if choice.whole is None else choice.whole.captured.root, plan_.moved, unit_axis)
    module = rewrite(model, planned, plan_, copy_weights=copy_weights)
    watch.lap("rewrite")
    verification = None
    if verify:
        verification = _verified(model, module, samples, tolerance, choice.whole)
        watch.lap("verify")
    return Conversion(module, plan_, verification, weight_map, watch.seconds, tuple(planned))


@paused_collector()
@torch.inference_mode(False)
def plan(
    model: nn.Module,
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
    samples = _checked(model, sample_inputs, None, locals())
    choice = choose(model, samples, capture, _Stopwatch().lap)
    return _planned(model, choice, include, exclude, lift=lift, io=io, unit_axis=unit_axis, square=square)[1]


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def _checked(model: Any, sample_inputs: Any, tolerance: Any, given: dict[str, Any]) -> tuple[Sample, ...]:
    """Check every argument that can be checked without the model running; returns the samples."""
    if type(model).__name__ == "OptimizedModule":
        raise TypeError("model comes from torch.compile; convert the module it was made from, and compile the result")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; accepted: a torch.nn.Module or a torch.fx.GraphModule")
    for name, choices in _CHOICES.items():
        if name in given and not any(type(given[name]) is type(one) and given[name] == one for one in choices):
            raise ValueError(f"{name} is {given[name]!r}; accepted: {', '.join(map(repr, choices))}")
    if tolerance is not None and not isinstance(tolerance, Tolerance):
        raise TypeError(
            f"tolerance is a {type(tolerance).__name__}; accepted: convsurgeon.Tolerance(rtol, atol), or None"
        )
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"model has uninitialized parameters ({', '.join(lazy[:4])}{', ...' if len(lazy) > 4 else ''}); call it "
            "once on a sample, so that its lazy modules learn their shapes, and convert it then"
        )
    samples = as_samples(sample_inputs)
    if given["io"] == "2d" and (given["lift"] == "ops" or not samples):
        raise ValueError(
            "io is '2d', and each convolution alone is converted, between 1-D values "
            + ("(lift='ops'); say lift='regions'" if samples else "(there is no sample_inputs); give a sample")
        )
    if given["capture"] == "islands" and not samples:
        raise ValueError("capture is 'islands', which are found in a run, and there is no sample_inputs; give a sample")
    return samples


def _planned(
    model: nn.Module, choice: Choice, include: Sequence[str], exclude: Sequence[str], **options: Any
) -> Planned:
    """The plan of each part, and all of it as one."""
    selection = Selection.of(modules_of(model), include, exclude)
    whole = choice.whole
    if whole is not None:
        plan = make_plan(whole.captured, whole.facts, selection=selection, **options)
        return [(whole, plan)], plan
    if options["io"] == "2d":
        raise UnsupportedError(
            f"io is '2d', and {type(model).__name__} keeps its own Python, whose inputs and outputs are 1-D\n"
            f"  {choice.failed or 'capture is islands'}\n"
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
    return planned, Plan.of_islands(plans, alone, in_place, _without_advice(choice.failed), **options)


def _without_advice(message: str) -> str:
    """What failed and where, in one line: the advice in an error's last lines has been followed."""
    lines = [line.strip() for line in message.splitlines()[:-1]]
    return "; ".join(line for line in lines if not line.startswith("a trace records"))


def _verified(
    model: nn.Module, module: nn.Module, samples: tuple[Sample, ...], tolerance: Tolerance | None, whole: Part | None
) -> Verification:
    captured = None if whole is None else whole.captured
    found = verify_samples(model, module, samples, tolerance, gradients=False, train=False, capture=captured)
    if not found.passed and found.divergence is None and captured is not None:
        _require_faithful(model, captured, samples)
    found.require()
    return found


def _require_faithful(model: nn.Module, captured: Capture, samples: tuple[Sample, ...]) -> None:
    """Raise if the graph wasn't the model to begin with."""
    graph = _GraphAsModule(captured)
    if not verify_samples(model, graph, samples, None, gradients=False, train=False, capture=None).passed:
        raise unfaithful(model)


class _GraphAsModule(nn.Module):
    """A captured graph over its clone, callable."""

    def __init__(self, captured: Capture) -> None:
        super().__init__()
        self.root = captured.root
        self.graph = captured.graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        *_, (_, output) = GraphRun(self.root, self.graph, Sample(args, kwargs)).steps()
        return self.graph.process_outputs(output)
