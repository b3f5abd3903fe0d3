"""The networks turned into TFLite by onnx2tf: whether it takes them, computes the same, and how often it transposes.

Version 2 (its metadata ask for Python 3.12; it runs on 3.11, if pip is told to):
pip install torch==2.13.0 && pip install -e . && pip install --ignore-requires-python onnx2tf==2.6.9
Version 1, which quantises to int8 here:
pip install torch==2.13.0 && pip install -e . onnx2tf==1.29.24
Both:
pip install onnxscript omegaconf && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/onnx2tf_tflite.py
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import onnx
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from networks import Network, tabulate, to_onnx

VERSION = importlib.metadata.version("onnx2tf")


def transposes(network: Network) -> str:
    """How many operators of the float file transpose, of how many, and whether it computes the same.

    Raises:
        RuntimeError: onnx2tf refuses the network.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        path = to_onnx(network, folder / "model.onnx", opset=18)
        more = [] if VERSION.startswith("2") else ["-oiqt", *calibration(path, network, folder)]
        command = [sys.executable, "-m", "onnx2tf", "-i", path, "-o", folder / "out", "-n", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wanted = "*float32.tflite" if VERSION.startswith("2") else "*full_integer_quant.tflite"
        if done.returncode or not list(folder.glob(f"out/{wanted}")):
            said = (done.stdout + done.stderr).splitlines()
            raise RuntimeError(next((line for line in reversed(said) if "rror" in line), "it writes nothing"))
        (found,) = folder.glob("out/*float32.tflite")
        alone = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # which would hide operators
        interpreter = Interpreter(str(found), experimental_op_resolver_type=alone)
        operators = Counter(one["op_name"] for one in interpreter._get_ops_details())
        wrong = "" if computes_the_same(interpreter, network, path) else ", WRONG RESULT"
    return f"{operators['TRANSPOSE']} of {operators.total()}{wrong}"


def calibration(path: Path, network: Network, folder: Path) -> list[Any]:
    """What onnx2tf 1 quantises by: the inputs, channels last, and a mean and deviation that leave them."""
    said: list[Any] = []
    for name, tensor in zip(names_of(path), network.inputs, strict=True):
        file = folder / f"{name}.npy"
        numpy.save(file, channels_last(tensor.numpy()))
        ones = str([[[0.0] * 1]]), str([[[1.0] * 1]])
        said += ["-cind", name, file, *ones]
    return said


def names_of(path: Path) -> list[str]:
    return [one.name for one in onnx.load(path).graph.input]


def channels_last(array: numpy.ndarray) -> numpy.ndarray:
    return array if array.ndim < 3 else numpy.moveaxis(array, 1, -1)


def computes_the_same(interpreter: Interpreter, network: Network, path: Path) -> bool:
    """Whether the first result is the network's, in its layout or with the channels last."""
    interpreter.allocate_tensors()
    given = dict(zip(names_of(path), network.inputs, strict=True))
    for detail in interpreter.get_input_details():
        tensor = next(x for name, x in given.items() if name in detail["name"]).numpy()
        fits = tensor if tuple(detail["shape"]) == tensor.shape else channels_last(tensor)
        interpreter.set_tensor(detail["index"], fits)
    interpreter.invoke()
    found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    with torch.no_grad():
        returned = network.module(*network.inputs)
    expected = (returned[0] if isinstance(returned, tuple) else returned).numpy()
    likes = [expected, channels_last(expected)]
    return any(
        one.shape == like.shape and numpy.allclose(one, like, rtol=1e-3, atol=1e-4) for one in found for like in likes
    )


if __name__ == "__main__":
    kind = "float" if VERSION.startswith("2") else "int8"
    tabulate(f"onnx2tf {VERSION}, {kind}: TRANSPOSE operators", transposes)
