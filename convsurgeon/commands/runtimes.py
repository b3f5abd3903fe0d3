"""Models as other tools run them on a CPU, onnxruntime and OpenVINO, where these are installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from convsurgeon.capture.exporting import quiet
from convsurgeon.errors import UnsupportedError
from convsurgeon.formats import program_for, sample_for
from convsurgeon.samples import Sample

Call = Callable[[], Any]


def installed() -> Mapping[str, Callable[[Exported], Call]]:
    """The tools that are installed, by name, and how each makes what it calls."""
    return {name: make for name, make in _TOOLS.items() if find_spec(name) is not None}


class Exported:
    """A model exported at a sample's sizes, once for all tools."""

    def __init__(self, module: nn.Module, sample: Sample) -> None:
        self.module = module
        self.given = sample_for(module, sample)

    @property
    def program(self) -> ExportedProgram:
        """The exported program.

        Raises:
            UnsupportedError: it can't be exported.
        """
        if isinstance(self._program, UnsupportedError):
            raise self._program
        return self._program

    @cached_property
    def _program(self) -> ExportedProgram | UnsupportedError:
        try:
            return program_for(self.module, self.given, fixed=True)
        except UnsupportedError as error:
            return error

    @cached_property
    def arrays(self) -> list[Any]:
        """The sample's tensors as arrays of numpy, in the order in which a program takes them."""
        leaves = pytree.tree_leaves((self.given.args, dict(self.given.kwargs)))
        return [leaf.detach().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    def checked(self, call: Call) -> Call:
        """`call`, which has been seen to compute what the module does.

        Raises:
            UnsupportedError: it computes something else.
        """
        with torch.no_grad():
            expected = pytree.tree_leaves(self.module(*self.given.args, **self.given.kwargs))
        wanted = [one for one in expected if isinstance(one, torch.Tensor)]
        found = [torch.from_numpy(one) for one in call()]
        if [one.shape for one in found] != [one.shape for one in wanted]:
            raise UnsupportedError("it returns other shapes than the model does")
        for one, other in zip(found, wanted, strict=True):
            off, size = (
                (value.double().abs().max().item() if value.numel() else 0.0) for value in (one - other, other)
            )
            if off > 1e-2 * size:
                raise UnsupportedError(
                    f"it computes something else: max |difference| {off:.1e} in values up to {size:.1e}"
                )
        return call


def _onnxruntime(exported: Exported) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # its threads wait by spinning, and would take the cores from whoever's turn is next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(_onnx(exported, folder), options, providers=["CPUExecutionProvider"])
    given = {one.name: array for one, array in zip(session.get_inputs(), exported.arrays, strict=True)}
    return exported.checked(lambda: session.run(None, given))


def _onnx(exported: Exported, folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    program, given = exported.program, exported.given
    with quiet():
        written = torch.onnx.export(program, given.args, kwargs=dict(given.kwargs), dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    return path


def _openvino(exported: Exported) -> Call:
    import openvino

    arrays = exported.arrays
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model = openvino.convert_model(exported.program)
        if len(model.inputs) != len(arrays):  # arguments that are no tensors become inputs, but not by way of ONNX
            model = openvino.convert_model(_onnx(exported, folder))
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, arrays, strict=True)})
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bfloat16 where the machine can
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return exported.checked(lambda: list(request.infer(arrays, share_inputs=True, share_outputs=True).values()))


_TOOLS: Mapping[str, Callable[[Exported], Call]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
