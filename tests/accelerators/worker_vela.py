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
from safetensors.torch import load_file
from torch import nn

import convsurgeon
from examples.voice_activity import VoiceActivityDetector


def compiled(module: nn.Module, folder: Path, name: str, *inputs: torch.Tensor) -> dict[str, Any]:
    wide, narrow = folder / f"{name}.tflite", folder / f"{name}-int8.tflite"
    with contextlib.redirect_stdout(io.StringIO()):
        litert_torch.convert(module, inputs).export(str(wide))
        made = quantizer.Quantizer(str(wide), recipe.static_wi8_ai8())
        given = {f"args_{at}": one.numpy() for at, one in enumerate(inputs)}
        made.quantize(made.calibrate({"serving_default": [given]})).export_model(str(narrow))
    vela = [sys.executable, "-m", "ethosu.vela", narrow, "--accelerator-config", "ethos-u55-128"]
    done = subprocess.run([*vela, "--output-dir", folder / name], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": done.stderr.splitlines()[-1]}
    (summary,) = (folder / name).glob("*summary*.csv")
    with summary.open() as file:
        (row,) = csv.DictReader(file)
    counts = dict(re.findall(r"(CPU|NPU) operators = (\d+)", done.stdout + done.stderr))
    return {"cycles": float(row["cycles_total"]), "cpu": int(counts["CPU"]), "npu": int(counts["NPU"])}


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


def first_layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """What networks on raw signals begin with, each with an input."""
    sequences: dict[str, tuple[tuple[nn.Module, ...], tuple[int, ...]]] = {
        "wav2vec": ((nn.Conv1d(1, 64, 10, 5), nn.GELU(), nn.Conv1d(64, 64, 8, 4), nn.GELU()), (1, 1, 16000)),
        "wav2vec 2": ((nn.Conv1d(1, 64, 10, 5), nn.GELU(), nn.Conv1d(64, 64, 3, 2), nn.GELU()), (1, 1, 16000)),
        "SampleCNN": ((nn.Conv1d(1, 64, 3, 3), nn.BatchNorm1d(64), nn.ReLU(), nn.MaxPool1d(3)), (1, 1, 6561)),
        "SincNet": ((nn.Conv1d(1, 40, 251), nn.MaxPool1d(3), nn.ReLU(), nn.Conv1d(40, 30, 5)), (1, 1, 3200)),
        "patches": ((nn.Conv1d(1, 64, 16, 16), nn.GELU(), nn.Conv1d(64, 64, 1)), (1, 1, 16000)),
        "stereo": ((nn.Conv1d(2, 32, 80, 4), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)), (1, 2, 16000)),
        "padded strides": ((nn.Conv1d(4, 16, 8, 4, 2), nn.ReLU(), nn.Conv1d(16, 32, 10, 5, 3)), (1, 4, 8000)),
        "averages": ((nn.Conv1d(8, 16, 33, padding=16), nn.ReLU(), nn.AvgPool1d(4)), (1, 8, 1000)),
    }
    return {
        name: (nn.Sequential(*parts, Mean()).eval(), torch.randn(size)) for name, (parts, size) in sequences.items()
    }


def detector(weights: Path) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A trained voice activity detector (Silero), and one chunk of sound with the state before it."""
    model = VoiceActivityDetector()
    model.load_state_dict(load_file(weights), strict=True)
    return model.eval(), (0.1 * torch.randn(1, 576), torch.zeros(1, 128), torch.zeros(1, 128))


def main(folder: Path, weights: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
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
    samples: dict[str, tuple[nn.Module, Any]] = {"M5": (RawAudio().eval(), torch.randn(1, 1, 16000)), **first_layers()}
    samples["detector"] = detector(weights)
    for name, (original, given) in samples.items():
        aimed = convsurgeon.convert(original, given, target="ethos-u55")
        modules = {
            "original": original,
            "converted": convsurgeon.convert(original, given).module,
            "aimed": aimed.module,
        }
        inputs = given if isinstance(given, tuple) else (given,)
        found[name] = {form: compiled(one, folder, f"{name}-{form}", *inputs) for form, one in modules.items()}
        found[name]["exact"] = sorted({one.rewrite for one in aimed.exact.rewritten})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
