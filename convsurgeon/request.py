"""What is asked for: the model, out of what it came in, its samples, and every argument, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from convsurgeon.clones.remembering import remembered
from convsurgeon.errors import UnsupportedError
from convsurgeon.exported import is_of_program, module_of_program, without_hooks
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification import Tolerance

_CHOICES: dict[str, tuple[Any, ...]] = {
    "lift": ("regions", "ops"),
    "io": ("1d", "2d"),
    "unit_axis": (-2, -1),
    "square": (False, True),
    "capture": ("auto", "trace", "export", "islands"),
    "copy_weights": (False, True),
    "fold": (False, True),
    "verify": (True, False),
}


_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


@dataclass(frozen=True, slots=True)
class Request:
    """A model and its samples; the `program` that it came in, if it did; `notes` tell what was taken off it."""

    model: nn.Module
    samples: tuple[Sample, ...]
    program: ExportedProgram | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, model: Any, sample_inputs: Any, given: dict[str, Any]) -> Request:
        """What the arguments of `convert` or `plan`, which are `given` by name, ask for.

        Raises:
            UnsupportedError: the model is wrapped for several devices, a part of it is compiled, or it was made of an
                exported program without its guards.
            TypeError, ValueError: a wrong argument.
        """
        program: ExportedProgram | None = None
        notes: tuple[str, ...] = ()
        if isinstance(model, ExportedProgram):
            program, model = model, module_of_program(model)
            if sample_inputs is None and program.example_inputs is not None:
                sample_inputs = Sample(*program.example_inputs)
        elif isinstance(model, OptimizedModule):
            notes = ("torch.compile was taken off the model; compile the result",)
            while isinstance(model, OptimizedModule):
                model = model._orig_mod
        if program is None and is_of_program(model):
            model = without_hooks(model)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model is a {type(model).__name__}; accepted: a torch.nn.Module, a torch.fx.GraphModule or a "
                "torch.export.ExportedProgram"
            )
        for name, module in model.named_modules():
            kind: Any = type(module)
            wrapper = _wrapper(kind)
            if wrapper is not None:
                raise UnsupportedError(
                    f"{name or 'model'} is wrapped in {wrapper}, which distributes it over devices; convert the module "
                    "before it is wrapped, and wrap the result"
                )
            if isinstance(module, OptimizedModule):  # it calls the user's own module, in clones too
                raise UnsupportedError(
                    f"{name} is compiled by torch.compile; convert the model before its parts are compiled, or put the "
                    f"module back that was (model.get_submodule('{name}')._orig_mod), and compile the result"
                )
        return cls(model, _checked(model, sample_inputs, given), program, notes)


@remembered
def _wrapper(kind: Any) -> str | None:
    """The wrapper that a class is, by its name: FSDP's needn't be importable."""
    return next((one.__name__ for one in kind.__mro__ if one.__name__ in _WRAPPERS), None)


def _checked(model: nn.Module, sample_inputs: Any, given: dict[str, Any]) -> tuple[Sample, ...]:
    """Check every argument that can be checked without the model running; returns the samples."""
    tolerance = given.get("tolerance")
    for name, choices in _CHOICES.items():
        if name in given and not any(type(given[name]) is type(one) and given[name] == one for one in choices):
            raise ValueError(f"{name} is {given[name]!r}; accepted: {', '.join(map(repr, choices))}")
    if tolerance is not None and not isinstance(tolerance, Tolerance):
        raise TypeError(
            f"tolerance is a {type(tolerance).__name__}; accepted: convsurgeon.Tolerance(rtol, atol), or None"
        )
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"model has uninitialized parameters ({', '.join(lazy[:4])}{', ...' if len(lazy) > 4 else ''}); call it "
            "once on a sample, so that its lazy modules learn their shapes, and convert it then"
        )
    samples = as_samples(sample_inputs)
    if given["io"] == "2d" and (given["lift"] == "ops" or not samples):
        raise ValueError(
            "io is '2d', and each convolution alone is converted, between 1-D values "
            + ("(lift='ops'); say lift='regions'" if samples else "(there is no sample_inputs); give a sample")
        )
    if given["capture"] in ("islands", "export") and not samples:
        raise ValueError(
            f"capture is {given['capture']!r}, which takes a run of the model, and there is no sample_inputs; "
            "give a sample"
        )
    return samples
