"""What ``bench`` does: every way to run a model against the original, in turn, so that all meet the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile

import convsurgeon
from convsurgeon.commands.console import Code, errors, working
from convsurgeon.commands.converting import Done, samples_for
from convsurgeon.commands.models import Given, model_of
from convsurgeon.commands.plotting import plot_ratios, require_plotting
from convsurgeon.commands.runtimes import Exported, installed
from convsurgeon.conversion import Conversion
from convsurgeon.formats import sample_for
from convsurgeon.runs.repeated import repeated
from convsurgeon.samples import Sample
from convsurgeon.tables import table_text
from convsurgeon.timing import Ratio, Timing, timed_in_turn
from convsurgeon.tuning.choice import Machine

Call = Callable[[], Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_KEEPING_LAYOUTS = {"layout_optimization": False}
"""What inductor is told for a tuned module. Of itself, it takes every 2-D convolution on a CPU to channels_last."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is timed beside original and converted model, and how.

    `dtype`: what the model is cast to first; None leaves it. `tune_s`: for how many seconds to tune; None doesn't.
    """

    rounds: int = 20
    threads: int | None = None
    dtype: str | None = None
    compiled: bool = True
    runtimes: bool = True
    tune_s: float | None = None
    profile: bool = False
    plot: Path | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """One variant: its median, fastest and slowest seconds.

    `speedup`: the median, over the rounds, of the original's seconds divided by its own, and `noise` how far off that
    may be. `peak_bytes`: the most that its tensors took at once, beside weights and inputs; None where torch isn't what
    runs it.
    """

    name: str
    median_s: float
    least_s: float
    most_s: float
    speedup: float
    noise: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A variant that can't be run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the model: `make` prepares what is called, and may fail."""

    name: str
    make: Callable[[], Call]
    is_torch: bool = True


def bench_of(spec: str, inputs: Sequence[str], options: Mapping[str, Any], wanted: Wanted, *, trust: bool) -> Done:
    """Time original and converted model, and what else is wanted, in turn.

    Raises:
        ConvSurgeonError, ValueError: as `convsurgeon.convert`.
    """
    if wanted.plot is not None:
        require_plotting(wanted.plot)
    if wanted.threads is not None:
        torch.set_num_threads(wanted.threads)
    given = model_of(spec, trust=trust)
    samples = samples_for(given, inputs)
    if not samples:
        raise ValueError(f"there is nothing to time: {spec} gives no sample; give --input")
    given, samples = _cast(given, samples, wanted.dtype)
    with working(f"converting {spec}"):
        conversion = best = convsurgeon.convert(given.model, list(samples), **options)
    if wanted.tune_s is not None:
        with working(f"tuning {spec}"):
            best = convsurgeon.tune(conversion, list(samples), budget_s=wanted.tune_s)
    modules = {"original": given.module, "converted": conversion.module, "tuned": best.module}
    if wanted.tune_s is None:
        del modules["tuned"]
    found = measured(variants(modules, samples[0], wanted), wanted.rounds)
    head = f"{Machine.here(given.module, samples[0])}, {wanted.rounds} rounds in turn"
    text, data = _table(head, found), {"machine": head, **_data(found)}
    if best is not conversion and best.tuning is not None:
        text += "\ntuned: " + "\n       ".join(line.strip() for line in best.tuning.lines())
        data["tuning"] = best.tuning.to_json()
    if wanted.profile:
        profiled = best.profile(samples[0], rounds=wanted.rounds)
        text += f"\n\n{profiled}"
        data["profile"] = profiled.to_json()
    if wanted.plot is not None:
        ratios = {one.name: one.speedup for one in found if isinstance(one, Figures)}
        plot_ratios(wanted.plot, f"{spec}\n{head}", list(ratios), {"": list(ratios.values())})
    return Done(Code.DONE if _is_converted(conversion) else Code.NOTHING_CONVERTED, text, data)


def _is_converted(conversion: Conversion) -> bool:
    return bool(conversion.plan.convolutions or conversion.plan.in_place)


