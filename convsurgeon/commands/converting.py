"""What ``convert``, ``plan`` and ``verify`` do: the library's functions over models and samples of a command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import convsurgeon
from convsurgeon.checkpoints.loading import load_weights
from convsurgeon.checkpoints.location import Location, new_folder, require_apart, require_free
from convsurgeon.commands.console import Code, json_text, share_bar, working
from convsurgeon.commands.inputs import sample_of
from convsurgeon.commands.models import Given, model_of
from convsurgeon.conversion import Conversion
from convsurgeon.formats import FORMATS, write_model
from convsurgeon.planning import Plan
from convsurgeon.samples import Sample, as_samples
from convsurgeon.verification import Tolerance


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ends, in words and as data."""

    code: Code
    text: str
    data: Mapping[str, Any]


def convert_to_folder(
    spec: str,
    output: Path,
    form: str,
    inputs: Sequence[str],
    checkpoint: str | None,
    options: Mapping[str, Any],
    tuning: Mapping[str, Any] | None,
    *,
    overwrite: bool,
    trust: bool,
) -> Done:
    """Convert, prove, and write a folder: the model, ``weight_map.json``, ``report.txt``, ``.json`` and ``.html``.

    With the options of `convsurgeon.tune` as `tuning`, the model is tuned, and what was chosen is in ``tuning.json``.
    Nothing is written where nothing was converted.

    Raises:
        ConvSurgeonError, ValueError, OSError: as the functions that do it.
    """
    if form not in FORMATS:
        raise ValueError(f"--to is {form!r}; accepted: {', '.join(FORMATS)}")
    target = Location.of(output)
    named = (path for path in (_home_of(spec), options["target"]) if path and Path(path).exists())
    read = (os.getcwd(), *named, checkpoint, (tuning or {}).get("choice"))
    require_apart(target, *(Location.of(path) for path in read if path is not None))
    require_free(target, overwrite=overwrite)
    given = model_of(spec, trust=trust)
    if checkpoint is not None:
        if not isinstance(given.model, nn.Module):
            raise ValueError("--checkpoint goes with a model in Python; an exported program holds its weights")
        load_weights(given.model, Location.of(checkpoint), trust=trust)
    samples = samples_for(given, inputs)
    if not samples and form != "safetensors":
        raise ValueError(
            f"{spec} gives no sample, and --to {form} takes one to export by; give --input, or --to safetensors"
        )
    if tuning is not None and not samples:
        raise ValueError(f"{spec} gives no sample, and --tune and --choice take one to call it with; give --input")
    own = not inputs and given.sample_inputs is None  # a program's own example isn't a length that somebody asked for
    with working(f"converting {spec}"):
        sample = None if own else list(samples)
        conversion = convsurgeon.convert(given.model, sample or None, verify=bool(samples), **options)
    if _is_empty(conversion.plan):
        return Done(
            Code.NOTHING_CONVERTED, f"{conversion}\n\nnothing was converted, and nothing written", conversion.to_json()
        )
    if tuning is not None:
        with share_bar(f"tuning {spec}") as tell:
            conversion = convsurgeon.tune(conversion, list(samples), progress=tell, **tuning)
    with working(f"writing {output}"), new_folder(target, overwrite=overwrite) as folder:
        written, checked = _write(conversion, samples, form, Path(folder.path))
    data = {"written": [str(output / name) for name in written], "checked": checked, **conversion.to_json()}
    return Done(Code.DONE, f"{conversion}\n\nwritten to {output}: {', '.join(written)} ({written[0]}: {checked})", data)


def _home_of(spec: str) -> str:
    """The file of a model on a command line, or the folder of its package, if that stands here."""
    home = spec if spec.endswith(".pt2") else spec.rpartition(":")[0]
    return home if home.endswith((".pt2", ".py")) else home.partition(".")[0]


def _write(conversion: Conversion, samples: Sequence[Sample], form: Any, folder: Path) -> tuple[list[str], str]:
    """The names of the files, the model first, and how that was checked."""
    model = f"model.{form}"
    checked = write_model(conversion, samples[0] if samples else Sample(), form, folder / model)
    conversion.weight_map.save(folder / "weight_map.json")
    (folder / "report.txt").write_text(f"{conversion}\n", encoding="utf-8")
    (folder / "report.json").write_text(json_text(conversion.to_json()), encoding="utf-8")
    conversion.to_html(folder / "report.html")
    written = [model, "weight_map.json", "report.txt", "report.json", "report.html"]
    if conversion.tuning is not None and conversion.tuning.taken:
        conversion.tuning.save(folder / "tuning.json")
        written.append("tuning.json")
    return written, checked


def plan_of(spec: str, inputs: Sequence[str], options: Mapping[str, Any], *, trust: bool) -> Done:
    """What converting would do.

    Raises:
        ConvSurgeonError, ValueError: as `convsurgeon.plan`.
    """
    given = model_of(spec, trust=trust)
    with working(f"planning {spec}"):
        found = convsurgeon.plan(given.model, list(samples_for(given, inputs)) or None, **options)
    return Done(Code.NOTHING_CONVERTED if _is_empty(found) else Code.DONE, str(found), found.to_json())


def verified(
    reference: str,
    candidate: str,
    inputs: Sequence[str],
    rtol: float | None,
    atol: float | None,
    *,
    gradients: bool,
    train: bool,
    trust: bool,
) -> Done:
    """Whether two models compute the same.

    Raises:
        ConvSurgeonError, ValueError: as `convsurgeon.verify`.
    """
    if (rtol is None) is not (atol is None):
        raise ValueError("--rtol and --atol go together")
    one, two = (model_of(spec, trust=trust) for spec in (reference, candidate))
    samples = samples_for(one, inputs) or samples_for(two, inputs)
    if not samples:
        raise ValueError(f"there is nothing to call the models with: {reference} gives no sample; give --input")
    tolerance = None if rtol is None or atol is None else Tolerance(rtol, atol)
    with working("verifying"):
        found = convsurgeon.verify(
            one.module, two.module, list(samples), tolerance=tolerance, gradients=gradients, train=train
        )
    return Done(Code.DONE if found.passed else Code.DIFFERS, str(found), found.to_json())


def samples_for(given: Given, inputs: Sequence[str]) -> tuple[Sample, ...]:
    """Those that are written on the command line, else those that the model came with."""
    written = sample_of(inputs)
    if written is not None:
        return (written,)
    if given.sample_inputs is None and not isinstance(given.model, nn.Module) and given.model.example_inputs:
        return (Sample(*given.model.example_inputs),)
    return as_samples(given.sample_inputs)


def _is_empty(plan: Plan) -> bool:
    return not plan.convolutions and not plan.in_place
