"""What is decided for one converted graph, by measuring it, and how that is carried out in a copy of it."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.exact import Notes, rewrite_exactly
from convsurgeon.exact.shapes import name_in
from convsurgeon.samples import Sample
from convsurgeon.spellings import module_of
from convsurgeon.tuning.assignment import Assignment, assign
from convsurgeon.tuning.functions import call_functions
from convsurgeon.tuning.layouts import Layout
from convsurgeon.tuning.realising import REALISATIONS, realisations, weights_in
from convsurgeon.tuning.survey import Clock, Realisations, Surveyed, copying, is_convolution, meet, survey, weight_of
from convsurgeon.tuning.traits import Traits, traits_of
from convsurgeon.tuning.writing import Layouts, write_layouts


def inputs_of(module: nn.Module, parts: Collection[str], sample: Sample) -> dict[str, Sample]:
    """What each graph is called with first, in one run; an island that isn't called has nothing to time."""
    if "" in parts:
        return {"": sample}
    found: dict[str, Sample] = {}
    clone = clone_module(module, share_parameters)
    for path in parts:

        def note(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            found.setdefault(path, Sample(args, kwargs).map(lambda tensor: tensor.detach().clone()))

        clone.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    with preserved_random_state(), torch.no_grad():
        clone(*sample.args, **sample.kwargs)
    return found


class OutOfTimeError(Exception):
    """The budget ended before everything was timed."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One kind of operator that was timed: its nodes, what it is, and its seconds by rewrite ("" for none) and layout.

    `taken`: how many of its nodes compute by which rewrite, in which layout.
    """

    nodes: tuple[str, ...]
    operator: str
    seconds: Mapping[str, Mapping[Layout, float]]
    taken: Mapping[tuple[str, Layout], int]


@dataclass(frozen=True, slots=True)
class Decision:
    """The layouts of one graph, and the modules whose convolutions are rewritten, by the rewrite's name."""

    layouts: Layouts = field(default_factory=lambda: Layouts({}, {}, {}))
    rewrites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        """Whether the operators of the graph compute as they did."""
        return "last" not in self.layouts.takes.values() and not self.rewrites


@dataclass(slots=True)
class Known:
    """What was timed, for this graph and others of the same model: operators by their keys, and copies by their sizes.

    `graphs`: how many there are, which share what time there is. `hurried`: how many kinds of convolutions were timed
    in either layout alone, and not by exact rewrites, since time was short.
    """

    graphs: int = 1
    hurried: int = 0
    operators: dict[Any, Surveyed] = field(default_factory=dict)
    copies: dict[Any, float] = field(default_factory=dict)


def decide(
    module: ConvertedModule, sample: Sample, known: Known, clock: Clock, tell: Callable[[], None], *, free_output: bool
) -> tuple[Decision, list[Tried]]:
    """Time every operator of `module` on what `sample` (in the original's shapes) makes it meet, and choose.

    What is `known` isn't timed again; what is timed is added to it.

    Raises:
        OutOfTimeError: the clock ended first.
    """
    inputs = Sample(*module.inputs_2d(*sample.args, **sample.kwargs))
    traits = traits_of(module, module.graph, inputs)
    sharing = list(_sharing(module))
    shared = {node for pair in sharing for node in pair}
    surveyed, copies = _survey(module, inputs, traits, shared, known, clock, tell)
    found = assign(module.graph, traits, surveyed, copies, sharing, free_output=free_output)
    strict = {
        (node.name, operand.name): seen
        for node in module.graph.nodes
        if node not in found.takes and (node.op != "output" or not free_output)
        for operand, seen in traits[node].operands.items()
    }
    layouts = Layouts(
        {node.name: layout for node, layout in found.takes.items()},
        {node.name: layout for node, layout in found.makes.items() if not traits[node].several},
        strict,
        any(one.writes for one in traits.values()),
    )
    return Decision(layouts, _rewrites(found, surveyed)), list(_tried(module, found, surveyed, traits))


@dataclass(frozen=True, slots=True)
class Written:
    """What was done to a graph.

    `notes`: its exact rewrites. `copies`: how many nodes bring a value into another layout. `functions`: how many
    overloads are called as torch's functions.
    """

    notes: Notes = field(default_factory=Notes)
    copies: int = 0
    functions: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.notes + other.notes, self.copies + other.copies, self.functions + other.functions)


