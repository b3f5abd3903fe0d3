"""Writes converted models with the toolchains of devices, ExecuTorch and LiteRT, which are packages of their own.

What is written is run by that toolchain's own runtime and compared with the model.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from convsurgeon.capture.exporting import quiet
from convsurgeon.errors import UnsupportedError
from convsurgeon.samples import Sample

Run = Callable[..., Any]
"""Calls what was written with the tensors of a sample; returns its tensors."""

PARTITIONERS = {
    "xnnpack": "executorch.backends.xnnpack.partition.xnnpack_partitioner:XnnpackPartitioner",
}
"""Where ExecuTorch has its partitioners, by the names that are taken here."""


def write_executorch(program: ExportedProgram, path: Path, partitioner: str) -> Run:
    """Lower a program with one of ExecuTorch's partitioners, and write its ``.pte``; returns how to run it.

    Raises:
        UnsupportedError: ExecuTorch isn't installed, or refuses the program.
        ValueError: there is no such partitioner.
        OSError: it can't be written.
    """
    if partitioner not in PARTITIONERS:
        raise ValueError(f"partitioner is {partitioner!r}; accepted: {', '.join(PARTITIONERS)}")
    exir = _imported("executorch.exir", "executorch")
    home, _, name = PARTITIONERS[partitioner].partition(":")
    with refusals_of("ExecuTorch"):
        chosen = getattr(_imported(home, "executorch"), name)()
        written = exir.to_edge_transform_and_lower(program, partitioner=[chosen]).to_executorch()
    path.write_bytes(written.buffer)
    runtime = _imported("executorch.runtime", "executorch").Runtime.get()

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        loaded = runtime.load_program(written.buffer)  # a method reads both as long as it runs
        found: list[torch.Tensor] = loaded.load_method("forward").execute(list(tensors))
        return [one.clone() for one in found]

    return run


def write_litert(module: nn.Module, sample: Sample, path: Path) -> Run:
    """Convert with litert-torch, and write its ``.tflite``; returns how to run it.

    Raises:
        UnsupportedError: litert-torch isn't installed, or refuses the module or keyword arguments in the sample.
        OSError: it can't be written.
    """
    if sample.kwargs:
        raise UnsupportedError("litert-torch takes arguments by place; give a sample of positional arguments")
    litert_torch = _imported("litert_torch", "litert")
    with refusals_of("litert-torch"):
        written = litert_torch.convert(module, sample.args)
    written.export(os.fspath(path))

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        found = written(*(tensor.detach().numpy() for tensor in tensors))
        return [torch.as_tensor(one, device="cpu") for one in pytree.tree_leaves(found)]

    return run


@contextmanager
def refusals_of(tool: str) -> Iterator[None]:
    """Let a tool work quietly, and tell what it raises as its refusal.

    Raises:
        UnsupportedError: it raised anything, which other people's exporters may.
    """
    try:
        with quiet():
            yield
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"{tool} can't write the model: {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
            "  a .pt2 keeps all of it, and a .safetensors its weights"
        ) from error


def _imported(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise not_imported(error, extra) from error


def not_imported(error: ImportError, extra: str) -> UnsupportedError:
    """What to say where a package of an extra isn't there, or is, and can't be imported."""
    install = f"pip install 'convsurgeon[{extra}]'"
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in sys.modules:
        return UnsupportedError(f"{error.name} is not installed; {install}")
    return UnsupportedError(f"what 'convsurgeon[{extra}]' needs can't be imported: {error}; {install} --upgrade")
