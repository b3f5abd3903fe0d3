"""Makes a converted model faster on the machine at hand, by measurement: layouts, and exact rewrites that pay."""

from convsurgeon.tuning.choice import Choice, Machine
from convsurgeon.tuning.request import tune, tuned_like
from convsurgeon.tuning.result import Tuning
from convsurgeon.tuning.tuner import TuningWarning

__all__ = ["Choice", "Machine", "Tuning", "TuningWarning", "tune", "tuned_like"]
