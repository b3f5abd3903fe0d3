"""What ``fit`` does: `convsurgeon.fitting` over a model and a sample of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

import convsurgeon
from convsurgeon.commands.console import Code, working
from convsurgeon.commands.converting import Done, samples_for
from convsurgeon.commands.models import model_of
from convsurgeon.fitting import fit, require_closed
from convsurgeon.targets import load_target


def fit_of(
    spec: str, target: str, inputs: Sequence[str], *, convert: bool, square: bool, strict: bool, trust: bool
) -> Done:
    """Whether an accelerator takes a model's operators; `convert` first makes them 2-D.

    Raises:
        ConvSurgeonError, ValueError, TypeError, OSError: as `convsurgeon.fitting.fit` and `convsurgeon.convert`.
    """
    if square and not convert:
        raise ValueError("--square says how to convert, and goes with --convert")
    profile = load_target(target)
    given = model_of(spec, trust=trust)
    model, samples = given.model, samples_for(given, inputs)
    if not samples:
        raise ValueError(f"there is nothing to run the model with: {spec} gives no sample; give --input")
    if not inputs and given.sample_inputs is None and not isinstance(model, nn.Module):
        require_closed(model, profile)  # a program's own example isn't a length that somebody asked for
    if convert:
        with working(f"converting {spec}"):
            model = convsurgeon.convert(model, list(samples), square=square).module
    with working(f"fitting {spec}"):
        found = fit(model, profile, list(samples), strict=strict)
    return Done(Code.DONE if found.fits else Code.DIFFERS, str(found), found.to_json())
