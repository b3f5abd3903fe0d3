"""How fast published models are as they are, converted, tuned, compiled and in other tools: in one process, in turn.

PYTHONPATH=tests python tests/benchmarks/collection_speed.py [--tune] [--fold] [--compiled] [--runtimes] ...

Two sets: the models of tests/models/full_size.py, at sizes that they are used in, and the collection, whose models are
so small that a forward is mostly Python. What is shown is the median, over the rounds, of the original's milliseconds
and of how many times faster each variant is, with how far off that may be; then the geometric mean and the least of
these over each set, and over what is depthwise-heavy in it: at least half of the convolutions with a kernel above 1.

"at most" is how many times faster it would be if nothing took time but its multiplications, at the rate at which torch
multiplies large matrices here: what no order or layout of the same operators gets beyond. (Of a dtype that the machine
has no instructions for it tells nothing: large products are slow then.)
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from models.collection import COLLECTION, Architecture
from models.full_size import FULL_SIZE, is_depthwise_heavy
from torch.utils.flop_counter import FlopCounterMode

import convsurgeon
from convsurgeon.commands.benching import DTYPES, Figures, Refused, Wanted, measured, variants
from convsurgeon.commands.plotting import plot_ratios, require_plotting
from convsurgeon.commands.runtimes import installed
from convsurgeon.samples import Sample
from convsurgeon.timing import timed_in_turn
from convsurgeon.tuning.choice import Machine

SETS: dict[str, Sequence[Architecture]] = {"full size": FULL_SIZE, "collection": COLLECTION}


class Result:
    """The figures of one model's variants; of one that isn't converted, why."""

    def __init__(self, of: str, architecture: Architecture) -> None:
        self.of, self.name = of, architecture.name
        self.depthwise, self.reason = False, ""
        self.multiplying_s = 0.0
        self.found: dict[str, Figures] = {}

    @property
    def most(self) -> float:
        """How many times faster than the original it is where only multiplications take time; inf if it has none."""
        return self.found["original"].median_s / self.multiplying_s if self.multiplying_s else float("inf")


def timed(of: str, architecture: Architecture, wanted: Wanted, *, fold: bool) -> Result:
    """Convert a model, tune it if that is wanted, and time all there is of it."""
    result = Result(of, architecture)
    torch.manual_seed(0)
    dtype = DTYPES[wanted.dtype or "float32"]
    model = architecture.build().eval().to(dtype)
    sample = Sample((), architecture.sample).map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
    result.depthwise = is_depthwise_heavy(model)
    try:
        with torch.no_grad():
            model(**sample.kwargs)  # as one that is in use has been: some make their state in their first call
        conversion = convsurgeon.convert(model, sample, fold=fold, exact=["fold_batch_norm"] if fold else [])
        modules = {"original": model, "converted": conversion.module}
        if wanted.tune_s is not None:
            modules["tuned"] = convsurgeon.tune(conversion, budget_s=wanted.tune_s).module
        shown = ("original", *names_of(wanted))
        ways = [way for way in variants(modules, sample, wanted) if way.name in shown]
        result.multiplying_s = flops_of(model, sample) / matmul_rate(dtype, torch.get_num_threads())
        found = measured(ways, rounds_for(model, sample, wanted.rounds))
    except Exception as error:  # the models are other people's; one that fails is told, and the others are timed
        result.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        return result
    result.found = {one.name: one for one in found if isinstance(one, Figures)}
    result.reason = "; ".join(f"{one.name}: {one.reason}" for one in found if isinstance(one, Refused))
    torch._dynamo.reset()
    return result


def rounds_for(model: torch.nn.Module, sample: Sample, least: int) -> int:
    """More rounds of what is short: as many forwards as take two seconds, up to two hundred."""
    with torch.no_grad():
        model(**sample.kwargs)
        start = time.perf_counter()
        model(**sample.kwargs)
    return max(least, min(200, int(2.0 / (time.perf_counter() - start))))


def flops_of(model: torch.nn.Module, sample: Sample) -> int:
    """The floating point operations of a forward's convolutions and products; torch counts none of recurrent layers."""
    counted = copy.deepcopy(model).requires_grad_(False)  # the counter asks for gradients where there may be some
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(**sample.kwargs)
    return counter.get_total_flops()


@functools.cache
def matmul_rate(dtype: torch.dtype, threads: int) -> float:
    """Floating point operations a second of the fastest of some products of large matrices, on so many threads."""
    seconds = []
    for size in (256, 512, 1024):
        one = torch.randn(size, size).to(dtype)
        timed = timed_in_turn({"": lambda one=one: torch.mm(one, one)}, range(20), budget_s=1.0)[""]
        seconds.append(timed.least / (2 * size**3))
    return 1 / min(seconds)