def carry_out(module: ConvertedModule, path: str, decision: Decision, sample: Sample) -> Written:
    """Rewrite a module, which stands at `path`, in place as it was decided, so that Python calls it as fast as it can.

    `sample` has the original's shapes.
    """
    notes, copies = Notes(), 0
    if not decision.changes_nothing:
        for name in REALISATIONS:
            if name in decision.rewrites:
                select = [glob.escape(path) for path in decision.rewrites[name]]
                notes += rewrite_exactly(module, [name], [sample], select=select)
        copies = write_layouts(module, decision.layouts)
    functions = call_functions(module, Sample(*module.inputs_2d(*sample.args, **sample.kwargs)))
    module.reach_directly()
    return Written(notes.inside(path), copies, functions)


def adds_weights(before: nn.Module, after: nn.Module) -> bool:
    """Whether rewrites have made more weights of those of a module in training mode, which training would part."""
    return before.training and weights_in(before) != weights_in(after)


def _survey(
    module: ConvertedModule,
    inputs: Sample,
    traits: Mapping[fx.Node, Traits],
    shared: set[fx.Node],
    known: Known,
    clock: Clock,
    tell: Callable[[], None],
) -> tuple[dict[fx.Node, Surveyed], dict[fx.Node, float]]:
    """What every node does in either layout, and what it costs to copy each value; those that are alike, once."""
    kinds = known.graphs * len({one.key for one in traits.values() if one.operands})
    crowded = {path for path, count in Counter(_convolved(module)).items() if count > 1}
    surveyed: dict[fx.Node, Surveyed] = {}
    copies: dict[fx.Node, float] = {}
    for met in meet(module, module.graph, inputs, traits):
        if clock.is_over:
            raise OutOfTimeError
        each = clock.share(kinds)
        for operand, value in met.operands.items():
            size = (value.shape, value.dtype) if isinstance(value, torch.Tensor) else None
            if size not in known.copies:
                known.copies[size] = copying(value, each)
            copies[operand] = known.copies[size]
        if met.node.op == "output":
            continue
        alone = is_convolution(met.node, module) and met.node not in shared and module_of(met.node) not in crowded
        key = traits[met.node].key, alone
        if key not in known.operators:
            known.hurried += alone and clock.is_short
            rewritten: Realisations = ()
            if alone and not clock.is_short:
                rewritten = realisations(module, met.node, next(iter(met.operands.values())))
            known.operators[key] = survey(met, traits[met.node], rewritten, each)
            tell()
        surveyed[met.node] = known.operators[key]
    return surveyed, copies


def _convolved(module: ConvertedModule) -> Iterator[str]:
    """The module of each convolution, which is what a rewrite is selected by."""
    return (module_of(node) for node in module.graph.nodes if is_convolution(node, module))


def _rewrites(found: Assignment, surveyed: Mapping[fx.Node, Surveyed]) -> dict[str, tuple[str, ...]]:
    chosen: dict[str, list[str]] = {}
    for node, layout in found.takes.items():
        way = surveyed[node].ways[layout]
        if way:
            chosen.setdefault(way, []).append(module_of(node))
    return {name: tuple(paths) for name, paths in chosen.items()}


def _tried(
    module: ConvertedModule, found: Assignment, surveyed: Mapping[fx.Node, Surveyed], traits: Mapping[fx.Node, Traits]
) -> Iterator[Tried]:
    """Every kind of operator that was timed, the dearest first."""
    alike: dict[Any, list[fx.Node]] = {}
    for node in found.takes:
        if surveyed[node].tried:
            alike.setdefault(traits[node].key, []).append(node)
    for nodes in sorted(alike.values(), key=lambda nodes: -len(nodes) * max(surveyed[nodes[0]].seconds.values())):
        of = surveyed[nodes[0]]
        taken = Counter((of.ways[found.takes[node]], found.takes[node]) for node in nodes)
        yield Tried(tuple(node.name for node in nodes), name_in(module, nodes[0]), of.tried, taken)


def _sharing(module: ConvertedModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of convolutions that read one weight."""
    first: dict[int, fx.Node] = {}
    for node in module.graph.nodes:
        weight = weight_of(node, module) if is_convolution(node, module) else None
        if weight is not None:
            before = first.setdefault(id(weight), node)
            if before is not node:
                yield before, node
