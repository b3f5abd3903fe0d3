"""The one call: every graph of a conversion timed, chosen for and rewritten, and the whole compared and timed again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import torch
from torch import nn

from convsurgeon.aiming import fit_of
from convsurgeon.alone import alone
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.guard import WriteGuard, without_autocast_cache
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.conversion import Conversion
from convsurgeon.converted.module import ConvertedModule, shared_copy
from convsurgeon.samples import Sample, as_samples
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
from convsurgeon.tuning.result import Tuning
from convsurgeon.tuning.survey import Clock
from convsurgeon.verification import Tolerance

Elsewhere = Literal["measure", "ignore"]
BUDGET_S = 45.0
"""How long tuning may take, unless it is told."""

_LEAST_S = 50e-6
"""A call that takes less is too short to tell anything by."""

_WHOLE_S = 0.5
"""How long calls of the whole model are timed at least, so that no moment in which the machine is busy decides."""


class TuningWarning(UserWarning):
    """A choice that was saved wasn't used, or nothing could be decided."""


@alone
def tune(
    conversion: Conversion,
    sample_inputs: Any = None,
    *,
    budget_s: float = BUDGET_S,
    threads: int | None = None,
    choice: str | PathLike[str] | None = None,
    elsewhere: Elsewhere = "measure",
    progress: Callable[[float], None] | None = None,
) -> Conversion:
    """Make a converted model faster on the machine at hand, by measurement; where nothing is gained, nothing changes.

    Every operator is timed on the values that it meets in the first sample, in turn: as it is, in channels_last, and
    convolutions by the exact rewrites that may pay (`fold_dilation`, `fold_stride`, `transposed_as_convolution`). The
    choice over the whole graph is the cheapest one, copies between layouts counted. It is kept if the whole model is
    faster by more than the noise, and than 1 %, and computes the same: outputs, and gradients where it has them.

    Outputs may have other strides than before, and layers that draw random numbers in training may draw others.
    Weights that lie in channels_last have memory of their own, under the same names and shapes. On a CPU, compile the
    tuned module by ``torch.compile(module, options={"layout_optimization": False})``: inductor chooses layouts anew.

    Args:
        conversion: what `convsurgeon.convert` returned; it stays as it is.
        sample_inputs: as for `convsurgeon.convert`; None for those that were converted with. The shapes, dtype and
            device are those that it is tuned for.
        budget_s: how many seconds measuring may take. Where that is too little to decide, nothing changes.
        threads: how many of torch's threads to measure with; None for as many as are set.
        choice: a file that ``conversion.tuning.save`` wrote. A choice in it that was made for this model, device,
            dtype, number of threads and version of torch is carried out without measuring.
        elsewhere: what is done where the file has only choices of other machines: "measure" again, or "ignore" the
            file and change nothing; either way with a warning.
        progress: is called with the share of the budget that is spent.

    Returns:
        A conversion with another module, and a `Tuning` as ``tuning``: what was tried, and what it brought.

    Raises:
        ValueError: there is no sample, a wrong argument, or what is in the file isn't a choice.
        OSError: the file can't be read.
    """
    samples = conversion.samples if sample_inputs is None else as_samples(sample_inputs)
    _check(samples, budget_s, threads, elsewhere)
    with _measuring(threads):
        tuner = _Tuner(conversion, conversion.module, samples, None, Clock(budget_s), progress)
        return tuner.tuned(choice, elsewhere)


def tuned_like(conversion: Conversion, model: nn.Module, tolerance: Tolerance | None) -> Conversion:
    """A conversion tuned on its own samples, and compared with `model`, gradients too."""
    with _measuring(None):
        return _Tuner(conversion, model, conversion.samples, tolerance, Clock(BUDGET_S), None).tuned(None, "measure")


