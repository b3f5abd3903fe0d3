"""The networks in onnxruntime: how many operators their ONNX graphs have, and how long they take on a CPU.

pip install torch==2.13.0 && pip install -e . onnx onnxscript onnxruntime
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/onnxruntime_cpu.py

On 2026-11-25, with onnxruntime 1.32.0 on two shared cores, it printed: operators (those that move or shape data), and
latency against the original

                original  converted  by hand  4-D ends, both  latency: converted, by hand, 4-D ends
    A           18 (3)    17 (2)     17 (2)   16 (1)          0.58 0.57 0.57
    B           12        13 (1)     13 (1)   12              0.85 0.85 0.84
    C           19        21 (2)     21 (2)   19              1.03 1.03 1.01
    D           18 (5)    13 (2)     13 (2)   11              0.84 0.84 0.82
    M5          14        15 (1)              14              0.39      0.39
    Silero VAD  35 (4)    36 (5)              36 (5)          0.90      0.88
    PESTO       22 (3)    23 (4)              21 (2)          1.37      1.36
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
from networks import Network, against_original, networks, show, to_onnx


def main() -> None:
    nodes: dict[str, dict[str, object]] = {}
    latency: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, forms in networks():
            paths = {form: to_onnx(one, Path(folder) / f"{name}-{form}.onnx") for form, one in forms.items()}
            nodes[name] = {form: counted(path) for form, path in paths.items()}
            latency[name] = against_original({form: ready(paths[form], forms[form]) for form in forms})
    show("operators in the ONNX graph, and among them those that move or shape data", nodes)
    show(f"onnxruntime {onnxruntime.__version__}, fp32, one thread: latency against the original", latency)


def counted(path: Path) -> str:
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    moving = ("Transpose", "GatherND", "Reshape", "Unsqueeze", "Squeeze")
    return " ".join([str(counts.total()), *(f"{counts[one]} {one}" for one in moving if counts[one])])


def ready(path: Path, network: Network) -> functools.partial[object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = {name: tensor.numpy() for name, tensor in zip(names, network.inputs, strict=True)}
    return functools.partial(session.run, None, given)


if __name__ == "__main__":
    main()
