"""Times every operator of a converted graph on the values that it meets, in either layout. Decides nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

from convsurgeon.capture import fetch
from convsurgeon.clones.cloning import clone_module, rewrap, share, share_parameters
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample
from convsurgeon.spellings import operator_name
from convsurgeon.timing import timed_in_turn
from convsurgeon.tuning.endless import EndlessError, WithoutEndless
from convsurgeon.tuning.layouts import LAYOUTS, Layout, copied, laid_out, layout_of, other
from convsurgeon.tuning.traits import Traits, form_of, made_layout, tensors_in

_LEAST_S, _MOST_S = 0.004, 0.25
"""How long one operator is timed."""

_TOLD_APART = 1.03
"""What is less than this much slower is as fast."""

Makes = Mapping[Layout, "Layout | None"]
Realisations = Iterable[tuple[str, Mapping[Layout, Callable[[], torch.Tensor]]]]
"""Exact rewrites by name, and what computes a node so in either layout."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What one node does in either layout: the seconds that it takes, and the layout of what it makes.

    `makes` is None where no layout is made; None as a whole where it can only compute as it did. `ways`: the exact
    rewrite by which it takes so long, "" if by none. `tried`: the seconds by each rewrite, "" for none.
    """

    seconds: Mapping[Layout, float]
    makes: Makes | None
    ways: Mapping[Layout, str]
    tried: Mapping[str, Mapping[Layout, float]]

    @classmethod
    def as_it_is(cls, makes: Makes | None = None) -> Surveyed:
        """Of a node that takes no time, or isn't timed since it computes as it did."""
        return cls(dict.fromkeys(LAYOUTS, 0.0), makes, dict.fromkeys(LAYOUTS, ""), {})


@dataclass(slots=True)
class Clock:
    """What time is left to measure in."""

    budget_s: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.spent > self.budget_s

    @property
    def is_short(self) -> bool:
        """Whether what is left is for what has to be timed: each operator in either layout, and then the whole."""
        return self.spent > 0.5 * self.budget_s

    def share(self, parts: int) -> float:
        """The seconds for one of so many operators: a part of all, since what comes after takes time too."""
        if self.is_short:
            return _LEAST_S
        return min(max(0.4 * self.budget_s / max(parts, 1), _LEAST_S), _MOST_S)


@dataclass(frozen=True, slots=True)
class Met:
    """A node as the run meets it: how it is called in a layout, what it took, and what it made."""

    node: fx.Node
    call: Callable[[Layout], Callable[[], Any]]
    operands: Mapping[fx.Node, Any]
    value: Any


def meet(module: nn.Module, graph: fx.Graph, sample: Sample, traits: Mapping[fx.Node, Traits]) -> Iterator[Met]:
    """Run a clone of the module, and stop at each node that takes a value with a layout, the output too."""
    clone = clone_module(module, share_parameters)
    run = GraphRun(clone, graph, sample.map(lambda tensor: tensor.detach().clone()))
    with preserved_random_state(), torch.no_grad():
        for node, value in run.steps():
            if node.op not in ("placeholder", "get_attr") and traits[node].operands:
                operands = {one: run.env[one] for one in traits[node].operands}
                yield Met(node, functools.partial(_calling, run, node, traits[node]), operands, value)


def survey(met: Met, traits: Traits, rewritten: Realisations, budget_s: float) -> Surveyed:
    """Time one node in both layouts, as it is and by each exact rewrite that applies."""
    mixed = len(set(traits.operands.values())) > 1
    if traits.strict or (mixed and traits.bound):
        return Surveyed.as_it_is()
    calls = {("", layout): met.call(layout) for layout in LAYOUTS}
    makes = _makes(met, traits, calls)
    if makes is None:
        return Surveyed.as_it_is()
    if traits.bound and not traits.writes:
        return Surveyed.as_it_is(makes)
    for name, ways in rewritten:
        for layout, call in ways.items():
            with suppress(EndlessError), WithoutEndless():
                if layout_of(call()) in (makes[layout], None):
                    calls[name, layout] = call
    timed = timed_in_turn(calls, budget_s=budget_s)
    seen = next(iter(traits.operands.values()))
    return _chosen({key: one.least for key, one in timed.items()}, makes, seen)


