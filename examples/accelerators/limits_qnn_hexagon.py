"""Operators on both sides of each limit of the profile qnn-htp, one at a time through QNN's compiler, on a PC.

pip install torch==2.13.0 && pip install -e . onnxruntime-qnn==2.7.0 onnxruntime onnx onnxscript
python examples/accelerators/limits_qnn_hexagon.py

On 2026-11-25, QNN of onnxruntime-qnn 2.7.0 on a PC made of those within and of those beyond

    convolutions of rank 4: 2 Transpose and Conv2d, DepthWiseConv2d or TransposeConv2d; of rank 3: 2 Reshape more
    transposed convolution of dilation 1: 2 Transpose and TransposeConv2d; of dilation 2: left to the CPU
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import onnxruntime
import onnxruntime_qnn
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

from accelerators.limit_cases import Case, cases_of  # noqa: E402  (found by the lines above)

from convsurgeon.targets import load_target  # noqa: E402

PROVIDER = "QNNExecutionProvider"


def compiled(case: Case) -> str:
    """The operators of QNN's graph, or what is said where it can't be all QNN's."""
    module, x = case.built()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("ep.context_enable", "1")
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(module.eval(), (x,), dynamo=True, external_data=False)
        program.save(f"{folder}/model.onnx")
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
        try:
            onnxruntime.InferenceSession(f"{folder}/model.onnx", options)
        except Exception as error:  # onnxruntime has many classes of its own
            return f"refused: {' '.join(str(error).split())[:200]}"
        graphs = [path for path in Path(folder).glob("*.json") if "tensor_log" not in path.name]
        nodes = [node for path in graphs for node in json.loads(path.read_text())["graph"]["nodes"].values()]
    return ", ".join(f"{many} {kind}" for kind, many in Counter(node["type"] for node in nodes).items())


if __name__ == "__main__":
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    target = load_target("qnn-htp")
    for limit in target.limits:
        print(f"{limit.quantity}: {limit.accepted} (else: {limit.effect})")
        for case in cases_of(target, limit):
            print(f"  {case.side:<7} {case}: {compiled(case)}", flush=True)
