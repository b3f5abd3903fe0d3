"""Where a converted model first goes wrong: both graphs run in step, each value against the one it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.capture import Capture, modules_of
from convsurgeon.clones.cloning import clone_module, copied, own
from convsurgeon.clones.rng import RandomState
from convsurgeon.converted.module import ConvertedModule, axis_of
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample
from convsurgeon.spellings import module_of, operator_name
from convsurgeon.verification.referee import in_float64, widened, widened_sample
from convsurgeon.verification.result import Divergence


def first_divergence(
    capture: Capture, candidate: ConvertedModule, sample: Sample, state: RandomState, *, wide: bool
) -> Divergence | None:
    """The first node of `candidate` whose value isn't that of its origin in `capture`.

    In float64 (`wide`) rounding is out of the way: what differs there is wrong. Else what differs by a thousand
    roundings.
    """
    axis = axis_of(candidate)
    make = widened if wide else _copied
    roots, inputs = (make(capture.root), make(candidate)), widened_sample(sample) if wide else sample
    with torch.no_grad(), in_float64() if wide else nullcontext():
        inputs_2d = Sample(*candidate.inputs_2d(*inputs.args, **inputs.kwargs))
        ours = Steps(roots[0], capture.graph, inputs, state)
        theirs = Steps(roots[1], candidate.graph, inputs_2d, state)
        try:
            for new, value in theirs:
                origin = new.meta.get(ORIGIN)
                if origin is None or origin.node != new.name:
                    continue
                old, expected = ours.reach(origin.node)
                if isinstance(value, torch.Tensor) and isinstance(expected, torch.Tensor):
                    difference = _difference(expected, axis.lower(value) if origin.form == "2d" else value)
                    if difference is not None:
                        return _divergence(new, old, expected, difference, capture, candidate)
        except Exception:  # a node that fails where its origin doesn't is where they part, whatever it raises
            new = theirs.at
            try:
                old, expected = ours.reach(new.meta[ORIGIN].node)
            except LookupError:  # it was passed already: the node stands beside the one that it is made for
                return None
            return _divergence(new, old, expected, float("inf"), capture, candidate)
    return None


def _divergence(
    new: fx.Node, old: fx.Node, expected: Any, difference: float, capture: Capture, candidate: ConvertedModule
) -> Divergence:
    name = operator_name(old, capture.modules)
    shaped = isinstance(expected, torch.Tensor)
    return Divergence(
        new.name,
        module_of(old),
        name,
        operator_name(new, modules_of(candidate)) if new.meta[ORIGIN].rule else name,
        tuple(expected.shape) if shaped else (),
        str(expected.dtype).removeprefix("torch.") if shaped else type(expected).__name__,
        difference,
    )


def _copied(module: nn.Module) -> nn.Module:
    return clone_module(module, own)


def _difference(expected: torch.Tensor, seen: torch.Tensor) -> float | None:
    """The largest difference if it is one, None if the values are the same up to rounding."""
    if expected.shape != seen.shape:
        return float("inf")
    if not expected.numel():
        return None
    if not (expected.is_floating_point() or expected.is_complex()):
        return None if torch.equal(expected, seen) else 1.0
    difference = (expected - seen).abs().nan_to_num(0.0).max().item()
    scale = expected.abs().nan_to_num(0.0, 0.0).max().item()
    return difference if difference > 1000 * torch.finfo(expected.dtype).eps * scale else None


class Steps:
    """A graph's values one by one, drawing from a random stream of its own."""

    def __init__(self, root: nn.Module, graph: fx.Graph, sample: Sample, state: RandomState) -> None:
        self._run = GraphRun(root, graph, sample.map(copied))
        self._state = state
        self._steps = iter(self)
        self._passed: dict[str, tuple[fx.Node, Any]] = {}

    @property
    def at(self) -> fx.Node:
        """The node that ran last, or failed."""
        assert self._run.at is not None
        return self._run.at

    def reach(self, name: str) -> tuple[fx.Node, Any]:
        """The node of this name and its value; what is passed on the way is kept for later."""
        while name not in self._passed:
            step = next(self._steps, None)
            if step is None:
                raise LookupError(f"the original's graph has no node {name}")
            node, value = step
            self._passed[node.name] = node, value
        return self._passed.pop(name)

    def __iter__(self) -> Iterator[tuple[fx.Node, Any]]:
        steps = self._run.steps()
        while True:
            outside = RandomState.capture()
            self._state.restore()
            step = next(steps, None)
            self._state = RandomState.capture()
            outside.restore()
            if step is None:
                return
            yield step
