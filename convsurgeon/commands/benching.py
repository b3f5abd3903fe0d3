"""What ``bench`` does: the converted model against the original, in turn, so that both meet the same machine."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

import convsurgeon
from convsurgeon.commands.console import Code, errors
from convsurgeon.commands.converting import Done, samples_for
from convsurgeon.commands.models import model_of
from convsurgeon.samples import Sample
from convsurgeon.timing import Ratio, timed_in_turn


@dataclass(frozen=True, slots=True)
class Figures:
    """One variant: its median, fastest and slowest seconds.

    `speedup`: the median, over the rounds, of the original's seconds divided by its own. `peak_bytes`: the most that
    its tensors took at once, beside weights and inputs.
    """

    name: str
    median_s: float
    least_s: float
    most_s: float
    speedup: float
    peak_bytes: int


def bench_of(
    spec: str,
    inputs: Sequence[str],
    options: Mapping[str, Any],
    rounds: int,
    threads: int | None,
    *,
    compiled: bool,
    trust: bool,
) -> Done:
    """Time original and converted model, eager and compiled, `rounds` times in turn.

    Raises:
        ConvSurgeonError, ValueError: as `convsurgeon.convert`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    given = model_of(spec, trust=trust)
    samples = samples_for(given, inputs)
    if not samples:
        raise ValueError(f"there is nothing to time: {spec} gives no sample; give --input")
    conversion = convsurgeon.convert(given.model, list(samples), **options)
    variants: dict[str, Callable[..., Any]] = {"original": given.module, "converted": conversion.module}
    if compiled:
        variants |= {f"{name}, compiled": _compiled(module) for name, module in dict(variants).items()}
    figures = measured({name: _call(module, samples[0]) for name, module in variants.items()}, rounds)
    head = (
        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds in turn"
    )
    code = Code.DONE if conversion.plan.convolutions or conversion.plan.in_place else Code.NOTHING_CONVERTED
    return Done(code, _table(head, figures), {"machine": head, "figures": [asdict(one) for one in figures]})


def measured(calls: Mapping[str, Callable[[], Any]], rounds: int) -> list[Figures]:
    """Time every call once a round; the first is what the others are compared with."""
    peaks = {name: _peak(call) for name, call in calls.items()}
    with Progress(console=errors, disable=not errors.is_terminal, transient=True) as bar:
        timed = timed_in_turn(calls, bar.track(range(rounds), description="timing"))
    first = next(iter(timed.values()))
    return [
        Figures(name, one.median, one.least, one.most, Ratio.of(first, one).median, peaks[name])
        for name, one in timed.items()
    ]


def _compiled(module: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = torch.compile(module)
    return found


def _call(module: Callable[..., Any], sample: Sample) -> Callable[[], Any]:
    def call() -> None:
        with torch.no_grad():
            module(*sample.args, **sample.kwargs)

    return call


def _peak(call: Callable[[], Any]) -> int:
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


def _table(head: str, figures: Sequence[Figures]) -> str:
    table = Table("", "median ms", "min", "max", "x faster", "peak MiB", title=head, title_justify="left")
    for one in figures:
        times = (f"{1000 * value:.2f}" for value in (one.median_s, one.least_s, one.most_s))
        table.add_row(one.name, *times, f"{one.speedup:.2f}", f"{one.peak_bytes / 2**20:.1f}")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
