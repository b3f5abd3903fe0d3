"""Decides what is computed in 2-D."""

from convsurgeon.planning.plan import Border, CaptureNote, Kept, LiftedOperator, Plan, Port
from convsurgeon.planning.planner import make_plan
from convsurgeon.planning.selection import Selection

__all__ = ["Border", "CaptureNote", "Kept", "LiftedOperator", "Plan", "Port", "Selection", "make_plan"]
