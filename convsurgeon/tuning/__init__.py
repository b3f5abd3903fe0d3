"""Makes a converted model faster on the machine at hand, by measurement: layouts, and exact rewrites that pay."""

from convsurgeon.tuning.choice import Choice, Machine
from convsurgeon.tuning.result import Tuning
from convsurgeon.tuning.tuner import TuningWarning, tune, tuned_like

__all__ = ["Choice", "Machine", "Tuning", "TuningWarning", "tune", "tuned_like"]
