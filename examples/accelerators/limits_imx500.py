"""Operators on both sides of each limit of the profile imx500, one at a time through Sony's toolkit and converter.

pip install torch==2.13.0 && pip install -e . && pip install "imx500-converter[pt]==3.19.2" \
    model-compression-toolkit edge-mdt-tpc onnx onnxruntime onnxruntime-extensions onnxscript
python examples/accelerators/limits_imx500.py

On 2026-11-25, imx500-converter 3.19.2 took every operator that is within, and refused those beyond

    rank 3: Only 2d Op is supported. Expected 4d input NxCxHxW, actual 3d
    depthwise convolution, or one of one channel, of kernel 13: Kernel size > 12 is not supported for depthwise conv
    transposed convolution of padding 1: Input padding is not supported
    aligned corners: coordinate_transformation_mode, supported values: half_pixel, pytorch_half_pixel
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import nn

for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.transforms"):  # its wheel wants CUDA
    stub = sys.modules[name] = mock.MagicMock()
    stub.__spec__, stub.__path__ = importlib.machinery.ModuleSpec(name, None), []
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import edgemdt_tpc  # noqa: E402
import model_compression_toolkit as mct  # noqa: E402
from accelerators.limit_cases import Case, cases_of  # noqa: E402  (found by the lines above)

from convsurgeon.targets import load_target  # noqa: E402

torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)  # the toolkit was written for it
CONVERTER = Path(sys.executable).with_name("imxconv-pt")


def compiled(case: Case) -> str:
    """What the converter says of the operator: ok, or why not."""
    module, x = case.built()

    def calibration() -> Iterator[list[torch.Tensor]]:
        yield [x]

    with tempfile.TemporaryDirectory() as folder:
        capabilities = edgemdt_tpc.get_target_platform_capabilities(tpc_version="1.0", device_type="imx500")
        try:
            quantised, _ = mct.ptq.pytorch_post_training_quantization(
                nn.Sequential(module).eval(), calibration, target_platform_capabilities=capabilities
            )
            path = f"{folder}/model.onnx"
            mct.exporter.pytorch_export_model(quantised, save_model_path=path, repr_dataset=calibration)
        except Exception as error:  # the toolkit may raise anything
            return f"the toolkit: {' '.join(str(error).split())[:150]}"
        command = [str(CONVERTER), "-i", path, "-o", f"{folder}/out", "--overwrite-output"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode and list(Path(folder).glob("out/*.zip")):
            return "ok"
        said = (done.stdout + done.stderr).splitlines()
        reasons = [line.partition("reason: ")[2] for line in said if "reason: " in line]
        return f"refused: {' '.join((reasons or said[-2:])[0].split())[:200]}"


if __name__ == "__main__":
    target = load_target("imx500")
    for limit in target.limits:
        print(f"{limit.quantity}: {limit.accepted} (else: {limit.effect})")
        for case in cases_of(target, limit):
            print(f"  {case.side:<7} {case}: {compiled(case)}", flush=True)
