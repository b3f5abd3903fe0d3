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

from convsurgeon.capture import Capture, capture_model
from convsurgeon.collector import paused_collector
from convsurgeon.converted import ConvertedModule
from convsurgeon.errors import CaptureError, UnsupportedError
from convsurgeon.files import write_text
from convsurgeon.observe import Facts, GraphRun, observe
from convsurgeon.page import conversion_page
from convsurgeon.planning import Plan, make_plan
from convsurgeon.report import conversion_text
from convsurgeon.rewrite import rewrite
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification import Tolerance, Verification, require_runs, verify_samples
from convsurgeon.weight_map import WeightMap

Lift = Literal["regions", "ops"]
Io = Literal["1d", "2d"]
Axis = Literal[-2, -1]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "lift": ("regions", "ops"),
    "io": ("1d", "2d"),
    "unit_axis": (-2, -1),
    "square": (False, True),
    "capture": ("auto", "trace"),
    "copy_weights": (False, True),
    "verify": (True, False),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` returns: the module, what was decided, the proof, and how the weights moved.

    `verification` is None if none was asked for. `seconds` are those of each step. `captured`, the original's graph,
    and `samples` are kept for `to_html`, which runs both models node by node.
    """

    module: ConvertedModule
    plan: Plan
    verification: Verification | None
    weight_map: WeightMap
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    captured: Capture | None = field(default=None, repr=False, compare=False)
    samples: tuple[Sample, ...] = field(default=(), repr=False, compare=False)

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
    capture: Literal["auto", "trace"] = "auto",
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
        capture: "trace" is torch.fx symbolic tracing; "auto" takes the first capture that works.
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
    captured, facts = _captured(model, samples, watch)
    plan_ = make_plan(
        captured, facts, lift=lift, io=io, unit_axis=unit_axis, square=square, include=include, exclude=exclude
    )
    watch.lap("plan")
    weight_map = WeightMap.of(captured.root, plan_.moved, unit_axis)
    module = rewrite(model, captured, plan_, copy_weights=copy_weights)
    watch.lap("rewrite")
    verification = None
    if verify:
        verification = _verified(model, module, samples, tolerance, captured)
        watch.lap("verify")
    return Conversion(module, plan_, verification, weight_map, watch.seconds, captured, samples)


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
    capture: Literal["auto", "trace"] = "auto",
) -> Plan:
    """What `convert` would do with these arguments, without rewriting or verifying anything.

    Raises:
        CaptureError: the model can't be made into a graph.
        TypeError, ValueError: a wrong argument.
    """
    samples = _checked(model, sample_inputs, None, locals())
    captured, facts = _captured(model, samples, _Stopwatch())
    return make_plan(
        captured, facts, lift=lift, io=io, unit_axis=unit_axis, square=square, include=include, exclude=exclude
    )


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
    return samples


def _captured(model: nn.Module, samples: tuple[Sample, ...], watch: _Stopwatch) -> tuple[Capture, Facts | None]:
    first = samples[0] if samples else None
    captured = capture_model(model, first)
    watch.lap("capture")
    if first is None:
        return captured, None
    try:
        facts = observe(captured, first)
    except Exception as error:  # the user's model may raise anything on a sample: told apart and passed on
        require_runs(model, first)
        raise CaptureError(
            f"the traced graph of {type(model).__name__} fails on the sample {first}, where the model doesn't\n"
            f"  {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
            "  forward does something that tracing doesn't record; convert the submodules that can be traced"
        ) from error
    captured.restore_buffers(model)
    watch.lap("observe")
    return captured, facts


def _verified(
    model: nn.Module,
    module: ConvertedModule,
    samples: tuple[Sample, ...],
    tolerance: Tolerance | None,
    captured: Capture,
) -> Verification:
    found = verify_samples(model, module, samples, tolerance, gradients=False, train=False, capture=captured)
    if not found.passed and found.divergence is None:
        _require_faithful(model, captured, samples)
    found.require()
    return found


def _require_faithful(model: nn.Module, captured: Capture, samples: tuple[Sample, ...]) -> None:
    """Raise if the graph wasn't the model to begin with."""
    graph = _GraphAsModule(captured)
    if not verify_samples(model, graph, samples, None, gradients=False, train=False, capture=None).passed:
        raise CaptureError(
            f"{type(model).__name__} was traced without an error into a graph that computes something else\n"
            "  forward takes decisions in Python that tracing froze (a branch on a type, numpy, a counter)\n"
            "  move them out of forward, or convert the submodules that can be traced"
        )


class _GraphAsModule(nn.Module):
    """A captured graph over its clone, callable."""

    def __init__(self, captured: Capture) -> None:
        super().__init__()
        self.root = captured.root
        self.graph = captured.graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        *_, (_, output) = GraphRun(self.root, self.graph, Sample(args, kwargs)).steps()
        return self.graph.process_outputs(output)
