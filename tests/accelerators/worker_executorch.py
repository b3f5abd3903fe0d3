"""Prints, for each network and form, how many subgraphs XNNPACK takes, and what is left outside."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from models.by_hand import RawAudio, Wrapped, pair
from torch import nn

import convsurgeon


def lowered(module: nn.Module, *inputs: torch.Tensor) -> dict[str, Any]:
    program = torch.export.export(module, inputs)
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    names = [str(getattr(node.target, "__name__", "")) for node in edge.exported_program().graph.nodes]
    called = [name for name in names if name and "getitem" not in name]
    return {
        "subgraphs": sum("delegate" in name for name in called),
        "outside": sorted(name for name in called if "delegate" not in name),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found: dict[str, Any] = {}
    x = torch.randn(1, 4, 256)
    for at, name in enumerate("ABCD"):
        original, hand = pair(at)
        ours, open_ended = (convsurgeon.convert(original, x, io=io) for io in ("1d", "2d"))
        found[name] = {
            "original": lowered(original, x),
            "by hand": lowered(Wrapped(hand), x),
            "converted": lowered(ours.module, x),
            "converted, 4-D ends": lowered(open_ended.module, *open_ended.module.inputs_2d(x)[0]),
            "checked": ours.export(folder / f"{name}.pte"),
        }
    sound, raw = torch.randn(1, 1, 4000), RawAudio().eval()
    conversion = convsurgeon.convert(raw, sound)
    found["M5"] = {"original": lowered(raw, sound), "converted": lowered(conversion.module, sound)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
