"""Where the time goes: original and converted graphs run node by node, in turn. Knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import fx, nn

from convsurgeon.clones.cloning import clone_module, copied, own, share_parameters
from convsurgeon.clones.guard import without_autocast_cache
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.islands.in_place import convolve_as_called
from convsurgeon.islands.standing import become
from convsurgeon.parts import Part
from convsurgeon.planning import LiftedOperator, Plan
from convsurgeon.profiling.profile import Cost, Kind, Profile
from convsurgeon.profiling.watching import Key, Watch, blank
from convsurgeon.samples import Sample
from convsurgeon.spellings import module_of, operator_name
from convsurgeon.spellings.functions import name_of
from convsurgeon.timing import LEAST_ROUNDS, timed_in_turn

__all__ = ["Cost", "Profile", "profiled"]

Planned = Sequence[tuple[Part, Plan]]


@torch.no_grad()
def profiled(
    module: nn.Module, planned: Planned, in_place: Sequence[str], sample: Sample, rounds: int, budget_s: float
) -> Profile:
    """Run the original of `planned` and the converted `module` on the sample, as they are and node by node, in turn.

    Clones run, in eval mode unless a graph is frozen to its own; at least three rounds, and no more after the budget.
    Memory: a copy of the weights, since looking for what forward writes would slow down what is timed.
    """
    given = [sample.map(copied) for _ in range(4)]
    if isinstance(module, ConvertedModule):
        given[1::2] = [Sample(*module.inputs_2d(*one.args, **one.kwargs)) for one in given[1::2]]
    sharing = [_original(module, planned, in_place), clone_module(module, share_parameters)]
    sharing += [_original(module, planned, in_place), clone_module(module, share_parameters)]
    # as one tree, for what shares its memory is copied once for all four
    models = list(clone_module(nn.ModuleList(sharing), own))
    if all(part.captured.mode is None for part, _ in planned):
        models = [model.eval() for model in models]
    calls = [_call(model, one) for model, one in zip(models, given, strict=True)]
    before, after = Watch(), Watch()
    for part, _ in planned:
        before.watch(models[2], part.path, part.captured.graph)
        after.watch(models[3], part.path, _converted(module, part).graph)
    calls[2:] = [before.counting(calls[2]), after.counting(calls[3])]
    with preserved_random_state(), without_autocast_cache():
        timed = timed_in_turn(dict(enumerate(calls)), range(max(rounds, LEAST_ROUNDS)), budget_s=budget_s)
        nothing = blank()
    done = len(timed[0].seconds)
    costs = list(_costs(module, planned, before.seconds(done), after.seconds(done), [0.0] * done))
    sums = {kind: [one for one in costs if one.kind == kind] for kind in get_args(Kind)}
    return Profile(
        tuple(Cost.of(one.kind, one.operator, one.name, one.before, one.after) for one in costs),
        tuple(_sum(kind, several, done) for kind, several in sums.items() if several),
        _sum("all", costs, done),
        Cost.of("whole", "", "", timed[0].seconds, timed[1].seconds),
        nothing,
        done,
        torch.get_num_threads(),
    )


def _original(module: nn.Module, planned: Planned, in_place: Sequence[str]) -> nn.Module:
    """A clone of the model that was converted, with the Python that it had."""
    roots = {part.path: clone_module(part.captured.root, share_parameters) for part, _ in planned}
    if "" in roots:
        return roots[""]
    tree = clone_module(module, share_parameters)
    for path, root in roots.items():
        become(tree.get_submodule(path), root)
    for path in in_place:
        convolve_as_called(tree.get_submodule(path))
    return tree


def _converted(module: nn.Module, part: Part) -> ConvertedModule:
    found = module.get_submodule(part.path)
    assert isinstance(found, ConvertedModule)
    return found


def _call(model: nn.Module, given: Sample) -> Callable[[], Any]:
    return lambda: model(*given.args, **given.kwargs)


@dataclass(frozen=True, slots=True)
class _Seconds:
    """What a `Cost` is made of: the seconds of each round."""

    kind: Kind
    operator: str
    name: str
    before: Sequence[float]
    after: Sequence[float]


_Rounds = Mapping[Key, Sequence[float]]
_Change = tuple[Kind, str]
"""What a node does that computes nothing: its kind, and what it is called."""


def _costs(
    module: nn.Module, planned: Planned, before: _Rounds, after: _Rounds, nothing: Sequence[float]
) -> Iterator[_Seconds]:
    """Every operator of the original, each with what changes its value's form or layout after it.

    Several of which exact rewrites made one are told as one.
    """
    for part, plan in planned:
        lifted = {one.node: one for one in plan.lifted}
        now: dict[str, dict[_Change | None, list[Sequence[float]]]] = {}
        for node in _converted(module, part).graph.nodes:
            if (part.path, node.name) in after:
                name, change = _stands_for(node)
                now.setdefault(name, {}).setdefault(change, []).append(after[part.path, node.name])
        absorbed: dict[fx.Node, list[fx.Node]] = {}
        for node in part.captured.graph.nodes:
            found, name = now.pop(node.name, {}), part.captured.qualified(module_of(node)) or node.name
            if node.op.startswith("call"):
                several, user = [*absorbed.pop(node, ()), node], next(iter(node.users), node)
                if None not in found and user is not node and user.op.startswith("call"):
                    absorbed.setdefault(user, []).extend(several)
                else:
                    was = _added([before.get((part.path, one.name), nothing) for one in several], nothing)
                    yield _Seconds(*_described(several, part, lifted), was, _added(found.pop(None, []), nothing))
            yield from _additions(name, found, nothing)
        for name, found in now.items():
            yield from _additions(name, found, nothing)


def _stands_for(node: fx.Node) -> tuple[str, _Change | None]:
    """The node of the original, and what is done to its value, if it isn't what computes it."""
    origin = node.meta.get(ORIGIN)
    if origin is None:
        return node.name, None
    if origin.rule == "border":
        lifts = name_of(node.target) == "unsqueeze"  # a squeeze may have a slice before it
        return origin.node, ("border", "unsqueeze" if lifts else "squeeze")
    return origin.node, ("layout", "layout") if origin.rule == "layout" else None


