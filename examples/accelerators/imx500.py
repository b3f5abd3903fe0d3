"""The networks for Sony's IMX500: quantised by its toolkit, then compiled by its converter, which needs Java 17.

pip install torch==2.13.0 && pip install -e . && pip install "imx500-converter[pt]==3.19.2" \
    model-compression-toolkit edge-mdt-tpc onnx onnxruntime onnxruntime-extensions onnxscript
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/imx500.py

The toolkit imports torchvision for generating images, which isn't done here, and its wheel on the package index doesn't
load beside a torch for the CPU: something that has its names stands in its place.

On 2026-11-25 imx500-converter 3.19.2, after model-compression-toolkit 2.5.1, printed

                original     converted    by hand      4-D ends, both  aimed, 4-D ends
    A           refused      ok           ok           ok              ok
    B           refused      ok           ok           ok              ok
    C           refused      refused (1)  refused (1)  ok              ok
    D           refused      refused (2)  refused (2)  refused (2)     ok
    M5          refused      refused (3)               refused (3)     refused (4)
    Silero VAD  refused (5)  refused (5)               refused (5)     refused (5)
    PESTO       refused      refused (6)               refused (6)     refused (6)

Every original but the detector: "Only 2d Op is supported. Expected 4d input NxCxHxW, actual 3d". (1) the older exporter
makes an If of a squeeze at the end. (2) transposed convolution: "Input padding is not supported"; aimed, the padding is
cropped behind it. (3) "Kernel size > 12 is not supported for depthwise conv", which one of one channel is. (4) the
toolkit takes no sizes that are computed in the graph, as those of a split kernel are. (5) the toolkit doesn't take an
LSTMCell. (6) it loses the padding of a functional convolution that is given by place.
"""

from __future__ import annotations

import functools
import importlib.machinery
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.transforms"):
    stub = sys.modules[name] = mock.MagicMock()
    stub.__spec__, stub.__path__ = importlib.machinery.ModuleSpec(name, None), []

import edgemdt_tpc  # noqa: E402
import model_compression_toolkit as mct  # noqa: E402
from networks import Network, tabulate  # noqa: E402

# the toolkit was written for the older exporter, which was the default
torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
CONVERTER = Path(sys.executable).with_name("imxconv-pt")


def compiled(network: Network) -> str:
    """Whether the compiler takes the quantised network.

    Raises:
        RuntimeError: it refuses it.
    """

    def calibration() -> Iterator[list[torch.Tensor]]:
        yield list(network.inputs)

    with tempfile.TemporaryDirectory() as folder:
        capabilities = edgemdt_tpc.get_target_platform_capabilities(tpc_version="1.0", device_type="imx500")
        # collapsing two linear convolutions into one fails on kernels that aren't square
        options = mct.core.CoreConfig(mct.core.QuantizationConfig(linear_collapsing=False))
        quantised, _ = mct.ptq.pytorch_post_training_quantization(
            network.module, calibration, core_config=options, target_platform_capabilities=capabilities
        )
        path = f"{folder}/model.onnx"
        mct.exporter.pytorch_export_model(quantised, save_model_path=path, repr_dataset=calibration)
        command = [str(CONVERTER), "-i", path, "-o", f"{folder}/out", "--overwrite-output"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stdout + done.stderr
            reasons = re.findall(r"reason: (.*?)(?: \[/|$)|(Failed to parse node \S+ of type \w+)", said, re.MULTILINE)
            raise RuntimeError("".join(reasons[0]) if reasons else said)
        assert list(Path(folder).glob("out/*.zip")), "nothing was written"
        return "ok"


if __name__ == "__main__":
    tabulate("imx500-converter 3.19.2, int8", compiled, target="imx500")
