"""convsurgeon: the 1-D convolutions of a trained PyTorch model, converted to 2-D and proven equal.

>>> import torch, convsurgeon
>>> model = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 5), torch.nn.ReLU()).eval()
>>> conversion = convsurgeon.convert(model, torch.randn(2, 3, 100))
>>> conversion.module.get_submodule("0")
Conv2d(3, 8, kernel_size=(1, 5), stride=(1, 1))
>>> conversion.verification.passed
True
"""

from convsurgeon.conversion import Conversion, convert, plan
from convsurgeon.converted import ConvertedModule
from convsurgeon.errors import CaptureError, CheckpointError, ConvSurgeonError, EquivalenceError, UnsupportedError
from convsurgeon.origin import Origin
from convsurgeon.planning import Border, Kept, LiftedOperator, Plan
from convsurgeon.samples import Sample
from convsurgeon.scope import Scope
from convsurgeon.verification import Comparison, Divergence, Tolerance, Verification, verify
from convsurgeon.weight_map import WeightMap

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
    "Kept",
    "LiftedOperator",
    "Origin",
    "Plan",
    "Sample",
    "Scope",
    "Tolerance",
    "UnsupportedError",
    "Verification",
    "WeightMap",
    "convert",
    "plan",
    "verify",
]

__version__ = "0.1.0"
