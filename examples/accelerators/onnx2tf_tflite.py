"""The networks turned into TFLite by onnx2tf: whether it takes them, computes the same, and how often it transposes.

Version 2 (its metadata ask for Python 3.12; it runs on 3.11, if pip is told to):
pip install torch==2.13.0 && pip install -e . && pip install --ignore-requires-python onnx2tf==2.6.9
Version 1, which quantises to int8 here:
pip install torch==2.13.0 && pip install -e . onnx2tf==1.29.24
Both:
pip install onnxscript omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/onnx2tf_tflite.py

On 2026-11-25 onnx2tf 2.6.9 printed: operators that transpose, of how many

                original     converted    by hand  converted, 4-D ends  by hand, 4-D ends
    A           5 of 30      2 of 16      2 of 16  0 of 13              0 of 13
    B           15 of 44     7 of 23      7 of 23  5 of 20              5 of 20
    C           9 of 39      4 of 23      4 of 23  2 of 19              2 of 19
    D           11 of 37     3 of 20      3 of 20  0 of 15              0 of 15
    M5          8 of 30      2 of 13               1 of 11
    Silero VAD  3 of 52 (1)  1 of 44 (1)           1 of 44 (1)
    PESTO       7 of 47      2 of 37 (1)           1 of 35 (1)

and onnx2tf 1.29.24, in int8

                original     converted    by hand           converted, 4-D ends  by hand, 4-D ends
    A           0 of 17      0 of 13      wrong result (2)  0 of 12              0 of 12
    B           0 of 11      0 of 10      wrong result (2)  0 of 9               0 of 9
    C           1 of 30      1 of 19      refused (2)       1 of 17              1 of 17
    D           0 of 27      0 of 14      refused (2)       0 of 12              0 of 12
    M5          0 of 12      0 of 11                        0 of 10
    Silero VAD  0 of 39      0 of 33                        0 of 33
    PESTO       refused (3)  refused (3)                    refused (3)

(1) LiteRT's runtime doesn't run the file. (2) it misreads unsqueeze(2), but not unsqueeze(-2), which convsurgeon
writes. (3) "Eager execution of tf.constant with unsupported shape".
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

WRONG = 3
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
        wrong = compared(found, network, folder)
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


def compared(model: Path, network: Network, folder: Path) -> str:
    """What is wrong with what the file computes, if anything; run apart, since the runtime may end its process."""
    with torch.no_grad():
        returned = network.module(*network.inputs)
    expected = returned[0] if isinstance(returned, tuple) else returned
    numpy.savez(folder / "known.npz", expected, *network.inputs)
    done = subprocess.run([sys.executable, __file__, model, folder / "known.npz"], capture_output=True, check=False)
    return {0: "", WRONG: ", WRONG RESULT"}.get(done.returncode, ", DOESN'T RUN")


def run(model: str, known: str) -> bool:
    """Whether a result is the first of the network's, in its layout or with the channels last."""
    expected, *given = numpy.load(known).values()
    interpreter = Interpreter(model)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():  # in an order of their own, and the shapes tell them apart
        shape = tuple(detail["shape"])
        at = next(i for i, x in enumerate(given) if shape in (x.shape, channels_last(x).shape))
        taken = given.pop(at)
        interpreter.set_tensor(detail["index"], taken if taken.shape == shape else channels_last(taken))
    interpreter.invoke()
    found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    likes = [expected, channels_last(expected)]
    return any(
        one.shape == like.shape and numpy.allclose(one, like, rtol=1e-3, atol=1e-4) for one in found for like in likes
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(0 if run(*sys.argv[1:]) else WRONG)
    kind = "float" if VERSION.startswith("2") else "int8"
    tabulate(f"onnx2tf {VERSION}, {kind}: TRANSPOSE operators", transposes)
