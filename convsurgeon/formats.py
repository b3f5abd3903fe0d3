"""Writes a converted model as a file that other tools read, and checks that what was written computes the same."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from convsurgeon.capture.exporting import doubled, quiet
from convsurgeon.clones.cloning import clone_module, copied, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.conversion import Conversion
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.errors import EquivalenceError, UnsupportedError
from convsurgeon.exported import unlifted
from convsurgeon.samples import Sample
from convsurgeon.toolchains import Run, not_imported, refusals_of, write_executorch, write_litert
from convsurgeon.verification import Tolerance, verify_samples

Format = Literal["pt2", "onnx", "safetensors", "pte", "tflite"]
FORMATS: tuple[Format, ...] = get_args(Format)


@preserved_random_state()
def write_model(
    conversion: Conversion, sample: Sample, form: Format, path: Path, *, partitioner: str = "xnnpack"
) -> str:
    """Write `conversion.module` to `path`; returns in words how what was written was checked.

    "pt2" is an exported program with every axis left open that can be, "onnx" what ``torch.onnx.export`` makes of it,
    "safetensors" the weights in 2-D alone; "pte" is ExecuTorch's, by one of its partitioners, and "tflite" LiteRT's,
    both of the sizes of the sample. `sample` is one that the original takes.

    Raises:
        UnsupportedError: the model can't be exported so, or a package is missing; says which.
        EquivalenceError: what was written computes something else.
        OSError: the file can't be written.
    """
    if form == "safetensors":
        return _write_weights(conversion.module, path)
    # exporters leave traces in what they are given: buffers that a run in training mode updates, attributes
    module = clone_module(conversion.module, share_parameters)
    given = sample_for(module, sample)
    if form == "tflite":
        run = write_litert(module, given, path)
        return _compared(module, run, given, "the runtime of LiteRT")
    fixed = form == "pte"
    program = conversion.exported_program if conversion.program is not None else program_for(module, given, fixed=fixed)
    if form == "pte":
        return _compared(module, write_executorch(program, path, partitioner), given, "the runtime of ExecuTorch")
    if form == "pt2":
        return _write_program(program, module, given, path)
    return _write_onnx(program, module, given, path)


def export_file(conversion: Conversion, sample: Sample | None, path: Path, *, partitioner: str) -> str:
    """`write_model` by the suffix of `path`, which appears when it is whole, with what the format puts beside it.

    Raises:
        ValueError: another suffix, or no sample where the model is exported by one.
    """
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise ValueError(f"path is {str(path)!r}; accepted: a suffix among .{', .'.join(FORMATS)}")
    if sample is None and form != "safetensors":
        raise ValueError(f"there is no sample to export a .{form} by; give sample_inputs")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        checked = write_model(conversion, sample or Sample(), form, Path(folder) / path.name, partitioner=partitioner)
        for file in Path(folder).iterdir():
            file.replace(path.with_name(file.name))
    return checked


def _write_weights(module: nn.Module, path: Path) -> str:
    tensors: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            memory = value.untyped_storage().data_ptr()
            # the format admits no two tensors in one memory: what is tied is written under each of its names
            apart = value.clone() if memory in known else value
            tensors[name] = apart.contiguous()
            known.add(memory)
    save_file(tensors, path)
    return f"{len(tensors)} tensors"


def sample_for(module: nn.Module, sample: Sample) -> Sample:
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


def program_for(module: nn.Module, given: Sample, *, fixed: bool) -> ExportedProgram:
    """The program, of open axes if it can be, else, or if it is to be `fixed`, of the sample's sizes.

    Raises:
        UnsupportedError: it can't be exported.
    """
    failed: Exception | None = None
    ways = [(given.map(doubled), _open_axes(given)), (given, _open_axes(given)), (given, None)]
    for sample, shapes in ways[-1:] if fixed else ways:
        try:
            with quiet():
                program = torch.export.export(
                    module, sample.args, dict(sample.kwargs), dynamic_shapes=shapes, strict=False
                )
                _called(program.module(), given)  # a batch of two may have been baked in
            return program
        except Exception as error:  # torch's exporter and the model's own Python may raise anything
            failed = failed or error
    raise UnsupportedError(
        f"{type(module).__name__} can't be exported by torch.export: {type(failed).__name__}: "
        f"{' '.join(str(failed).split())[:300]}\n  its weights alone can be written: safetensors"
    ) from failed


def _called(module: nn.Module, given: Sample) -> Any:
    """What a clone of `module` returns: a program's module shares its weights, and forward may write these."""
    inputs = given.map(copied)
    with torch.no_grad(), WriteGuard(module):
        return clone_module(module, share_parameters)(*inputs.args, **inputs.kwargs)


