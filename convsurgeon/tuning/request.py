"""What is asked for: a conversion, what to measure it on, and every argument, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import nn

from convsurgeon.alone import alone
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.conversion import Conversion
from convsurgeon.errors import UnsupportedError
from convsurgeon.samples import Sample, as_samples
from convsurgeon.tuning.survey import Clock
from convsurgeon.tuning.tuner import Elsewhere, Tuner
from convsurgeon.verification import Tolerance, require_runs

BUDGET_S = 45.0
"""How long tuning may take, unless it is told."""


@alone
def tune(
    conversion: Conversion,
    sample_inputs: Any = None,
    *,
    budget_s: float = BUDGET_S,
    threads: int | None = None,
    choice: str | PathLike[str] | None = None,
    elsewhere: Elsewhere = "measure",
    progress: Callable[[float], None] | None = None,
) -> Conversion:
    """Make a converted model faster on the machine at hand, by measurement; where nothing is gained, nothing changes.

    Every operator is timed on the values that it meets in the first sample, in turn: as it is, in channels_last, and
    convolutions by the exact rewrites that may pay (`fold_dilation`, `fold_stride`, `transposed_as_convolution`). The
    choice over the whole graph is the cheapest one, copies between layouts counted. It is kept if the whole model is
    faster by more than the noise, and than 1 %, and computes the same: outputs, and gradients where it has them.

    Outputs may have other strides than before, and layers that draw random numbers in training may draw others.
    Weights that lie in channels_last have memory of their own, under the same names and shapes. On a CPU, compile the
    tuned module by ``torch.compile(module, options={"layout_optimization": False})``: inductor chooses layouts anew.

    Args:
        conversion: what `convsurgeon.convert` returned; it stays as it is.
        sample_inputs: as for `convsurgeon.convert`; None for those that were converted with. The shapes, dtype and
            device are those that it is tuned for.
        budget_s: how many seconds measuring may take. Where that is too little to decide, nothing changes.
        threads: how many of torch's threads to measure with; None for as many as are set.
        choice: a file that ``conversion.tuning.save`` wrote. A choice in it that was made for this model, device,
            dtype, number of threads and version of torch is carried out without measuring.
        elsewhere: what is done where the file has only choices of other machines: "measure" again, or "ignore" the
            file and change nothing; either way with a warning.
        progress: is called with the share of the budget that is spent.

    Returns:
        A conversion with another module, and a `Tuning` as ``tuning``: what was tried, and what it brought.

    Raises:
        ValueError: there is no sample, the model can't run on it, a wrong argument, or what is in the file isn't a
            choice.
        TypeError: an argument is of the wrong kind.
        UnsupportedError: the model has weights on the meta device.
        OSError: the file can't be read.
    """
    if not isinstance(conversion, Conversion):
        raise TypeError(f"conversion is a {type(conversion).__name__}; accepted: what convsurgeon.convert returned")
    samples = conversion.samples if sample_inputs is None else as_samples(sample_inputs)
    _check(samples, budget_s, threads, elsewhere)
    if choice is not None and not isinstance(choice, (str, PathLike)):
        raise TypeError(f"choice is {choice!r}; accepted: the path of a file that tuning.save wrote")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress is {progress!r}; accepted: what is called with the share that is spent")
    if any(one.is_meta for one in (*conversion.module.parameters(), *conversion.module.buffers())):
        raise UnsupportedError("the model has weights on the meta device, so nothing can be measured")
    for sample in samples:
        require_runs(conversion.module, sample)
    with _measuring(threads):
        tuner = Tuner(conversion, conversion.module, samples, None, Clock(budget_s), progress)
        return tuner.tuned(choice, elsewhere)


def tuned_like(conversion: Conversion, model: nn.Module, tolerance: Tolerance | None) -> Conversion:
    """A conversion tuned on its own samples, and compared with `model`, gradients too."""
    with _measuring(None):
        return Tuner(conversion, model, conversion.samples, tolerance, Clock(BUDGET_S), None).tuned(None, "measure")


def _check(samples: tuple[Sample, ...], budget_s: float, threads: int | None, elsewhere: str) -> None:
    if not samples:
        raise ValueError("there is nothing to time: the conversion has no sample; give sample_inputs")
    if isinstance(budget_s, bool) or not isinstance(budget_s, (int, float)) or not budget_s > 0:
        raise ValueError(f"budget_s is {budget_s!r}; accepted: seconds, more than 0")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}; accepted: 1 or more, or None")
    if elsewhere not in ("measure", "ignore"):
        raise ValueError(f"elsewhere is {elsewhere!r}; accepted: 'measure', 'ignore'")


@contextmanager
def _measuring(threads: int | None) -> Iterator[None]:
    """With so many of torch's threads; nothing that can be seen changes."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode(False), preserved_random_state():
            yield
    finally:
        torch.set_num_threads(before)
