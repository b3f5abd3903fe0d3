"""What fitting and rewriting exactly cost, next to the plan and the rewrite of the conversion that they are done on.

python tests/benchmarks/fit_cost.py [--nodes 1700] [--repeats 5]

A repetition builds each model anew, converts it, fits the result, and rewrites it exactly, one convolution in ten
or all of them, the models taking turns; the numbers are medians of seconds, and of the ratio within a repetition.
What is asked: fit and rewrites together take no longer than plan and rewrite.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics

import torch
from conversion_cost import CHANNELS, FAMILIES, LENGTH, aligned, seconds_of

import convsurgeon
from convsurgeon.exact.passes import rewrite_exactly

TARGET = "mdla"
REWRITES = {"chain": "separate_padding", "conv+bn+relu": "fold_batch_norm", "residual": "separate_padding"}
PER_CONVOLUTION = {"chain": 1, "conv+bn+relu": 3, "residual": 2}
COLUMNS = ("plan", "rewrite", "fit", "a tenth", "all", "fit/ours", "(fit+tenth)/ours", "(fit+all)/ours")


def time_once(family: str, nodes: int) -> tuple[int, dict[str, float]]:
    """One repetition: the nodes of the converted graph, seconds and ratios."""
    count = nodes // PER_CONVOLUTION[family]
    model, sample = FAMILIES[family](count).eval(), torch.randn(1, CHANNELS, LENGTH)
    conversion = convsurgeon.convert(model, sample, verify=False)
    module = conversion.module
    assert isinstance(module, convsurgeon.ConvertedModule)
    size = len(module.graph.nodes)
    fit = seconds_of(lambda: convsurgeon.fit(module, TARGET, sample))
    names = [REWRITES[family]]
    tenth = seconds_of(lambda: rewrite_exactly(module, names, sample, select=["*0", "*0.second"]))
    others = convsurgeon.convert(model, sample, verify=False).module
    assert isinstance(others, convsurgeon.ConvertedModule)
    every = seconds_of(lambda: rewrite_exactly(others, names, sample))
    ours = conversion.seconds["plan"] + conversion.seconds["rewrite"]
    return size, {
        "plan": conversion.seconds["plan"],
        "rewrite": conversion.seconds["rewrite"],
        "fit": fit,
        "a tenth": tenth,
        "all": every,
        "fit/ours": fit / ours,
        "(fit+tenth)/ours": (fit + tenth) / ours,
        "(fit+all)/ours": (fit + every) / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what fitting and exact rewrites cost.")
    parser.add_argument("--nodes", type=int, default=1700, help="of the graphs, about (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)  # these tensors are so small that threads would only wait for each other
    print(f"{platform.machine()}, {os.cpu_count()} cores; torch {torch.__version__}; load {os.getloadavg()[0]:.1f}")
    for family in FAMILIES:
        time_once(family, 50)  # what is loaded once, is loaded now
    runs: dict[str, list[tuple[int, dict[str, float]]]] = {family: [] for family in FAMILIES}
    for _ in range(options.repeats):
        for family in FAMILIES:
            runs[family].append(time_once(family, options.nodes))
    rows = [["model", "nodes", *COLUMNS]]
    for family, found in runs.items():
        medians = (statistics.median(one[name] for _, one in found) for name in COLUMNS)
        rows.append([family, str(found[0][0]), *(f"{one:.3f}" for one in medians)])
    print(aligned(rows))
    print("ours: plan + rewrite")


if __name__ == "__main__":
    main()
