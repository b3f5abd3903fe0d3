"""A choice of layouts and rewrites as a file: made on one machine, and carried out there again without measuring."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.converted.module import ConvertedModule
from convsurgeon.exact.shapes import name_in
from convsurgeon.files import write_text
from convsurgeon.samples import Sample
from convsurgeon.tuning.layouts import LAYOUTS
from convsurgeon.tuning.parts import Decision
from convsurgeon.tuning.realising import REALISATIONS
from convsurgeon.tuning.writing import Layouts

_FORMAT = "convsurgeon-tuning-1"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where something was measured, and how: a choice holds for one of these."""

    device: str
    dtype: str
    threads: int
    torch: str

    @classmethod
    def here(cls, module: nn.Module, sample: Sample) -> Machine:
        """The machine at hand, for what computes on a module's device, in its dtype."""
        tensors = [*module.parameters(), *(one for one in sample.tensors() if one.is_floating_point())]
        device = tensors[0].device if tensors else torch.device("cpu")
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
        dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else "none"
        return cls(name, dtype, torch.get_num_threads(), torch.__version__)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.device}, {self.dtype}, {threads}, torch {self.torch}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each graph of a converted model, by its path, and the machine that it was chosen on.

    `model`: a fingerprint of the graphs that it fits. `decided` is False where nothing could be.
    """

    machine: Machine
    model: str
    decisions: Mapping[str, Decision]
    decided: bool = True

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file of choices; those that are there for other machines, or models, stay.

        Raises:
            OSError: the file can't be written.
            ValueError: what is there isn't a file of choices, or nothing was decided.
        """
        if not self.decided:
            raise ValueError("nothing was decided, so that there is no choice to save; tuning.reason says why")
        others = _entries(Path(path)) if Path(path).exists() else []
        mine = {"machine": asdict(self.machine), "model": self.model}
        kept = [one for one in others if {key: one.get(key) for key in mine} != mine]
        parts = {name: _decision_to_json(one) for name, one in self.decisions.items()}
        write_text(path, json.dumps({"format": _FORMAT, "choices": [*kept, {**mine, "parts": parts}]}, indent=1))

    def require_fits(self, parts: Mapping[str, ConvertedModule], file: str | os.PathLike[str]) -> None:
        """Raise if what was read from a file names what these graphs haven't.

        Raises:
            ValueError: it does, though the fingerprint is theirs.
        """
        for path, decision in self.decisions.items():
            part = parts.get(path, nn.Module())
            layouts = decision.layouts
            nodes = {*layouts.takes, *layouts.makes, *chain.from_iterable(layouts.strict)}
            strange = nodes - {node.name for node in getattr(part, "graph", fx.Graph()).nodes}
            strange |= {*chain.from_iterable(decision.rewrites.values())} - {name for name, _ in part.named_modules()}
            if strange or path not in parts:
                names = sorted(map(str, strange))
                raise ValueError(f"{file}: a choice is damaged (the graph {path!r} has no {names}); tune again")


def load_choice(path: str | os.PathLike[str], machine: Machine, model: str) -> tuple[Choice | None, list[Machine]]:
    """The choice for a machine and a model, if the file has one; and the machines of its others for that model.

    Raises:
        OSError: the file can't be read.
        ValueError: it isn't a file of choices.
    """
    others = []
    for entry in _entries(Path(path)):
        try:
            if entry["model"] != model:
                continue
            made = Machine(**entry["machine"])
            if made == machine:
                parts = {name: _decision_of_json(one) for name, one in entry["parts"].items()}
                return Choice(machine, model, parts), []
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: a choice is damaged ({type(error).__name__}: {error}); tune again") from error
        others.append(made)
    return None, others


def fingerprint(parts: Mapping[str, ConvertedModule]) -> str:
    """The same for graphs that compute the same operators under the same names, whatever their weights are."""
    told = [
        [
            path,
            [(node.name, node.op, name_in(part, node), _settings(part, node)) for node in part.graph.nodes],
            [(name, tuple(one.shape)) for name, one in part.named_parameters()],
        ]
        for path, part in parts.items()
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _settings(part: ConvertedModule, node: fx.Node) -> str:
    """Strides, dilations and whatever else a node is told, or its layer."""
    layer = repr(part.get_submodule(str(node.target))) if node.op == "call_module" else ""
    return f"{layer} {node.args} {node.kwargs}"


def _processor() -> str:
    """What the processor is called; the architecture where the system doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(told, "") or platform.processor() or platform.machine()


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); accepted: a file that a choice was saved to") from error
    if not isinstance(read, dict) or read.get("format") != _FORMAT or not isinstance(read.get("choices"), list):
        raise ValueError(f"{path} holds no choices of {_FORMAT}; accepted: a file that a choice was saved to")
    return [one for one in read["choices"] if isinstance(one, dict)]


def _decision_to_json(decision: Decision) -> dict[str, Any]:
    layouts = decision.layouts
    return {
        "takes": dict(layouts.takes),
        "makes": dict(layouts.makes),
        "strict": [[*pair, layout] for pair, layout in layouts.strict.items()],
        "writes": layouts.writes,
        "rewrites": {name: list(paths) for name, paths in decision.rewrites.items()},
    }


def _decision_of_json(read: Mapping[str, Any]) -> Decision:
    strict = {(node, operand): layout for node, operand, layout in read["strict"]}
    rewrites = {name: tuple(paths) for name, paths in read["rewrites"].items()}
    named = {*read["takes"].values(), *read["makes"].values(), *strict.values()}
    strange = [*(named - set(LAYOUTS)), *(rewrites.keys() - set(REALISATIONS))]
    if strange:
        raise ValueError(f"it names {sorted(map(str, strange))}")
    return Decision(Layouts(read["takes"], read["makes"], strict, bool(read["writes"])), rewrites)
