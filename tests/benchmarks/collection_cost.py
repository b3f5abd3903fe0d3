"""What converting each published model of the collection costs, next to its capture and one forward.

PYTHONPATH=tests python tests/benchmarks/collection_cost.py [NAME ...]

"ratio" is the whole conversion, without the verifier, to its capture and one forward together; at most 2 is asked for.
The ways of capturing that failed before, and the comparison of the graph with the model, without which it is none, are
part of the capture.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch
from models.collection import COLLECTION, Architecture

from convsurgeon import convert


def row(architecture: Architecture) -> str:
    torch.manual_seed(0)
    model = architecture.build().eval()
    with torch.no_grad():
        model(**architecture.sample)
        start = time.perf_counter()
        model(**architecture.sample)
        forward = time.perf_counter() - start
    start = time.perf_counter()
    conversion = convert(model, architecture.sample, verify=False)
    whole, capture = time.perf_counter() - start, conversion.seconds["capture"] + conversion.seconds.get("compare", 0.0)
    ratio = whole / (capture + forward)
    how = conversion.plan.capture.how
    return f"{architecture.name:40} {how:8} {capture:8.2f} {forward:8.3f} {whole:8.2f} {ratio:6.2f}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # what the packages warn of is theirs
    torch.set_num_threads(1)
    convert(torch.nn.Conv1d(2, 2, 3), torch.randn(1, 2, 9))  # what is imported and cached once in a process
    print(f"{'model':40} {'capture':8} {'capture':>8} {'forward':>8} {'whole':>8} {'ratio':>6}")
    for one in COLLECTION:
        if len(sys.argv) == 1 or one.name in sys.argv[1:]:
            print(row(one), flush=True)
