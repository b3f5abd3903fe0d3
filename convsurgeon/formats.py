"""Writes a converted model as a file that other tools read, and checks that what was written computes the same."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from convsurgeon.capture.exporting import doubled, quiet
from convsurgeon.conversion import Conversion
from convsurgeon.converted import ConvertedModule
from convsurgeon.errors import UnsupportedError
from convsurgeon.samples import Sample
from convsurgeon.verification import Tolerance, verify_samples

Format = Literal["pt2", "onnx", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_model(conversion: Conversion, sample: Sample, form: Format, path: Path) -> str:
    """Write `conversion.module` to `path`; returns in words how what was written was checked.

    "pt2" is an exported program with every axis left open that can be, "onnx" what ``torch.onnx.export`` makes of it,
    "safetensors" the weights in 2-D alone. `sample` is one that the original takes.

    Raises:
        UnsupportedError: the model can't be exported so, or a package is missing; says which.
        EquivalenceError: what was written computes something else.
        OSError: the file can't be written.
    """
    if form == "safetensors":
        return _write_weights(conversion.module, path)
    given = _given(conversion.module, sample)
    program = conversion.exported_program if conversion.program is not None else _exported(conversion.module, given)
    if form == "pt2":
        return _write_program(program, conversion.module, given, path)
    return _write_onnx(program, conversion.module, given, path)


def _write_weights(module: nn.Module, path: Path) -> str:
    tensors: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            memory = value.untyped_storage().data_ptr()
            # the format admits no two tensors in one memory: what is tied is written under each of its names
            tensors[name] = value.clone() if memory in known else value.contiguous()
            known.add(memory)
    save_file(tensors, path)
    return f"{len(tensors)} tensors"


def _given(module: nn.Module, sample: Sample) -> Sample:
    """The sample as the converted module takes it, without gaps: a GraphModule is exported by the place of keywords."""
    args, kwargs = sample.args, dict(sample.kwargs)
    if isinstance(module, ConvertedModule) and module.inputs_in_2d:
        args, kwargs = module.inputs_2d(*args, **kwargs)
    if not kwargs or not isinstance(module, ConvertedModule):
        return Sample(args, kwargs)
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    named = list(bound.arguments)[len(args) :]
    last = max(named.index(name) for name in kwargs)
    return Sample(args, {name: bound.arguments[name] for name in named[: last + 1]})


def _exported(module: nn.Module, given: Sample) -> ExportedProgram:
    """The program, of open axes if it can be, else of the sample's sizes.

    Raises:
        UnsupportedError: it can't be exported.
    """
    failed: Exception | None = None
    for sample, shapes in ((given.map(doubled), _open_axes(given)), (given, _open_axes(given)), (given, None)):
        try:
            with quiet():
                program = torch.export.export(
                    module, sample.args, dict(sample.kwargs), dynamic_shapes=shapes, strict=False
                )
                program.module()(*given.args, **given.kwargs)  # a batch of two may have been baked in
            return program
        except Exception as error:  # torch's exporter and the model's own Python may raise anything
            failed = failed or error
    raise UnsupportedError(
        f"{type(module).__name__} can't be exported by torch.export: {type(failed).__name__}: "
        f"{' '.join(str(failed).split())[:300]}\n  its weights alone can be written: safetensors"
    ) from failed


def _open_axes(given: Sample) -> Any:
    def axes(leaf: Any) -> Any:
        return [Dim.AUTO] * leaf.dim() if isinstance(leaf, torch.Tensor) else None

    args, kwargs = pytree.tree_map(axes, (given.args, dict(given.kwargs)))
    return (*args, *kwargs.values())


def _write_program(program: ExportedProgram, module: nn.Module, given: Sample, path: Path) -> str:
    torch.export.save(program, path)
    _require_equal(module, torch.export.load(path).module(check_guards=False), given, None)
    return "read again, and equal to the converted model on the sample"


def _write_onnx(program: ExportedProgram, module: nn.Module, given: Sample, path: Path) -> str:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(f"{error.name} is not installed; pip install 'convsurgeon[onnx]'") from error
    with quiet():
        written = torch.onnx.export(program, given.args, kwargs=dict(given.kwargs), dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    try:
        import onnxruntime
    except ImportError:
        return "not run: onnxruntime is not installed"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _require_equal(module, _Session(session, module(*given.args, **given.kwargs)), given, _ONNX_TOLERANCE)
    return "run by onnxruntime, and equal to the converted model on the sample"


_ONNX_TOLERANCE = Tolerance(rtol=1e-3, atol=1e-4)
"""Another runtime, with kernels of its own."""


class _Session(nn.Module):
    """A session of onnxruntime, called as the module that it was exported from."""

    def __init__(self, session: Any, like: Any) -> None:
        super().__init__()

        def run(given: Any) -> Any:
            return session.run(None, given)

        self._run = run  # a function, which cloning a module leaves alone
        self._names = [one.name for one in session.get_inputs()]
        self._structure = pytree.tree_structure(like)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        given = {name: tensor.detach().numpy() for name, tensor in zip(self._names, tensors, strict=True)}
        leaves = [torch.from_numpy(leaf) for leaf in self._run(given)]
        return pytree.tree_unflatten(leaves, self._structure)


def _require_equal(module: nn.Module, written: nn.Module, given: Sample, tolerance: Tolerance | None) -> None:
    verify_samples(module, written, (given,), tolerance, gradients=False, train=False, capture=None).require()
