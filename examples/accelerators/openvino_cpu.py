"""The networks in OpenVINO: how long they take on a CPU.

pip install torch==2.13.0 && pip install -e . openvino onnx onnxscript
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/openvino_cpu.py

On 2026-11-25 OpenVINO 2026.4.1, on two shared cores, printed

                original  converted  by hand  converted, 4-D ends  by hand, 4-D ends
    A           1.00      0.99       0.99     0.98                 0.98
    B           1.00      0.95       0.95     0.94                 0.95
    C           1.00      0.99       0.99     0.99                 1.00
    D           1.00      0.61       0.61     0.61                 0.61
    M5          1.00      0.97                0.99
    Silero VAD  1.00      1.02                1.02
    PESTO       1.00      0.99                1.03

(an hour before, when less else ran, 0.90, 0.90, 0.96 and 0.60 for A to D converted, and as much by hand within 0.02).
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import openvino
from networks import Network, against_original, networks, show, to_onnx


def main() -> None:
    latency: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, forms in networks():
            runs = {form: ready(one, Path(folder) / f"{name}-{form}.onnx") for form, one in forms.items()}
            latency[name] = against_original(runs)
    version = openvino.__version__.partition("-")[0]
    show(f"OpenVINO {version}, fp32, one thread: latency against the original", latency)


def ready(network: Network, path: Path) -> functools.partial[object]:
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(to_onnx(network, path), "CPU", options)
    return functools.partial(compiled.create_infer_request().infer, [x.numpy() for x in network.inputs])


if __name__ == "__main__":
    main()
