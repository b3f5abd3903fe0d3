"""Prints what vela makes of operators on each side of the limits of the Ethos-U, each alone in int8."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litert_torch
import torch
from accelerators.limit_cases import Case, cases_of
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from torch import nn

from convsurgeon.targets import load_target

ACCELERATORS = {"ethos-u55": "ethos-u55-128", "ethos-u65": "ethos-u65-256", "ethos-u85": "ethos-u85-256"}


class Models:
    """Operators in files, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path | None] = {}

    def narrow(self, case: Case) -> Path | None:
        """The operator in int8; None where litert-torch or its quantiser refuses it."""
        module, x = case.built()
        key = f"{module} {getattr(module, 'align_corners', None)} {x.shape}"
        if key not in self._made:
            self._made[key] = _quantized(module, x, self._folder / f"{len(self._made)}.tflite")
        return self._made[key]


def _quantized(module: nn.Module, x: torch.Tensor, path: Path) -> Path | None:
    narrow = path.with_suffix(".int8.tflite")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            litert_torch.convert(module, (x,)).export(str(path))
            made = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
            calibrated = made.calibrate({"serving_default": [{"args_0": x.numpy()}]})
            made.quantize(calibrated).export_model(str(narrow))
    except (RuntimeError, ValueError):
        return None
    return narrow


def row(model: Path | None, accelerator: str) -> dict[str, Any]:
    """The operators of a TFLite file, and those that vela leaves to the CPU."""
    if model is None:
        return {"refused": True, "operators": [], "cpu": []}
    vela = [sys.executable, "-m", "ethosu.vela", model, "--accelerator-config", accelerator]
    out = model.parent / accelerator
    done = subprocess.run([*vela, "--output-dir", out], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    left = re.findall(r"Warning \(supported operators\) operator: (\w+)", said)
    (counted,) = re.findall(r"CPU operators = (\d+)", said)
    assert len(left) == int(counted), said
    operators = [one["op_name"] for one in Interpreter(str(model))._get_ops_details()]
    return {"refused": False, "operators": operators, "cpu": left}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    models = Models(folder)
    with ThreadPoolExecutor(2) as pool:  # vela compiles one while litert-torch converts the next
        running: dict[str, dict[str, Future[dict[str, Any]]]] = {}
        for name, accelerator in ACCELERATORS.items():
            target = load_target(name)
            every = {str(case): case for limit in target.limits for case in cases_of(target, limit)}
            running[name] = {key: pool.submit(row, models.narrow(case), accelerator) for key, case in every.items()}
        found = {name: {key: one.result() for key, one in rows.items()} for name, rows in running.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
