"""Decides what is computed in 2-D."""

from convsurgeon.planning.plan import Border, CaptureNote, Kept, LiftedOperator, Plan, Port
from convsurgeon.planning.planner import make_plan

__all__ = ["Border", "CaptureNote", "Kept", "LiftedOperator", "Plan", "Port", "make_plan"]
