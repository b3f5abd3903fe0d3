"""convsurgeon: the 1-D convolutions of a trained PyTorch model, converted to 2-D and proven equal.

>>> import torch, convsurgeon
>>> model = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 5), torch.nn.ReLU()).eval()
>>> conversion = convsurgeon.convert(model, torch.randn(2, 3, 100))
>>> conversion.module.get_submodule("0")
Conv2d(3, 8, kernel_size=(1, 5), stride=(1, 1))
>>> conversion.verification.passed
True

Names are imported when they are first used: moving a safetensors checkpoint takes no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convsurgeon.checkpoints import convert_checkpoint
    from convsurgeon.conversion import Conversion
    from convsurgeon.converted.module import ConvertedModule
    from convsurgeon.converted.origin import Origin
    from convsurgeon.converted.scope import Scope
    from convsurgeon.converting import convert, plan
    from convsurgeon.errors import (
        CaptureError,
        CheckpointError,
        ConvSurgeonError,
        EquivalenceError,
        MisfitError,
        UnsupportedError,
    )
    from convsurgeon.fitting import Fit, fit
    from convsurgeon.planning import Border, Kept, LiftedOperator, Plan
    from convsurgeon.samples import Sample
    from convsurgeon.targets import Target, load_target, target_names
    from convsurgeon.tuning import Tuning, TuningWarning, tune
    from convsurgeon.verification import Comparison, Divergence, Tolerance, Verification, verify
    from convsurgeon.weights.weight_map import WeightMap

__all__ = [
    "Border",
    "CaptureError",
    "CheckpointError",
    "Comparison",
    "ConvSurgeonError",
    "Conversion",
    "ConvertedModule",
    "Divergence",
    "EquivalenceError",
    "Fit",
    "Kept",
    "LiftedOperator",
    "MisfitError",
    "Origin",
    "Plan",
    "Sample",
    "Scope",
    "Target",
    "Tolerance",
    "Tuning",
    "TuningWarning",
    "UnsupportedError",
    "Verification",
    "WeightMap",
    "convert",
    "convert_checkpoint",
    "fit",
    "load_target",
    "plan",
    "target_names",
    "tune",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "checkpoints": ("convert_checkpoint",),
    "conversion": ("Conversion",),
    "converted.module": ("ConvertedModule",),
    "converting": ("convert", "plan"),
    "errors": (
        *("CaptureError", "CheckpointError", "ConvSurgeonError", "EquivalenceError", "MisfitError"),
        "UnsupportedError",
    ),
    "fitting": ("Fit", "fit"),
    "converted.origin": ("Origin",),
    "planning": ("Border", "Kept", "LiftedOperator", "Plan"),
    "samples": ("Sample",),
    "converted.scope": ("Scope",),
    "targets": ("Target", "load_target", "target_names"),
    "tuning": ("Tuning", "TuningWarning", "tune"),
    "verification": ("Comparison", "Divergence", "Tolerance", "Verification", "verify"),
    "weights.weight_map": ("WeightMap",),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'convsurgeon' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"convsurgeon.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
