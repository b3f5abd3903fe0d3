"""The networks compiled for Rockchip's RK3588 in int8, on a PC: whether rknn-toolkit2 builds them.

pip install torch==2.13.0 && pip install -e . && pip install --no-deps rknn-toolkit2==2.5.0
pip install onnxscript "protobuf<=4.25.4,>=4.21.6" psutil ruamel.yaml scipy tqdm "opencv-python-headless<4.12" \
    fast-histogram "numpy<=1.26.4" "onnx<=1.18.0,>=1.16.1" "onnxruntime<1.23" "setuptools<80"
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/rknn_rk3588.py

On 2026-11-25 rknn-toolkit2 2.5.0 printed: the size of what was built, in KiB

                original  converted  by hand  converted, 4-D ends  by hand, 4-D ends
    A           46        46         46       43                   43
    B           44        44         46       42                   44
    C           53        53         53       48                   48
    D           refused   61         62       56                   56
    M5          138       139                 141
    Silero VAD  2088      2519                2519
    PESTO       714       709                 715

It refuses the original of D, whose interpolation is GatherND there: "ValueError: inputs or 'outputs' must be set!".
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy
from networks import Network, tabulate, to_onnx
from rknn.api import RKNN


def built(network: Network) -> str:
    """Whether it builds.

    Raises:
        RuntimeError: it doesn't; says in which step.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        path = to_onnx(network, folder / "model.onnx", opset=18)
        files = [folder / f"{at}.npy" for at in range(len(network.inputs))]
        for file, tensor in zip(files, network.inputs, strict=True):
            numpy.save(file, tensor.numpy())
        (folder / "calibration.txt").write_text(" ".join(map(str, files)) + "\n")
        rknn = RKNN(verbose=False)
        try:
            rknn.config(target_platform="rk3588")
            if rknn.load_onnx(str(path)) != 0:
                raise RuntimeError("load_onnx fails")
            if rknn.build(do_quantization=True, dataset=str(folder / "calibration.txt")) != 0:
                raise RuntimeError("build fails")
            if rknn.export_rknn(str(folder / "model.rknn")) != 0:
                raise RuntimeError("export fails")
        finally:
            rknn.release()
        return f"ok, {(folder / 'model.rknn').stat().st_size // 1024} KiB"


if __name__ == "__main__":
    tabulate("rknn-toolkit2 2.5.0, RK3588, int8", built)
