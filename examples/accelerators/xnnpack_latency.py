"""The networks lowered to XNNPACK by ExecuTorch, and run: how long they take on a CPU.

How many subgraphs it takes, and what it leaves outside, is proven by tests/accelerators.

pip install torch==2.13.0 && pip install -e . executorch==1.5.1
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/xnnpack_latency.py

On 2026-11-25, on two shared cores, it printed

                original  converted  by hand  converted, 4-D ends  by hand, 4-D ends
    A           1.00      0.26       0.26     0.26                 0.26
    B           1.00      0.72       0.71     0.71                 0.71
    C           1.00      0.70       0.69     0.69                 0.69
    D           1.00      0.53       0.54     0.52                 0.52
    M5          1.00      0.14                0.13
    Silero VAD  1.00      0.98                0.99
    PESTO       1.00      0.85                0.86
"""

from __future__ import annotations

import functools

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from networks import Network, against_original, networks, show


def main() -> None:
    latency: dict[str, dict[str, str]] = {}
    kept: list[object] = []
    for name, forms in networks():
        latency[name] = against_original({form: ready(one, kept) for form, one in forms.items()})
    show("ExecuTorch 1.5.1, XNNPACK, fp32: latency against the original", latency)


def ready(network: Network, kept: list[object]) -> functools.partial[object]:
    program = torch.export.export(network.module, network.inputs)
    written = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    loaded = Runtime.get().load_program(written.buffer)
    method = loaded.load_method("forward")
    kept += [written, loaded, method]  # a method reads both as long as it runs
    return functools.partial(method.execute, list(network.inputs))


if __name__ == "__main__":
    main()