def _data(found: Sequence[Figures | Refused]) -> dict[str, Any]:
    kinds: dict[str, type] = {"figures": Figures, "refused": Refused}
    return {name: [asdict(one) for one in found if isinstance(one, kind)] for name, kind in kinds.items()}


def _cast(given: Given, samples: Sequence[Sample], name: str | None) -> tuple[Given, tuple[Sample, ...]]:
    """The model and its samples in the dtype of that name.

    Raises:
        ValueError: there is none, or the model can't be cast.
    """
    if name is None:
        return given, tuple(samples)
    if name not in DTYPES:
        raise ValueError(f"--dtype is {name!r}; accepted: {', '.join(DTYPES)}")
    if not isinstance(given.model, nn.Module):
        raise ValueError("--dtype goes with a model in Python; an exported program holds its dtypes")
    dtype = DTYPES[name]
    cast = tuple(one.map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf) for one in samples)
    return Given(given.model.to(dtype), given.sample_inputs), cast


def variants(modules: Mapping[str, nn.Module], sample: Sample, wanted: Wanted) -> Iterator[Variant]:
    """Each module as it is, compiled, and original and converted one as other tools run them."""
    for name, module in modules.items():
        yield Variant(name, partial(_called, module, sample))
    for name, module in modules.items() if wanted.compiled else ():
        compiled = partial(torch.compile, options=_KEEPING_LAYOUTS if name == "tuned" else None)
        yield Variant(f"{name}, compiled", partial(_called, module, sample, compiled))
    tools = installed() if wanted.runtimes else {}
    exports = {name: Exported(modules[name], sample) for name in ("original", "converted") if tools}
    for tool, make in tools.items():
        for name, exported in exports.items():
            yield Variant(f"{name}, {tool}", partial(make, exported), is_torch=False)


def measured(ways: Iterable[Variant], rounds: int) -> list[Figures | Refused]:
    """Time every variant once a round; the first is what the others are compared with, and has to run."""
    calls: dict[str, Call] = {}
    peaks: dict[str, int | None] = {}
    refused: dict[str, Refused | None] = {}
    for way in ways:
        refused[way.name] = None
        try:
            with working(f"preparing {way.name}"):
                call = way.make()
                call()
            peaks[way.name] = _peak(call) if way.is_torch else None
            calls[way.name] = call
        except Exception as error:  # compilers and other tools may raise anything; that they refuse is a result
            if not calls:
                raise
            refused[way.name] = Refused(way.name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    with Progress(console=errors, disable=not errors.is_terminal, transient=True) as bar:
        timed = timed_in_turn(calls, bar.track(range(rounds), description="timing"))
    first = next(iter(timed.values()))
    return [known or _figures(name, first, timed[name], peaks[name]) for name, known in refused.items()]


def _figures(name: str, first: Timing, own: Timing, peak: int | None) -> Figures:
    ratio = Ratio.of(first, own)
    return Figures(name, own.median, own.least, own.most, ratio.median, ratio.noise, peak)


def _called(module: nn.Module, sample: Sample, compiled: Callable[[nn.Module], Any] | None = None) -> Call:
    return repeated(module if compiled is None else compiled(module), sample_for(module, sample))


def _peak(call: Call) -> int:
    """The most bytes that tensors of one call take at once, as torch's allocators tell its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    kineto: Any = seen.profiler
    events = [(one.start_ns(), one.nbytes()) for one in kineto.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        held += change
        most = max(most, held)
    return most


def _table(head: str, found: Sequence[Figures | Refused]) -> str:
    table = Table("", "median ms", "min", "max", "x faster", "peak MiB")
    for one in found:
        if isinstance(one, Refused):
            table.add_row(one.name, "refused")
            continue
        times = (f"{1000 * value:.2f}" for value in (one.median_s, one.least_s, one.most_s))
        peak = "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.1f}"
        table.add_row(one.name, *times, f"{one.speedup:.2f} \N{PLUS-MINUS SIGN} {one.noise:.2f}", peak)
    reasons = [f"{one.name}: refused: {one.reason}" for one in found if isinstance(one, Refused)]
    return "\n".join((head, table_text(table), *reasons))