def _makes(met: Met, traits: Traits, calls: Mapping[tuple[str, Layout], Callable[[], Any]]) -> Makes | None:
    """The layout that is made in each; None if it can't be computed in both, or makes something without a layout."""
    makes: dict[Layout, Layout | None] = {}
    for (_, layout), call in calls.items():
        try:
            with WithoutEndless():
                made = call()
        except RuntimeError:  # a view that these strides don't allow, or what would never return
            return None
        makes[layout] = made_layout(made, form_of(met.node)) if traits.made is not None else None
        if traits.made is None and _strides(made) != _strides(met.value):
            return None
    return makes


def _chosen(seconds: Mapping[tuple[str, Layout], float], makes: Makes, seen: Layout) -> Surveyed:
    """The fastest way in each layout; what differs by less than is worth a thought is as fast."""
    tried: dict[str, dict[Layout, float]] = {}
    for (name, layout), taken in seconds.items():
        tried.setdefault(name, {})[layout] = taken
    best, ways = dict(tried[""]), dict.fromkeys(LAYOUTS, "")
    for name, each in tried.items():
        for layout in LAYOUTS:
            if each.get(layout, float("inf")) * _TOLD_APART < best[layout]:
                best[layout], ways[layout] = each[layout], name
    if max(best.values()) < _TOLD_APART * min(best.values()):
        best = dict.fromkeys(LAYOUTS, best[seen])
    return Surveyed(best, makes, ways, tried)


def copying(value: Any, budget_s: float) -> float:
    """The seconds that it takes to bring a value into the layout that it hasn't, the dearer of both ways.

    Infinitely many for several values, which a copy can't stand behind.
    """
    if not isinstance(value, torch.Tensor):
        return float("inf")
    calls: dict[Hashable, Callable[[], Any]] = {}
    for layout in LAYOUTS:
        calls[layout] = functools.partial(copied, copied(value, other(layout)), layout)
    return max(one.least for one in timed_in_turn(calls, budget_s=budget_s).values())


def _strides(value: Any) -> list[tuple[int, ...]]:
    return [one.stride() for one in tensors_in(value)]


def _calling(run: GraphRun, node: fx.Node, traits: Traits, layout: Layout) -> Callable[[], Any]:
    """The node's call with its operands in a layout, and its weights in that one too."""
    env = {**run.env}
    for one in traits.operands:
        env[one] = _all_laid_out(run.env[one], layout, own=traits.bound)
    if traits.restores and layout == "last":
        (operand,) = traits.operands
        return lambda: env[operand].contiguous(memory_format=torch.channels_last)
    if is_convolution(node, run.module):
        for one in node.all_input_nodes:
            if one.op == "get_attr" and isinstance(env[one], nn.Parameter) and env[one].ndim == 4:
                env[one] = weight_laid_out(env[one], layout)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: env[one])
    if node.op == "call_module":
        layer = clone_module(run.module.get_submodule(str(node.target)), share)
        if is_convolution(node, run.module):
            layer._parameters["weight"] = weight_laid_out(cast(nn.Parameter, layer.weight), layout)
        return lambda: layer(*args, **kwargs)
    return lambda: getattr(run, node.op)(node.target, args, kwargs)


def _all_laid_out(value: Any, layout: Layout, *, own: bool) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_all_laid_out(one, layout, own=own) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    return copied(value, layout) if own else laid_out(value, layout)


def is_convolution(node: fx.Node, module: nn.Module) -> bool:
    """Whether the node is a 2-D convolution, transposed or not, whose weights may lie either way."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), (nn.Conv2d, nn.ConvTranspose2d))
    return node.op == "call_function" and "conv" in operator_name(node, {})


def weight_of(node: fx.Node, module: nn.Module) -> nn.Parameter | None:
    """The weight of a convolution; None where it is computed."""
    weight: Any = None
    if node.op == "call_module":
        weight = module.get_submodule(str(node.target)).weight
    else:
        held = node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
        if isinstance(held, fx.Node) and held.op == "get_attr":
            weight = fetch(module, str(held.target))
    return weight if isinstance(weight, nn.Parameter) else None


def weight_laid_out(weight: nn.Parameter, layout: Layout) -> nn.Parameter:
    """A weight in a layout, by its strides too: where they tell nothing, they are what torch takes the layout from.

    What is laid out has memory of its own, even where it lies as it did: torch refuses to load a weight from itself
    with other strides.
    """
    if layout == "plain":
        return weight
    by_channel = (weight.shape[0], *weight.shape[2:], weight.shape[1])
    strides = torch.empty(by_channel, device="meta").movedim(-1, 1).stride()
    data = copied(weight.detach(), layout).as_strided(weight.shape, strides)
    return cast(nn.Parameter, rewrap(weight, data))
