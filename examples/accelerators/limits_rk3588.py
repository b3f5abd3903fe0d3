"""Operators on both sides of each limit of the profile rk3588, one at a time through Rockchip's compiler, in int8.

pip install torch==2.13.0 && pip install -e . onnxscript && pip install --no-deps rknn-toolkit2==2.5.0
pip install "protobuf<=4.25.4,>=4.21.6" psutil ruamel.yaml scipy tqdm "opencv-python-headless<4.12" fast-histogram \
    "numpy<=1.26.4" "onnx<=1.18.0,>=1.16.1" "onnxruntime<1.23" "setuptools<80"
python examples/accelerators/limits_rk3588.py

On 2026-11-25, rknn-toolkit2 2.5.0 on a PC made one operator of each that is within, and of those beyond

    rank 3: 2 Reshape on the CPU around each; the build of a linear resize fails
    convolutions of kernel 17: 2 Slice and 2 or 3 that are added; of stride 8: 2 Conv; of dilation 32: Gather, Conv
    transposed convolution of stride 3: exConvTransposePad on the CPU, Conv
    maximum of kernel 8: 2 MaxPool, of a stride over the kernel: MaxPool, Conv
    average of kernel 8: Conv, of stride 8: 2 Conv
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

from accelerators.limit_cases import Case, cases_of  # noqa: E402  (found by the line above)
from rknn.api import RKNN  # noqa: E402

from convsurgeon.targets import load_target  # noqa: E402


@contextlib.contextmanager
def heard(folder: Path) -> Iterator[Path]:
    """Keeps what the process and its libraries print, in a file."""
    log = folder / "log.txt"
    before = os.dup(1), os.dup(2)
    with log.open("w") as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            sys.stdout.flush()
            for at, old in enumerate(before, 1):
                os.dup2(old, at)
                os.close(old)


def compiled(case: Case) -> str:
    """The operators that the compiler makes of it, or that the build fails."""
    module, x = case.built()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "model.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            program = torch.onnx.export(module.eval(), (x,), dynamo=True, opset_version=18, external_data=False)
        program.save(path)
        numpy.save(folder / "x.npy", x.numpy())
        (folder / "data.txt").write_text(f"{folder / 'x.npy'}\n")
        with heard(folder) as log:
            rknn = RKNN(verbose=True)
            rknn.config(target_platform="rk3588")
            try:
                failed = rknn.load_onnx(str(path)) or rknn.build(do_quantization=True, dataset=str(folder / "data.txt"))
            except Exception:  # it raises what it has at hand, with its own traceback for a message
                failed = True
            rknn.release()
        if failed:
            return "the build fails"
        said = log.read_text()
        rows = re.findall(r"^D RKNN: \[[\d:.]+\] \d+ +(\w+) +\w+ +(NPU|CPU) .*? (\S*:\S+) *$", said, flags=re.MULTILINE)
        counted = Counter((kind, where) for kind, where, _ in rows if not kind.endswith("putOperator"))
        return ", ".join(f"{many} {kind} on the {where}" for (kind, where), many in counted.items())


if __name__ == "__main__":
    target = load_target("rk3588")
    for limit in target.limits:
        print(f"{limit.quantity}: {limit.accepted} (else: {limit.effect})")
        for case in cases_of(target, limit):
            print(f"  {case.side:<7} {case}: {compiled(case)}", flush=True)
