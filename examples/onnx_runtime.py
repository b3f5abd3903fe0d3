"""A trained voice activity detector, converted to 2-D, exported to ONNX, and run in onnxruntime over a recording.

python examples/onnx_runtime.py [OUT.onnx]      (pip install 'convsurgeon[examples]')
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import torch
from voice_activity import CHUNK, CONTEXT, STATE, speech_curve, synthetic_voice, trained_detector

import convsurgeon


class Session(torch.nn.Module):
    """The exported model, called as the original is."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {name: tensor.numpy() for name, tensor in zip(self.names, tensors, strict=True)}
        return tuple(torch.from_numpy(one) for one in self.session.run(None, given))


def export(model: torch.nn.Module, sample: tuple[torch.Tensor, ...], path: Path) -> Counter[str]:
    """Write the model, and count its operators."""
    program = torch.onnx.export(model, sample, dynamo=True, verbose=False)
    assert program is not None
    program.save(path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a converted voice activity detector, and run it.")
    parser.add_argument("out", nargs="?", type=Path, help="the ONNX file to write (default: a temporary one)")
    out = parser.parse_args().out
    if out is not None:
        export_and_run(out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            export_and_run(Path(folder) / "detector.onnx")


def export_and_run(out: Path) -> None:
    torch.set_num_threads(1)
    model = trained_detector()
    sample = (torch.randn(1, CONTEXT + CHUNK), torch.randn(1, STATE), torch.randn(1, STATE))
    conversion = convsurgeon.convert(model, sample)
    counts = export(conversion.module, sample, out)
    print(f"{out.name}: {sum(counts.values())} operators, {counts['Conv']} of them convolutions")
    ranks = {len(one.dims) for one in onnx.load(out).graph.initializer if one.name.endswith(".weight")}
    print(f"ranks of the weights: {sorted(ranks)}")

    signal, _ = synthetic_voice(4)
    original, exported = speech_curve(model, signal), speech_curve(Session(out), signal)
    difference = float((original - exported).abs().max())
    print(f"largest difference over {len(original)} chunks in onnxruntime: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the two curves differ by more than 1e-4")


if __name__ == "__main__":
    main()
