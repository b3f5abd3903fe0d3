"""Whether a captured graph computes what the model's own Python does: both called with the same, compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils import _pytree as pytree

from convsurgeon.capture import Capture
from convsurgeon.capture.counters import counted_since, numbers_of, watch
from convsurgeon.capture.state import noticed
from convsurgeon.clones.cloning import clone_module, copied, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.runs.given import Given
from convsurgeon.runs.observe import Facts, GraphRun, Observation
from convsurgeon.samples import Sample


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module: its arguments and what it returned, as copies, and the random streams before and after it.

    `before`: the arguments of the calls that it was called with first, from `state` on. `buffers`: those that it left,
    by name, and `written`: what of the arguments is another than before; where that is known. `remembers`: the
    attribute, if any, that is another after each call, and by which forward decides.
    """

    sample: Sample
    output: Any
    state: RandomState
    after: RandomState
    before: tuple[Sample, ...] = ()
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    written: Mapping[str, Any] | None = None
    remembers: str = ""


def call_of(model: nn.Module, sample: Sample) -> Call:
    """Call a clone of `model`; neither it, nor the sample, nor a random stream is changed.

    Where forward changes what hangs on a module, buffers apart, the clone is called with other numbers first: what it
    kept may show the second time.
    """
    clone = clone_module(model, share_parameters)
    with preserved_random_state() as state, torch.no_grad(), WriteGuard(model):
        with noticed(clone) as left:
            output, written = _called(clone, sample)
        after = RandomState.capture()
        if left.attribute is None:
            return Call(sample, output, state, after, (), dict(clone.named_buffers()), written)
    other = sample.map(_other_numbers)
    try:
        return _second_call(model, sample, other)
    except Exception:  # the user's model may raise anything at numbers that nobody gave it
        return _second_call(model, sample, sample)


def _second_call(model: nn.Module, sample: Sample, first: Sample) -> Call:
    clone = clone_module(model, share_parameters)
    with preserved_random_state() as state, torch.no_grad(), WriteGuard(model):
        _called(clone, first)
        numbers = numbers_of(clone)
        output, written = _called(clone, sample)
        after, buffers = RandomState.capture(), {name: copied(one) for name, one in clone.named_buffers()}
        told: list[str] = []
        if counted := counted_since(clone, numbers):
            told = watch(clone, counted)
            _called(clone, sample)
    return Call(sample, output, state, after, (first,), buffers, written, next(iter(told), ""))


def _other_numbers(value: torch.Tensor) -> torch.Tensor:
    return value * 0.75 if value.is_floating_point() else value


def _called(module: nn.Module, sample: Sample) -> tuple[Any, dict[str, Any]]:
    """What a call of the module returns, and what it writes to its arguments."""
    inputs = sample.map(copied)
    given = Given(inputs)
    return module(*inputs.args, **inputs.kwargs), given.written()


def computes_the_same(captured: Capture, call: Call, observed: Observation | None = None) -> bool:
    """Whether the graph does for the call's arguments what the module did: returns, writes and draws the same.

    Both compute the same operators on the same numbers, so that rounding differs little, if at all. What was `observed`
    of the graph with these arguments needn't run again.
    """
    if observed is None or call.before:
        observed = _run(captured, call)
    if call.remembers or not call.after.same_stream(observed.after):
        return False
    if not _same_by_name(dict(_leaves(call.output)), dict(_leaves(observed.output))):
        return False
    if call.written is not None and not _same_by_name(call.written, observed.written):
        return False
    left = dict(captured.root.named_buffers())
    return all(_same(buffer, left[name]) for name, buffer in call.buffers.items() if name in left)


def mistakes_a_value(captured: Capture, facts: Facts) -> bool:
    """Whether forward was told while it was traced that something is a tensor, and it is none."""
    return any(facts[node].value is None for node in captured.taken_for_tensors)


def _run(captured: Capture, call: Call) -> Observation:
    with preserved_random_state(), torch.no_grad(), WriteGuard(captured.root):
        call.state.restore()
        for sample in (*call.before, call.sample):
            inputs = sample.map(copied)
            given = Given(inputs)
            *_, (_, output) = GraphRun(captured.root, captured.graph, inputs).steps()
        return Observation({}, captured.graph.process_outputs(output), RandomState.capture(), given.written())


_PLAIN: dict[type, type] = {immutable_list: list, immutable_dict: dict}
"""What a graph returns for a list or a dict, which is the same to a caller."""


def _leaves(output: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What is returned, by place, and the types of what it stands in: a subclass of dict is more than a dict."""
    if isinstance(output, dict):
        parts = list(output.items())
    elif isinstance(output, (tuple, list)):
        parts = list(enumerate(output))
    else:
        leaves, spec = pytree.tree_flatten(output)
        if spec.is_leaf():
            yield path, output
            return
        parts = list(enumerate(leaves))
    yield f"{path}:", _PLAIN.get(type(output), type(output))
    for key, one in parts:
        yield from _leaves(one, f"{path}[{key!r}]")


def _same_by_name(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return expected.keys() == found.keys() and all(_same(leaf, found[name]) for name, leaf in expected.items())


def _same(expected: Any, found: Any) -> bool:
    if not isinstance(expected, torch.Tensor) or not isinstance(found, torch.Tensor):
        return type(expected) is type(found) and (expected is found or bool(expected == found))
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.is_meta or found.is_meta:
        return expected.is_meta is found.is_meta
    return torch.allclose(expected, found, rtol=1e-3, atol=1e-5, equal_nan=True)
