"""What a conversion leaves: the module, what was decided, the proof, and how the weights moved."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import ExportedProgram

from convsurgeon.alone import alone
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.exact import Notes
from convsurgeon.exported import program_of
from convsurgeon.files import write_text
from convsurgeon.fitting import Fit
from convsurgeon.page import conversion_page
from convsurgeon.parts import Part
from convsurgeon.planning import Plan
from convsurgeon.report import conversion_text
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification import Verification
from convsurgeon.weights.weight_map import WeightMap

if TYPE_CHECKING:
    from convsurgeon.profiling import Profile
    from convsurgeon.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` returns: the module, what was decided, the proof, and how the weights moved.

    `verification` is None if none was asked for. `seconds` are those of each step. `planned`, the captured
    graphs and their plans, is kept for `to_html`, which runs original and result node by node, and `samples` for
    `export`. `exact` are the notes of exact rewrites, `fit` how the result fits its target, if there is one,
    and `tuning` what was measured to make it faster.
    """

    module: nn.Module
    plan: Plan
    verification: Verification | None
    weight_map: WeightMap
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    planned: tuple[tuple[Part, Plan], ...] = field(default=(), repr=False, compare=False)
    program: ExportedProgram | None = field(default=None, repr=False, compare=False)
    samples: tuple[Sample, ...] = field(default=(), repr=False, compare=False)
    exact: Notes = field(default_factory=Notes)
    fit: Fit | None = None
    tuning: Tuning | None = None

    @property
    def exported_program(self) -> ExportedProgram:
        """The converted ``ExportedProgram``, where one came in: of the same signature, names and dynamic shapes.

        Each time it is asked for, it is made anew, and shares its weights with `module`.

        Raises:
            AttributeError: a module came in, or exact rewrites or tuning changed what it holds;
                ``torch.export.export`` makes a program of the converted one.
        """
        if self.program is None or not isinstance(self.module, ConvertedModule):
            raise AttributeError(
                "no ExportedProgram came in, or exact rewrites or tuning changed what it holds; "
                "torch.export.export(conversion.module, ...) makes one of the result"
            )
        return program_of(self.module, self.program, frozenset(self.plan.moved))

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "plan": self.plan.to_json(),
            "verification": None if self.verification is None else self.verification.to_json(),
            "weights": [
                {
                    "name": entry.name,
                    "shape_1d": list(entry.shape_1d),
                    "shape_2d": list(entry.shape_2d),
                    "dtype": entry.dtype,
                    "baked": entry.baked,
                }
                for entry in self.weight_map.entries
            ],
            "exact": self.exact.to_json(),
            "fit": None if self.fit is None else self.fit.to_json(),
            "tuning": None if self.tuning is None else self.tuning.to_json(),
            "seconds": dict(self.seconds),
        }

    @alone
    @torch.inference_mode(False)
    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one page that needs nothing else: both lanes, every node, its error, weights and totals.

        The first sample runs once more, in both models and in float64.

        Raises:
            OSError: the file can't be written; what was there stays.
        """
        write_text(path, conversion_page(self))

    @alone
    @torch.inference_mode(False)
    def export(self, path: str | os.PathLike[str], sample_inputs: Any = None, *, partitioner: str = "xnnpack") -> str:
        """Write the converted model for other tools, by the suffix of `path`, and compare what was written with it.

        ``.pt2`` by torch.export, ``.onnx`` by torch's own exporter, ``.safetensors`` the weights alone, ``.pte`` by
        ExecuTorch with one of its partitioners, ``.tflite`` by litert-torch. The last three are packages of their own:
        ``pip install 'convsurgeon[onnx]'``, ``[executorch]`` or ``[litert]``.

        Args:
            path: the file to write, of one of these suffixes; on failure, what was there stays.
            sample_inputs: a sample of the original to export by; None for the first that was converted with.
            partitioner: ExecuTorch's, by name.

        Returns:
            How what was written was checked, in words.

        Raises:
            UnsupportedError: the model can't be exported so, or a package is missing; says which.
            EquivalenceError: what was written computes something else.
            ValueError: another suffix, or no sample.
            OSError: the file can't be written.
        """
        from convsurgeon.formats import export_file

        samples = self.samples if sample_inputs is None else as_samples(sample_inputs)
        return export_file(self, samples[0] if samples else None, Path(path), partitioner=partitioner)

    @alone
    @torch.inference_mode(False)
    def profile(self, sample_inputs: Any = None, *, rounds: int = 20, budget_s: float = 20.0) -> Profile:
        """Where the time goes: original and converted model in turn, operator by operator; printed, it is a table.

        Args:
            sample_inputs: a sample of the original; None for the first that was converted with.
            rounds: how often each is timed, at least three times.
            budget_s: the seconds after which no further round begins.

        Raises:
            ValueError: there is no sample.
        """
        from convsurgeon.profiling import profiled

        samples = self.samples if sample_inputs is None else as_samples(sample_inputs)
        if not samples:
            raise ValueError("there is no sample to time the model on; give sample_inputs")
        return profiled(self.module, self.planned, self.plan.in_place, samples[0], rounds, budget_s)

    def __str__(self) -> str:
        return conversion_text(self)
