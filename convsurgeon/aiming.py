"""Aims a converted model at an accelerator: rewritten exactly where its profile asks for that, and it helps."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from convsurgeon.exact import REWRITES, Notes, rewrite_parts, wanted_of
from convsurgeon.exact.shapes import Shapes
from convsurgeon.fitting import Fit, fit
from convsurgeon.fitting.mending import number_for
from convsurgeon.parts import Part
from convsurgeon.samples import Sample
from convsurgeon.targets import Target

_ROUNDS = 4
"""How often what was rewritten is held against the profile again: a rewrite may break another limit."""

_TRIES = 6
"""How often all is begun anew without what didn't help."""

Made = tuple[nn.Module, Notes]
Place = tuple[str, str]
"""A rewrite, and the module where it is done."""


@dataclass(frozen=True, slots=True)
class Aimed:
    """The module as it fits best, what was rewritten, and how it fits."""

    module: nn.Module
    notes: Notes
    fit: Fit


def asks_for_square(module: nn.Module, target: Target, sample: Sample) -> bool:
    """Whether an operator breaks a limit that equal strides and dilations would keep."""
    misfits = (misfit for operator in fit(module, target, sample).operators for misfit in operator.misfits)
    return any("square" in misfit.rewrites for misfit in misfits)


def rewritten_for(make: Callable[[], Made], parts: Sequence[Part], target: Target, sample: Sample) -> Aimed:
    """The module that `make` makes, each operator that doesn't fit, or costs too much, rewritten by what mends it.

    A rewrite that mends several limits comes first. Where one refuses, the next that mends the same limit is tried.
    Where a module fits no better after its rewrites than before, they are not done, and `make` is asked for another
    module to begin with.
    """
    vain: set[Place] = set()
    for _ in range(_TRIES):
        module, notes = make()
        before = fit(module, target, sample)
        more, found, done = _rewritten(module, parts, before, sample, vain)
        worse = {place for place in done if _in_vain(_origin(place[1], before), before, found)}
        if not worse:
            return Aimed(module, notes + more, found)
        vain |= worse
    module, notes = make()
    return Aimed(module, notes, fit(module, target, sample))


def _rewritten(
    module: nn.Module, parts: Sequence[Part], found: Fit, sample: Sample, vain: set[Place]
) -> tuple[Notes, Fit, set[Place]]:
    """Rewrite `module` in place, round after round; what that did, how it fits, and which places were rewritten."""
    notes, tried = Notes(), set(vain)
    known: dict[str, Shapes] = {}
    for _ in range(_ROUNDS):
        chosen = _chosen(found, tried)
        if not chosen:
            break
        for text, names in chosen.items():
            select = [glob.escape(name) for name in names]
            notes += rewrite_parts(module, parts, wanted_of([text], [sample]), select=select, known=known)
        found = fit(module, found.target, sample)
    return notes, found, {(one.rewrite, one.name) for one in notes.rewritten}


def _chosen(found: Fit, tried: set[Place]) -> dict[str, list[str]]:
    """The rewrites to do next, as ``exact`` takes them, each with the modules where it is to be done."""
    chosen: dict[str, list[str]] = {}
    for operator in found.operators:
        asked = [*operator.misfits, *operator.costly]
        for misfit in asked:
            left = [name for name in misfit.rewrites if name in REWRITES and (name, operator.name) not in tried]
            done = {name.partition(":")[0] for name, names in chosen.items() if operator.name in names}
            if not left or done.intersection(misfit.rewrites):
                continue
            name = max(left, key=lambda name: sum(name in other.rewrites for other in asked))
            tried.add((name, operator.name))
            number = number_for(name, misfit.quantity, misfit.most)
            chosen.setdefault(name if number is None else f"{name}:{number}", []).append(operator.name)
    return chosen


def _origin(name: str, before: Fit) -> str:
    """The module that an operator was split off, if it was."""
    known = {operator.name for operator in before.operators}
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _in_vain(name: str, before: Fit, after: Fit) -> bool:
    """Whether an operator's module fits no better than before; the cost counts where as many operators fit."""
    return _misfits(after, name) >= _misfits(before, name)


def _misfits(found: Fit, name: str) -> tuple[int, int]:
    """How many operators of a module, and of what was split off it, don't fit, and how many cost more than others."""
    those = [one for one in found.operators if f"{one.name}.".startswith(f"{name}.")]
    return sum(bool(one.misfits) for one in those), sum(bool(one.costly) for one in those)