def _check(samples: tuple[Sample, ...], budget_s: float, threads: int | None, elsewhere: str) -> None:
    if not samples:
        raise ValueError("there is nothing to time: the conversion has no sample; give sample_inputs")
    if not budget_s > 0:
        raise ValueError(f"budget_s is {budget_s!r}; accepted: seconds, more than 0")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}; accepted: 1 or more, or None")
    if elsewhere not in ("measure", "ignore"):
        raise ValueError(f"elsewhere is {elsewhere!r}; accepted: 'measure', 'ignore'")


@contextmanager
def _measuring(threads: int | None) -> Iterator[None]:
    """With so many of torch's threads; nothing that can be seen changes."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode(False), preserved_random_state():
            yield
    finally:
        torch.set_num_threads(before)


class _Tuner:
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
                    return self._unchanged("the saved choices are for other machines, or other models")
        if found is None:
            return self._measured()
        if not found.decisions:
            return self._unchanged("nothing was changed where the choice was saved")
        module, written = self._carried_out(found)
        if any(adds_weights(one, module.get_submodule(path)) for path, one in self._parts.items()):
            reason = "the saved choice fills up kernels or repeats biases, which training would tell apart"
            self._warnings.append(f"{reason}: put the model in eval mode, or tune it in training mode")
            return self._unchanged(reason)
        return self._proven(Tuning(True, "carried out as it was saved", found), module, written)

    def _measured(self) -> Conversion:
        if not self._parts:
            return self._unchanged("no part of the model is a graph")
        call = self._call(self._module)
        with WriteGuard(self._module) as guard:
            call()
            call()  # some write from their second call on
        try:
            with without_autocast_cache():
                return self._chosen()
        finally:
            guard.restore()  # what forward writes to parameters, which every call that was timed has written

    def _chosen(self) -> Conversion:
        call = self._call(self._module)
        whole = timed_in_turn({"": call}, range(3))[""].least
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
            reason = (
                f"{self._clock.budget_s:g} s were too little to time its operators (a call takes {whole:.3g} s); "
                "give more as budget_s"
            )
            self._warnings.append(f"nothing was tuned: {reason}")
            return self._unchanged(reason)
        rounds = max(MOST_ROUNDS, int(_WHOLE_S / whole))
        return self._fastest(decisions, tried, known.hurried, rounds)

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
        before, fit = self._conversion.fit, None
        if before is not None:
            fit = fit_of(module, before.target, self._samples[0])
            if fit.misfitting > before.misfitting:
                return self._refused(f"fewer operators would fit {before.target.title}", tuning)
        done = replace(tuning, copies=written.copies, functions=written.functions, spent_s=self._clock.spent)
        return replace(
            self._conversion,
            module=module,
            verification=verification,
            weight_map=self._conversion.weight_map.with_baked(notes.baked),
            program=None,
            exact=self._conversion.exact + notes,
            fit=fit,
            tuning=done,
        )

    def _refused(self, why: str, tuning: Tuning) -> Conversion:
        reason = f"a choice wasn't taken, for {why}"
        self._warnings.append(reason)
        return self._unchanged(reason, tuning.tried)

    def _unchanged(self, reason: str, tried: Iterable[Tried] = ()) -> Conversion:
        nothing = Choice(self._machine, self._model, {})
        tuning = Tuning(False, reason, nothing, tried=tuple(tried), spent_s=self._clock.spent)
        return replace(self._conversion, tuning=tuning)

    def _call(self, module: nn.Module) -> Callable[[], Any]:
        """A call of a clone of a module, which takes the effects of running it."""
        clone, (sample, *_) = clone_module(module, share_parameters), self._samples
        args, kwargs = sample.args, sample.kwargs
        if isinstance(module, ConvertedModule):
            args, kwargs = module.inputs_2d(*args, **kwargs)

        def call() -> None:
            with torch.no_grad():
                clone(*args, **kwargs)

        return call

    @functools.cached_property
    def _inputs(self) -> dict[str, Sample]:
        return inputs_of(self._module, self._parts, self._samples[0])

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(1.0, self._clock.spent / self._clock.budget_s))
