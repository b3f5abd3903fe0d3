"""The networks compiled for Qualcomm's Hexagon v73 in fp16, on a PC: how many operators QNN is given.

pip install torch==2.13.0 && pip install -e . onnxruntime-qnn==2.7.0 onnxruntime onnx onnxscript
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/qnn_hexagon.py

On 2026-11-25 onnxruntime-qnn 2.7.0 printed: operators (of them Transpose)

                original  converted  by hand  4-D ends, both
    A           34 (2)    19 (2)     19 (2)   18 (2)
    B           27 (1)    14 (1)     14 (1)   13 (1)
    C           35 (2)    23 (2)     23 (2)   21 (2)
    D           31 (4)    15 (2)     15 (2)   13 (2)
    M5          31 (1)    16 (1)              15 (1)
    Silero VAD  50 (3)    39 (3)              39 (3)
    PESTO       refused   refused             refused

PESTO leaves an operator to the CPU in every form, which is asked to be an error.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import onnxruntime
import onnxruntime_qnn
from networks import Network, tabulate, to_onnx

PROVIDER = "QNNExecutionProvider"


def operators(network: Network) -> str:
    """How many operators the compiled graph has, and how many of them transpose; nothing is left to the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("ep.context_enable", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.add_session_config_entry("ep.context_file_path", f"{folder}/context.onnx")
        asked = {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            "htp_arch": "73",
            "soc_model": "43",
            "enable_htp_fp16_precision": "1",
            "dump_json_qnn_graph": "1",
            "json_qnn_graph_dir": folder,
        }
        device = next(one for one in onnxruntime.get_ep_devices() if one.ep_name == PROVIDER)
        options.add_provider_for_devices([device], asked)
        onnxruntime.InferenceSession(to_onnx(network, Path(folder) / "model.onnx"), options)
        graphs = [path for path in Path(folder).glob("*.json") if "tensor_log" not in path.name]
        nodes = [node for path in graphs for node in json.loads(path.read_text())["graph"]["nodes"].values()]
    kinds = Counter(node["type"] for node in nodes)
    return f"{kinds.total()}, {kinds['Transpose']} Transpose" + (f", {len(graphs)} graphs" if len(graphs) > 1 else "")


if __name__ == "__main__":
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    tabulate(f"onnxruntime-qnn {onnxruntime_qnn.__version__}, Hexagon v73, fp16: operators", operators)
