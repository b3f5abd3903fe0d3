"""What a conversion costs, in time and memory, next to a bare torch.fx trace and one forward of the model.

python tests/benchmarks/conversion_cost.py [--sizes 100,1000,5000] [--repeats 3]

A repetition builds each model anew, the models taking turns; the numbers are medians of seconds. "gc" is what Python's
garbage collector takes during the call of `convert`, within whichever step it runs, or after the last.

What is asked of them: observe at most 5 forwards; plan and rewrite at most 6 traces on chains, 3 on residual nets;
growth at most n^1.25; memory at most 1 % of the weights.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import convsurgeon

STEPS = ("capture", "observe", "compare", "plan", "rewrite", "verify")
CHANNELS, LENGTH = 4, 16


def chain(count: int, channels: int = CHANNELS) -> nn.Module:
    """Convolutions, one after the other."""
    return nn.Sequential(*(nn.Conv1d(channels, channels, 3, padding=1) for _ in range(count)))


def stack(count: int) -> nn.Module:
    """Convolution, batch normalisation, ReLU, and again."""
    blocks = ((nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm1d(CHANNELS), nn.ReLU()) for _ in range(count))
    return nn.Sequential(*(layer for block in blocks for layer in block))


class Residual(nn.Module):
    """Two convolutions, and what came in added to what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.second = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.second.weight.data *= 0.1  # or thousands of blocks overflow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


def residual_net(count: int) -> nn.Module:
    """Residual blocks, one after the other."""
    return nn.Sequential(*(Residual() for _ in range(count // 2)))


FAMILIES: dict[str, Callable[[int], nn.Module]] = {"chain": chain, "conv+bn+relu": stack, "residual": residual_net}


def seconds_of(action: Callable[[], object]) -> float:
    """How long `action` takes, in a heap that was just collected."""
    gc.collect()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@contextmanager
def collector_watched() -> Iterator[list[float]]:
    """Notes the seconds of each run of the garbage collector."""
    started, runs = 0.0, []

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            runs.append(time.perf_counter() - started)

    gc.callbacks.append(note)
    try:
        yield runs
    finally:
        gc.callbacks.remove(note)


def time_once(build: Callable[[int], nn.Module], count: int) -> dict[str, float]:
    """One repetition: the seconds of a bare trace, of a forward, of each step of a conversion, and of the collector."""
    model = build(count).eval()
    sample = torch.randn(1, CHANNELS, LENGTH)
    with torch.no_grad():
        model(sample)
        forward = seconds_of(lambda: model(sample))
    trace = seconds_of(lambda: torch.fx.Tracer().trace(model))
    gc.collect()
    with collector_watched() as collections:
        conversion = convsurgeon.convert(model, sample)
    assert len(conversion.plan.convolutions) == count
    return {"trace": trace, "forward": forward, **conversion.seconds, "gc": sum(collections)}


def measure(sizes: Sequence[int], repeats: int) -> dict[tuple[str, int], dict[str, float]]:
    """The median of each number, by family and size."""
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for count in sizes:
        for _ in range(repeats):
            for family, build in FAMILIES.items():
                runs.setdefault((family, count), []).append(time_once(build, count))
    return {
        case: {name: statistics.median(one[name] for one in repetitions) for name in repetitions[0]}
        for case, repetitions in sorted(runs.items())
    }


def timing_rows(found: dict[tuple[str, int], dict[str, float]]) -> Iterable[list[str]]:
    """The table: seconds, then ratios; the growth of plan + rewrite is from the size above."""
    yield [
        "model",
        "convs",
        "trace",
        "forward",
        *STEPS,
        "gc",
        "capture/trace",
        "observe/fwd",
        "(plan+rewr)/trace",
        "growth",
    ]
    before: tuple[str, int, float] | None = None
    for (family, count), t in found.items():
        ours = t["plan"] + t["rewrite"]
        growth = ""
        if before is not None and before[0] == family:
            growth = f"n^{math.log(ours / before[2]) / math.log(count / before[1]):.2f}"
        before = (family, count, ours)
        seconds = [f"{t[name]:.4f}" for name in ("trace", "forward", *STEPS, "gc")]
        ratios = [t["capture"] / t["trace"], t["observe"] / t["forward"], ours / t["trace"]]
        yield [family, str(count), *seconds, *(f"{ratio:.2f}" for ratio in ratios), growth]


MEMORY: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "one forward, for comparison": lambda model, x: torch.no_grad()(model)(x),
    "convert(verify=False)": lambda model, x: convsurgeon.convert(model, x, verify=False),
    "convert(tolerance=...)": lambda model, x: convsurgeon.convert(
        model, x, tolerance=convsurgeon.Tolerance(rtol=1e-4, atol=1e-5)
    ),
    "convert(), float64 referee": lambda model, x: convsurgeon.convert(model, x),
    "convert(copy_weights=True, verify=False)": lambda model, x: convsurgeon.convert(
        model, x, copy_weights=True, verify=False
    ),
}


def extra_memory(action: Callable[[nn.Module, torch.Tensor], object]) -> tuple[int, int]:
    """(bytes of weights, bytes by which `action` on a model of large weights raises the peak of this process)."""
    with torch.no_grad():
        action(chain(2).eval(), torch.randn(1, CHANNELS, LENGTH))  # what is loaded once, is loaded now
    with torch.device("meta"):
        model = chain(20, channels=1024).eval()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(1e-4)  # no initialisation in a copy, which would raise the peak
    sample = torch.randn(1, 1024, 8)
    gc.collect()
    before = resident_now()
    action(model, sample)
    return sum(p.nbytes for p in model.parameters()), peak() - before


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_now() -> int:
    """What is resident now; an earlier peak would hide what comes. Where that can't be asked, the peak so far."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak()


def memory_rows() -> Iterable[list[str]]:
    """The table of memory; each row is measured in a process of its own."""
    yield ["20 x Conv1d(1024, 1024, 3)", "weights MiB", "extra MiB", "% of weights"]
    for name in MEMORY:
        command = [sys.executable, __file__, "--memory-of", name]
        weights, extra = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        yield [name, f"{weights / 2**20:.0f}", f"{extra / 2**20:.1f}", f"{extra / weights:.1%}"]


def aligned(rows: Iterable[list[str]]) -> str:
    """Text columns; the first to the left, the others to the right."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    layout = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(layout.format(*row).rstrip() for row in table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a conversion costs in time and memory.")
    parser.add_argument("--sizes", default="100,1000,5000", help="numbers of convolutions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--memory-of", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # these tensors are so small that threads would only wait for each other
    if options.memory_of:
        print(*extra_memory(MEMORY[options.memory_of]))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores; torch {torch.__version__}, {torch.get_num_threads()} thread")
    print(
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f}; medians of {options.repeats}, in seconds\n"
    )
    # First, while this process is small: a child's peak starts at its parent's.
    memory = aligned(memory_rows())
    convsurgeon.convert(chain(2).eval(), torch.randn(1, CHANNELS, LENGTH))
    print(aligned(timing_rows(measure([int(size) for size in options.sizes.split(",")], options.repeats))))
    print("\npeak memory beyond what the model holds")
    print(memory)


if __name__ == "__main__":
    main()