def _open_axes(given: Sample) -> Any:
    def axes(leaf: Any) -> Any:
        return [Dim.AUTO] * leaf.dim() if isinstance(leaf, torch.Tensor) else None

    args, kwargs = pytree.tree_map(axes, (given.args, dict(given.kwargs)))
    return (*args, *kwargs.values())


def _write_program(program: ExportedProgram, module: nn.Module, given: Sample, path: Path) -> str:
    with warnings.catch_warnings():
        # a weight in channels_last isn't contiguous, which torch takes for a part of another; it writes all of it
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)
    with torch.device("cpu"):  # torch reads weights into tensors of the default device, and refuses another than theirs
        read = torch.export.load(path)
    _require_equal(module, unlifted(read), given, None)
    return "read again, and equal to the converted model on the sample"


def _write_onnx(program: ExportedProgram, module: nn.Module, given: Sample, path: Path) -> str:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise not_imported(error, "onnx") from error
    with refusals_of("torch.onnx"):
        written = torch.onnx.export(program, given.args, kwargs=dict(given.kwargs), dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    try:
        import onnxruntime
    except ImportError:
        return "not run: onnxruntime is not installed"
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has an exception for each of its codes, and no kernels for some dtypes
        return f"not run: onnxruntime can't load it: {' '.join(str(error).split())[:200]}"
    names = [one.name for one in session.get_inputs()]

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        given = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(leaf) for leaf in session.run(None, given)]

    return _compared(module, run, given, "onnxruntime")


_ELSEWHERE = Tolerance(rtol=1e-3, atol=1e-4)
"""Of another runtime, with kernels of its own."""


class _Elsewhere(nn.Module):
    """What another runtime runs, called as the module that it was exported from, which returned `like`."""

    def __init__(self, run: Run, like: Any) -> None:
        super().__init__()
        leaves, structure = pytree.tree_flatten(like)

        def called(*tensors: torch.Tensor) -> Any:
            found = list(run(*tensors))
            if len(found) == len(_tensors(leaves)):  # a result that is no tensor, such as None, is none of theirs
                rest = iter(found)
                found = [next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            return pytree.tree_unflatten(found, structure)

        self._run = called  # a plain function, which cloning a module leaves alone

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*_tensors(pytree.tree_leaves((args, kwargs))))


def _tensors(leaves: Iterable[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _compared(module: nn.Module, run: Run, given: Sample, where: str) -> str:
    before = RandomState.capture()
    like = _called(module, given)
    if not RandomState.capture().same_stream(before):
        raise UnsupportedError(
            f"{type(module).__name__} draws random numbers, and {where} draws others, so nothing shows that they are "
            "equal\n"
            "  write a .pt2, or put the converted model in eval mode, where layers such as Dropout draw none"
        )
    try:
        _require_equal(_Apart(module), _Elsewhere(run, like), given, _ELSEWHERE)
    except EquivalenceError as error:
        if not any(isinstance(one, _NormBase) and one.training for one in module.modules()):
            raise
        raise UnsupportedError(
            f"{type(module).__name__}, or a part of it, is in training mode, and {where} computes something else than "
            "its norms do so, which take the statistics of the batch\n"
            "  write a .pt2, or put the converted model in eval mode"
        ) from error
    return f"run by {where}, and equal to the converted model on the sample"


class _Apart(nn.Module):
    """A module that writes to copies of its inputs, if it writes to them, as other runtimes leave theirs alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = Sample(args, kwargs).map(copied)
        return self.module(*own.args, **own.kwargs)


class _AsItIs(nn.Module):
    """A module called with what it takes, 4-D or not: verification gives a converted one what the original takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _require_equal(module: nn.Module, written: nn.Module, given: Sample, tolerance: Tolerance | None) -> None:
    verify_samples(_AsItIs(module), written, (given,), tolerance, gradients=False, train=False, capture=None).require()
