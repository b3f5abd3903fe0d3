"""The networks that the scripts beside this file put before compilers, in every form, and the table that they print.

Four small networks, each also written by hand in 4-D with the same weights (tests/models/by_hand.py), one on raw sound,
and two that are trained: what the converted ones are held against is what an engineer would have written.
"""

from __future__ import annotations

import itertools
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import convsurgeon
from convsurgeon.timing import timed_in_turn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]
warnings.simplefilter("ignore")  # exporters and compilers warn of what they do themselves
logging.disable(logging.WARNING)

from models.by_hand import RawAudio, Wrapped, pair  # noqa: E402  (found by the line above)
from voice_activity import CHUNK, CONTEXT, STATE, trained_detector  # noqa: E402

FORMS = ("original", "converted", "by hand", "converted, 4-D ends", "by hand, 4-D ends", "aimed, 4-D ends")


@dataclass(frozen=True)
class Network:
    """A module, and the inputs that it is compiled for."""

    module: nn.Module
    inputs: tuple[torch.Tensor, ...]


Forms = dict[str, Network]


def forms_of(
    original: nn.Module, inputs: tuple[torch.Tensor, ...], hand: nn.Module | None = None, target: str | None = None
) -> Forms:
    """The original, what convsurgeon makes of it, and what was written by hand, with 1-D and with 4-D ends.

    With a target there is also what is made when it is aimed at that: rewritten where that mends what doesn't fit.
    """
    found = {"original": Network(original, inputs)}
    asked = [("1d", "converted", None), ("2d", "converted, 4-D ends", None)]
    for io, name, aim in asked if target is None else [*asked, ("2d", "aimed, 4-D ends", target)]:
        module = convsurgeon.convert(original, inputs, io=io, target=aim).module
        assert isinstance(module, convsurgeon.ConvertedModule)
        found[name] = Network(module, module.inputs_2d(*inputs)[0] if io == "2d" else inputs)
    if hand is not None:
        found["by hand"] = Network(Wrapped(hand), inputs)
        found["by hand, 4-D ends"] = Network(hand, tuple(x.unsqueeze(2) for x in inputs))
    return {name: found[name] for name in FORMS if name in found}


def pitch_estimator() -> tuple[nn.Module, torch.Tensor]:
    """The network of PESTO, trained to tell a pitch from a spectrum, which its package computes before it."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))  # which PESTO reads sound files with
    import pesto

    model = pesto.load_model("mir-1k_g7", step_size=20.0, sampling_rate=16000)
    return model.encoder.eval(), torch.randn(1, 1, 219)


def networks(target: str | None = None) -> Iterator[tuple[str, Forms]]:
    """Every network by its name, in every form."""
    torch.manual_seed(0)
    for at, name in enumerate("ABCD"):
        original, hand = pair(at)
        yield name, forms_of(original, (torch.randn(1, 4, 256),), hand, target)
    torch.manual_seed(0)
    yield "M5", forms_of(RawAudio().eval(), (torch.randn(1, 1, 4000),), None, target)
    chunk, hidden, cell = torch.randn(1, CONTEXT + CHUNK), torch.randn(1, STATE), torch.randn(1, STATE)
    yield "Silero VAD", forms_of(trained_detector(), (chunk, hidden, cell), None, target)
    pitch, spectrum = pitch_estimator()
    yield "PESTO", forms_of(pitch, (spectrum,), None, target)


def to_onnx(network: Network, path: Path, *, opset: int | None = None) -> Path:
    """The network as torch's own exporter writes it."""
    program = torch.onnx.export(
        network.module, network.inputs, dynamo=True, verbose=False, opset_version=opset, external_data=False
    )
    assert program is not None
    program.save(path)
    return path


def against_original(runs: Mapping[str, Callable[[], object]], *, seconds: float = 6) -> dict[str, str]:
    """The time of each as a share of the original's, run in turn for so long: what else the machine does meets all."""
    times = timed_in_turn(runs, itertools.repeat(None), budget_s=seconds)
    return {name: f"{one.median / times['original'].median:.2f}" for name, one in times.items()}


def show(title: str, rows: Mapping[str, Mapping[str, object]]) -> None:
    """Print a row for each network and a column for each form."""
    forms = [form for form in FORMS if any(form in row for row in rows.values())]
    table = Table("", *forms, title=title, title_justify="left")
    for name, row in rows.items():
        table.add_row(name, *(str(row.get(form, "")) for form in forms))
    Console(width=140).print(table)


def tabulate(title: str, measure: Callable[[Network], object], target: str | None = None) -> None:
    """Measure every network in every form, and print the table; what raises is shown by the last line it says."""
    rows: dict[str, dict[str, object]] = {}
    for name, forms in networks(target):
        rows[name] = {}
        for form, network in forms.items():
            try:
                rows[name][form] = measure(network)
            except Exception as error:  # a compiler may raise anything
                rows[name][form] = f"refused: {(str(error).strip().splitlines() or [type(error).__name__])[-1][:120]}"
    show(title, rows)
