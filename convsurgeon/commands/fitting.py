"""What ``fit`` does: `convsurgeon.fitting` over a model and a sample of a command line."""

from __future__ import annotations

from collections.abc import Sequence

import convsurgeon
from convsurgeon.commands.console import Code, working
from convsurgeon.commands.converting import Done, samples_for
from convsurgeon.commands.models import model_of
from convsurgeon.errors import UnsupportedError
from convsurgeon.fitting import fit
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
    if convert:
        if not samples:
            raise ValueError(f"there is nothing to run the model with: {spec} gives no sample; give --input")
        with working(f"converting {spec}"):
            model = convsurgeon.convert(model, list(samples), square=square).module
    elif not inputs and given.sample_inputs is None:
        samples = ()  # a program's own example isn't a length that somebody asked for
    with working(f"fitting {spec}"):
        try:
            found = fit(model, profile, list(samples) or None, strict=strict)
        except UnsupportedError as error:
            return Done(Code.DIFFERS, str(error), {"error": type(error).__name__, "message": str(error)})
    return Done(Code.DONE if found.fits else Code.DIFFERS, str(found), found.to_json())