def _described(several: Sequence[fx.Node], part: Part, lifted: Mapping[str, LiftedOperator]) -> tuple[Kind, str, str]:
    """The kind, the operator and the name of an operator of the original, or of several that became one."""
    known = [lifted[node.name] for node in several if node.name in lifted]
    convolution = next((one for one in known if one.rule.startswith("conv")), None)
    operators = [operator_name(node, part.captured.modules) for node in several]
    if len(several) == 1 and known and known[0].operator != known[0].becomes:
        operators = [f"{known[0].operator} -> {known[0].becomes}"]
    names = {node.name: part.captured.qualified(module_of(node)) or node.name for node in several}
    kind: Kind = "convolution" if convolution else "region" if known else "1-D"
    return kind, " + ".join(operators), names[convolution.node if convolution else several[-1].name]


def _additions(
    name: str, found: Mapping[_Change | None, list[Sequence[float]]], nothing: Sequence[float]
) -> Iterator[_Seconds]:
    for change, several in found.items():
        kind, operator = change or ("region", "added")
        yield _Seconds(kind, operator, name, nothing, _added(several, nothing))


def _added(several: Sequence[Sequence[float]], nothing: Sequence[float]) -> list[float]:
    return [sum(values) for values in zip(nothing, *several, strict=True)]


def _sum(kind: str, several: Sequence[_Seconds], rounds: int) -> Cost:
    nothing = [0.0] * rounds
    before, after = (_added([getattr(one, side) for one in several], nothing) for side in ("before", "after"))
    return Cost.of(kind, str(len(several)), "", before, after)
