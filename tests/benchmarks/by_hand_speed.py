"""How fast converted and tuned networks are beside twins that were written in 4-D by hand, in channels_last.

PYTHONPATH=tests python tests/benchmarks/by_hand_speed.py [--threads 1]

The ratio is how many times faster than the twin each is, in turn, with how far off that may be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from models.by_hand import Wrapped, pair
from torch import nn

import convsurgeon
from convsurgeon.timing import Ratio, timed_in_turn


def called(module: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=200, help="how often each is timed (default: 200)")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    x = torch.randn(8, 4, 4096)
    print(f"{'network':8} {'by hand ms':>12} {'original':>16} {'converted':>16} {'tuned':>16}")
    for at, name in enumerate("ABCD"):
        original, hand = pair(at)
        conversion = convsurgeon.convert(original, x)
        tuned = convsurgeon.tune(conversion, budget_s=20)
        modules = {
            "by hand": Wrapped(hand).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            "original": original,
            "converted": conversion.module,
            "tuned": tuned.module,
        }
        timed = timed_in_turn({key: called(module, x) for key, module in modules.items()}, range(wanted.rounds))
        ratios = [Ratio.of(timed["by hand"], one) for one in timed.values()][1:]
        shown = "".join(f"{f'{one.median:.2f} +- {one.noise:.2f}':>17}" for one in ratios)
        print(f"{name:8} {1000 * timed['by hand'].median:12.2f}{shown}", flush=True)


if __name__ == "__main__":
    main()
