"""Tunes one conversion: its graphs timed, chosen for and rewritten, and the whole compared and timed again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

from torch import nn

from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.guard import WriteGuard, without_autocast_cache
from convsurgeon.conversion import Conversion
from convsurgeon.converted.module import ConvertedModule, shared_copy
from convsurgeon.fitting import fit
from convsurgeon.runs.repeated import repeated
from convsurgeon.samples import Sample
from convsurgeon.timing import MOST_ROUNDS, Ratio, timed_in_turn
from convsurgeon.tuning.choice import Choice, Machine, fingerprint, load_choice
from convsurgeon.tuning.parts import (
    Decision,
    Known,
    OutOfTimeError,
    Tried,
    Written,
    adds_weights,
    carry_out,
    decide,
    inputs_of,
)
from convsurgeon.tuning.proof import proven
from convsurgeon.tuning.realising import weights_in
from convsurgeon.tuning.result import Tuning
from convsurgeon.tuning.survey import Clock
from convsurgeon.verification import Tolerance

Elsewhere = Literal["measure", "ignore"]
_LEAST_S = 50e-6
"""A call that takes less is too short to tell anything by."""

_WHOLE_S = 0.5
"""How long calls of the whole model are timed at least, so that no moment in which the machine is busy decides."""


class TuningWarning(UserWarning):
    """A choice that was saved wasn't used, or nothing could be decided."""


