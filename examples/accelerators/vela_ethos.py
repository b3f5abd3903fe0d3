"""The networks in int8 for Arm's Ethos-U55 and U85, by litert-torch and vela: cycles, and operators left to the CPU.

pip install torch==2.13.0 && pip install -e . litert-torch==0.10.0 ethos-u-vela==5.2.0
pip install omegaconf scipy tqdm && pip install --no-deps silero-vad==6.2.3 pesto-pitch==2.0.1
python examples/accelerators/vela_ethos.py

On 2026-11-25 vela 5.2.0 printed: thousand cycles on U55-128 / U85-256 (+ operators left to the CPU)

                original            converted          by hand        4-D ends, both     aimed at U55, 4-D ends
    A           17 / 23             16 / 15            16 / 15        16 / 50            16 / 50
    B           18 / 32             18 / 32            18 / 32        19 / 67            19 / 67
    C           63 / 140            33 / 64            33 / 64        33 / 64            33 / 64
    D           46 +11 / 235 +11    12 +8 / 25 +7      12 +8 / 25 +7  12 +8 / 60 +7      12 +8 / 60 +7
    M5          96 +1 / 2278        96 +1 / 2278                      96 +1 / 2278       95 / 122
    Silero VAD  254 +7 / 282 +2     247 +2 / 267 +1                   247 +2 / 267 +1    315 +1 / 110 +1
    PESTO       720 +21 / 5672 +21  609 +21 / 851 +21                 609 +21 / 851 +21  403 +21 / 640 +21

An input in 4-D costs a U85 more than one in 1-D, hand-written too.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import litert_torch
from ai_edge_quantizer import quantizer, recipe
from networks import Network, tabulate


def cycles(network: Network) -> str:
    """Thousands of cycles on either, with how many operators are left to the CPU, if any are."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        wide, narrow = folder / "wide.tflite", folder / "narrow.tflite"
        with contextlib.redirect_stdout(io.StringIO()):
            litert_torch.convert(network.module, network.inputs).export(str(wide))
            made = quantizer.Quantizer(str(wide), recipe.static_wi8_ai8())
            given = {f"args_{at}": tensor.numpy() for at, tensor in enumerate(network.inputs)}
            made.quantize(made.calibrate({"serving_default": [given]})).export_model(str(narrow))
        return " / ".join(on(accelerator, narrow) for accelerator in ("ethos-u55-128", "ethos-u85-256"))


def on(accelerator: str, model: Path) -> str:
    out = model.with_name(accelerator)
    vela = [sys.executable, "-m", "ethosu.vela", model, "--accelerator-config", accelerator, "--output-dir", out]
    done = subprocess.run(vela, capture_output=True, text=True, check=True)
    (summary,) = out.glob("*summary*.csv")
    with summary.open() as file:
        (row,) = csv.DictReader(file)
    (left,) = re.findall(r"CPU operators = (\d+)", done.stdout + done.stderr)
    return f"{float(row['cycles_total']) / 1000:.0f}" + (f" +{left}" if left != "0" else "")


if __name__ == "__main__":
    tabulate(
        "vela 5.2.0, int8, Ethos-U55-128 / U85-256: thousand cycles (+ operators left to the CPU)",
        cycles,
        target="ethos-u55",
    )