def names_of(wanted: Wanted) -> list[str]:
    """The variants besides the original, in order; compiling the converted one beside the tuned is minutes more."""
    plain = ["original", "converted", *(["tuned"] if wanted.tune_s is not None else [])]
    compiled = [f"{name}, compiled" for name in (plain[0], plain[-1])] if wanted.compiled else []
    run = [f"{name}, {tool}" for tool in installed() for name in plain[:2]] if wanted.runtimes else []
    return [*plain[1:], *compiled, *run]


def row(result: Result, names: Iterable[str]) -> str:
    """One line of the table: milliseconds of the original, then the ratios of the others."""
    line = f"{result.name[:34]:34} {'d' if result.depthwise else ' '}"
    if not result.found:
        return f"{line} {result.reason}"
    line += f"{1000 * result.found['original'].median_s:10.2f}{result.most:9.2f}"
    for name in names:
        one = result.found.get(name)
        line += " " * 25 if one is None else f"{f'{one.speedup:.2f} +- {one.noise:.2f}':>25}"
    return f"{line}  {result.reason}".rstrip()


def summary(results: Sequence[Result], names: Sequence[str]) -> Iterable[str]:
    """The geometric mean and the least ratio of each variant, over each set and what is depthwise-heavy in it."""
    pairs = [(name, "original") for name in names]
    for name in names:
        module, _, tool = name.partition(", ")
        if tool and module != "original":
            pairs.append((name, f"original, {tool}"))
    for of in SETS:
        for depthwise in (False, True):
            several = [one for one in results if one.of == of and one.found and one.depthwise >= depthwise]
            which = f"{of}{', depthwise-heavy' if depthwise else ''}"
            for name, base in pairs:
                both = {one.name: one.found for one in several if name in one.found and base in one.found}
                yield from _summed(
                    f"{which}: {name}{'' if base == 'original' else f' / {base}'}",
                    {model: ratio_of(found, name, base) for model, found in both.items()},
                )
            yield from _summed(f"{which}: at most", {one.name: one.most for one in several if one.multiplying_s})


def ratio_of(found: Mapping[str, Figures], name: str, base: str) -> float:
    """How many times faster one variant is than another, by what each is beside the original in the same rounds."""
    return found[name].speedup / found[base].speedup


def _summed(which: str, ratios: Mapping[str, float]) -> Iterable[str]:
    if ratios:
        least = min(ratios, key=lambda one: ratios[one])
        mean = statistics.geometric_mean(ratios.values())
        yield f"{which:64} {len(ratios):3} models, mean {mean:.3f}, least {ratios[least]:.3f} ({least})"


def main() -> None:
    """Measure, print each model as it is done, and then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed at least (default: 15)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile each as well, which takes minutes")
    parser.add_argument("--runtimes", action="store_true", help="onnxruntime and OpenVINO as well, if installed")
    parser.add_argument("--tune", action="store_true", help="tune each converted model as well")
    parser.add_argument("--fold", action="store_true", help="fold batch norms, and computed weights")
    parser.add_argument("--budget", type=float, default=45.0, help="seconds for tuning one model (default: 45)")
    parser.add_argument("--set", choices=SETS, action="append", help="one set alone")
    named = sorted({one.name for models in SETS.values() for one in models})
    parser.add_argument("--only", metavar="NAME", action="append", choices=named, help="one model, or several")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios, such as speed.svg")
    options = parser.parse_args()
    if options.plot is not None:
        require_plotting(options.plot)
    warnings.simplefilter("ignore")  # what the packages warn of is theirs
    torch.set_num_threads(options.threads)
    tune_s = options.budget if options.tune else None
    wanted = Wanted(options.rounds, None, options.dtype, options.compiled, options.runtimes, tune_s)
    names, results, started = names_of(wanted), [], time.perf_counter()
    here = f"{Machine.here(torch.nn.Identity(), Sample((torch.empty(1, dtype=DTYPES[options.dtype]),)))}"
    print(f"{here}, at least {options.rounds} rounds in turn")
    for of in options.set or SETS:
        chosen = [one for one in SETS[of] if options.only is None or one.name in options.only]
        if chosen:
            print(f"\n{of:36}{'original ms':>11}{'at most':>9}" + "".join(f"{name:>25}" for name in names))
        for architecture in chosen:
            results.append(timed(of, architecture, wanted, fold=options.fold))
            print(row(results[-1], names), flush=True)
            gc.collect()
    print(f"\nafter {time.perf_counter() - started:.0f} s, of how many times faster than the original:")
    print("\n".join(summary(results, names)))
    shown = [one for one in results if one.found]
    if options.plot is not None and shown:
        ratios = {name: [one.found[name].speedup if name in one.found else None for one in shown] for name in names}
        plot_ratios(options.plot, here, [one.name for one in shown], ratios)


if __name__ == "__main__":
    main()