class Tuner:
    """One conversion, and the model that its tuned module has to equal."""

    def __init__(
        self,
        conversion: Conversion,
        reference: nn.Module,
        samples: tuple[Sample, ...],
        tolerance: Tolerance | None,
        clock: Clock,
        progress: Callable[[float], None] | None,
    ) -> None:
        self._conversion = conversion
        self._reference = reference
        self._samples = samples
        self._tolerance = tolerance
        self._clock = clock
        self._progress = progress
        self._module = conversion.module
        self._parts = {path: one for path, one in self._module.named_modules() if isinstance(one, ConvertedModule)}
        self._machine = Machine.here(self._module, samples[0])
        self._model = fingerprint(self._parts)
        self._warnings: list[str] = []

    def tuned(self, saved: str | PathLike[str] | None, elsewhere: Elsewhere) -> Conversion:
        """The conversion by a saved choice, or else by what is measured; says in warnings what wasn't done."""
        found = self._tuned(saved, elsewhere)
        for warning in self._warnings:
            warnings.warn(warning, TuningWarning, 4)
        return found

    def _tuned(self, saved: str | PathLike[str] | None, elsewhere: Elsewhere) -> Conversion:
        found: Choice | None = None
        if saved is not None:
            found, others = load_choice(saved, self._machine, self._model)
            if found is None:
                made = f"for {'; '.join(map(str, others))}" if others else "for other models"
                then = "measuring again" if elsewhere == "measure" else "nothing is changed"
                self._warnings.append(f"{saved} holds choices {made}, none for {self._machine}: {then}")
                if elsewhere == "ignore":
                    return self._unchanged("the saved choices are for other machines, or other models", decided=False)
        if found is None:
            return self._measured()
        if saved is not None:
            found.require_fits(self._parts, saved)
        if not found.decisions:
            return self._unchanged("nothing was changed where the choice was saved")
        module, written = self._carried_out(found)
        if any(adds_weights(one, module.get_submodule(path)) for path, one in self._parts.items()):
            reason = "the saved choice fills up kernels or repeats biases, which training would tell apart"
            self._warnings.append(f"{reason}: put the model in eval mode, or tune it in training mode")
            return self._unchanged(reason, decided=False)
        return self._proven(Tuning(True, "carried out as it was saved", found), module, written)

    def _measured(self) -> Conversion:
        if not self._parts:
            return self._unchanged("no part of the model is a graph")
        with WriteGuard(self._module) as guard:
            call = self._call(self._module)
            call()  # some write from their second call on
        try:
            with without_autocast_cache():
                return self._out_of_time() if self._clock.is_over else self._chosen(call)
        finally:
            guard.restore()  # what forward writes to parameters, which every call that was timed has written

    def _chosen(self, call: Callable[[], None]) -> Conversion:
        whole = timed_in_turn({"": call}, range(3), budget_s=self._clock.budget_s)[""].least
        if whole < _LEAST_S:
            return self._unchanged(f"a call takes {1e6 * whole:.0f} us, which is too short to tell anything by")
        decisions: dict[str, Decision] = {}
        tried: list[Tried] = []
        known = Known(len(self._inputs))
        try:
            for path, sample in self._inputs.items():
                decisions[path], more = decide(
                    self._parts[path], sample, known, self._clock, self._tell, free_output=path == ""
                )
                tried += more
        except OutOfTimeError:
            return self._out_of_time(f" (a call takes {whole:.3g} s)")
        rounds = max(MOST_ROUNDS, int(_WHOLE_S / whole))
        return self._fastest(decisions, tried, known.hurried, rounds)

    def _out_of_time(self, told: str = "") -> Conversion:
        reason = f"{self._clock.budget_s:g} s were too little to time its operators{told}; give more as budget_s"
        self._warnings.append(f"nothing was tuned: {reason}")
        return self._unchanged(reason, decided=False)

    def _fastest(self, decisions: Mapping[str, Decision], tried: list[Tried], hurried: int, rounds: int) -> Conversion:
        """Of what was decided, and of only calling the same operators faster, what is worth the change."""
        chosen = {"called": Choice(self._machine, self._model, dict.fromkeys(decisions, Decision()))}
        if not all(one.changes_nothing for one in decisions.values()):
            chosen["decided"] = Choice(self._machine, self._model, decisions)
        made = {name: self._carried_out(choice) for name, choice in chosen.items()}
        calls = {name: self._call(module) for name, (module, _) in made.items()} | {"before": self._call(self._module)}
        timed = timed_in_turn(calls, range(rounds), budget_s=max(0.25 * self._clock.budget_s, 0.5))
        self._tell()
        pays = "decided" in timed and Ratio.of(timed["called"], timed["decided"]).is_gain
        for name in ("decided", "called") if pays else ("called",):
            ratio = Ratio.of(timed["before"], timed[name])
            if not ratio.is_gain:
                brought = f"{ratio.median:.3f} x as fast, with a noise of {3 * ratio.noise:.3f}"
                return self._unchanged(f"the whole model is {brought}: too little for a change", tried)
            seconds = timed["before"].median, timed[name].median
            tuning = Tuning(True, "measured", chosen[name], ratio, seconds, hurried=hurried, tried=tuple(tried))
            found = self._proven(tuning, *made[name])
            if found.module is not self._module:
                break
        return found

    def _carried_out(self, choice: Choice) -> tuple[nn.Module, Written]:
        """The module with a choice carried out, and what that was."""
        module, written = shared_copy(self._module), Written()
        for path, decision in choice.decisions.items():
            if path not in self._inputs:
                self._warnings.append(f"{path} isn't called with this sample, and stays as it is")
                continue
            part = module.get_submodule(path)
            assert isinstance(part, ConvertedModule)  # it has the fingerprint of one that had
            written += carry_out(part, path, decision, self._inputs[path])
        return module, written

    def _proven(self, tuning: Tuning, module: nn.Module, written: Written) -> Conversion:
        """The conversion with a module that a choice was carried out in, if it computes the same."""
        notes = written.notes
        again = tuning.ratio is None
        verification, gradients = proven(
            self._reference, module, self._samples, self._tolerance, notes.baked, again=again
        )
        if not verification or not gradients.passed:
            why = gradients if verification else verification
            return self._refused(f"it would compute something else: {why}", tuning)
        before, found = self._conversion.fit, None
        if before is not None:
            found = fit(module, before.target, self._samples[0])
            if found.misfitting > before.misfitting:
                return self._refused(f"fewer operators would fit {before.target.title}", tuning)
        for path, part in self._parts.items():
            tuned = module.get_submodule(path)
            if isinstance(tuned, ConvertedModule) and weights_in(tuned) != weights_in(part):
                tuned.mark_filled()
        done = replace(tuning, copies=written.copies, functions=written.functions, spent_s=self._clock.spent)
        return replace(
            self._conversion,
            module=module,
            verification=None if self._conversion.verification is None else verification,
            weight_map=self._conversion.weight_map.with_baked(notes.baked),
            program=None,
            exact=self._conversion.exact + notes,
            fit=found,
            tuning=done,
        )

    def _refused(self, why: str, tuning: Tuning) -> Conversion:
        reason = f"a choice wasn't taken, for {why}"
        self._warnings.append(reason)
        return self._unchanged(reason, tuning.tried, decided=False)

    def _unchanged(self, reason: str, tried: Iterable[Tried] = (), *, decided: bool = True) -> Conversion:
        nothing = Choice(self._machine, self._model, {}, decided)
        tuning = Tuning(False, reason, nothing, tried=tuple(tried), spent_s=self._clock.spent)
        return replace(self._conversion, tuning=tuning)

    def _call(self, module: nn.Module) -> Callable[[], Any]:
        """A call of a clone of a module, which takes the effects of running it."""
        clone, (sample, *_) = clone_module(module, share_parameters), self._samples
        if isinstance(module, ConvertedModule):
            sample = Sample(*module.inputs_2d(*sample.args, **sample.kwargs))
        return repeated(clone, sample)

    @functools.cached_property
    def _inputs(self) -> dict[str, Sample]:
        return inputs_of(self._module, self._parts, self._samples[0])

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(1.0, self._clock.spent / self._clock.budget_s))
