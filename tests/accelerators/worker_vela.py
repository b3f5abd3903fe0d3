"""Prints, for each network and form, what vela makes of it for an Ethos-U55, in int8."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import litert_torch
import torch
from ai_edge_quantizer import quantizer, recipe
from models.by_hand import RawAudio, Wrapped, pair
from torch import nn

import convsurgeon


def compiled(module: nn.Module, folder: Path, name: str, x: torch.Tensor) -> dict[str, Any]:
    wide, narrow = folder / f"{name}.tflite", folder / f"{name}-int8.tflite"
    with contextlib.redirect_stdout(io.StringIO()):
        litert_torch.convert(module, (x,)).export(str(wide))
        made = quantizer.Quantizer(str(wide), recipe.static_wi8_ai8())
        calibrated = made.calibrate({"serving_default": [{"args_0": x.numpy()}]})
        made.quantize(calibrated).export_model(str(narrow))
    vela = [sys.executable, "-m", "ethosu.vela", narrow, "--accelerator-config", "ethos-u55-128"]
    done = subprocess.run([*vela, "--output-dir", folder / name], capture_output=True, text=True, check=True)
    (summary,) = (folder / name).glob("*summary*.csv")
    with summary.open() as file:
        (row,) = csv.DictReader(file)
    counts = dict(re.findall(r"(CPU|NPU) operators = (\d+)", done.stdout + done.stderr))
    return {"cycles": float(row["cycles_total"]), "cpu": int(counts["CPU"]), "npu": int(counts["NPU"])}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found: dict[str, Any] = {}
    x = torch.randn(1, 4, 256)
    for at, name in enumerate("ABCD"):
        original, hand = pair(at)
        with contextlib.redirect_stdout(io.StringIO()):
            conversion = convsurgeon.convert(original, x)
            checked = conversion.export(folder / f"{name}.tflite")
        found[name] = {
            "original": compiled(original, folder, f"{name}-original", x),
            "by hand": compiled(Wrapped(hand), folder, f"{name}-by-hand", x),
            "converted": compiled(conversion.module, folder, f"{name}-converted", x),
            "checked": checked,
        }
    sound, raw = torch.randn(1, 1, 16000), RawAudio().eval()
    found["M5"] = {
        "original": compiled(raw, folder, "M5-original", sound),
        "converted": compiled(convsurgeon.convert(raw, sound).module, folder, "M5-converted", sound),
        "aimed": compiled(convsurgeon.convert(raw, sound, target="ethos-u55").module, folder, "M5-aimed", sound),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
