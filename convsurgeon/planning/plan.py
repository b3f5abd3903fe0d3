"""What was decided: which operators run in 2-D, where values change form, what stays 1-D and why."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from convsurgeon.axis import UnitAxis
from convsurgeon.lifting import Candidate


@dataclass(frozen=True, slots=True)
class CaptureNote:
    """How the model became a graph, or graphs.

    `mode`: the one it is frozen to, None where it follows train() and eval(). `islands`: the submodules that became
    graphs, where the whole model didn't. `before`: what was done or tried before, and why it failed. `admits`: what
    inputs an exported graph takes.
    """

    how: Literal["trace", "export", "graph", "islands"]
    mode: Literal["train", "eval"] | None
    reason: str
    islands: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    admits: str = ""

    def __str__(self) -> str:
        if self.how == "islands":
            several = f"{len(self.islands)} of its modules as graphs" if self.islands else "no module as a graph"
            return f"islands: the model's own Python, with {several}"
        text = {"trace": "torch.fx symbolic trace", "export": "torch.export", "graph": "a graph, as it came in"}[
            self.how
        ]
        admits = f", for inputs of {textwrap.shorten(self.admits, 240)}" if self.admits else ""
        return f"{text}{admits}" + ("" if self.mode is None else f", in {self.mode} mode only: {self.reason}")


@dataclass(frozen=True, slots=True)
class LiftedOperator:
    """An operator that runs in 2-D: its node, the module that it is or whose forward calls it, what it was and is."""

    node: str
    name: str
    operator: str
    becomes: str
    rule: str


@dataclass(frozen=True, slots=True)
class Border:
    """A value that changes its form: "lift" is an unsqueeze, "lower" a squeeze. Shape in the 1-D form; size in bytes.

    `reason`: which operators force it, in words. `constant`: the value is computed from parameters alone (a normalised
    weight), not from what flows through the model.
    """

    value: str
    direction: Literal["lift", "lower"]
    shape: tuple[int, ...] | None
    nbytes: int | None
    needed_by: tuple[str, ...]
    reason: str
    constant: bool

    def __str__(self) -> str:
        verb = "unsqueeze" if self.direction == "lift" else "squeeze"
        return f"{verb} {self.value}{'' if self.shape is None else f' {list(self.shape)}'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output that is 4-D with ``io="2d"``: its name, and its shape in the sample, before and after."""

    kind: Literal["input", "output"]
    name: str
    shape_1d: tuple[int, ...]
    shape_2d: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape_1d)} -> {list(self.shape_2d)}"


@dataclass(frozen=True, slots=True)
class Kept:
    """An operator that stays 1-D: likewise, with the reason and the user's line ("" where unknown)."""

    node: str
    name: str
    operator: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.name or self.node} ({self.operator}): {self.reason}" + (
            f" [{self.source}]" if self.source else ""
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision, complete: the rewriter obeys it and decides nothing.

    `moved` names the state_dict entries (and other tensors) that gain the unit axis. `steps` holds, by node name, how
    each lifted node is rewritten, `two_d` the values that are held in 2-D, and `restored` the operands (node, operand)
    that are brought to contiguous strides, as the 1-D operator does within, and by which method: "contiguous" or
    "clone"; "align" does it for gradients alone, and of (value, value) where a border lowers it. `in_place` names the
    modules whose own Python calls convolutions: these are computed in 2-D as they run.
    """

    capture: CaptureNote
    lift: Literal["regions", "ops"]
    io: Literal["1d", "2d"]
    unit_axis: Literal[-2, -1]
    square: bool
    ports: tuple[Port, ...]
    lifted: tuple[LiftedOperator, ...]
    borders: tuple[Border, ...]
    kept: tuple[Kept, ...]
    moved: tuple[str, ...]
    steps: Mapping[str, Candidate] = field(repr=False, compare=False)
    two_d: frozenset[str] = field(repr=False, compare=False)
    restored: Mapping[tuple[str, str], str] = field(repr=False, compare=False)
    in_place: tuple[str, ...] = ()

    @property
    def axis(self) -> UnitAxis:
        """The unit axis as the functions take it."""
        return UnitAxis(self.unit_axis, self.square)

    @property
    def convolutions(self) -> tuple[LiftedOperator, ...]:
        """The convolutions among the lifted operators."""
        return tuple(operator for operator in self.lifted if operator.rule.startswith("conv"))

    def after(self, before: Sequence[str]) -> Plan:
        """The same plan, which tells what was done or tried before its capture."""
        return replace(self, capture=replace(self.capture, before=tuple(before)))

    @classmethod
    def of_islands(
        cls, plans: Mapping[str, Plan], alone: Sequence[Kept], in_place: tuple[str, ...], **options: Any
    ) -> Plan:
        """The plans of islands, by name, as one; `alone` are the convolutions that are in none."""
        each = plans.values()
        return cls(
            capture=CaptureNote("islands", None, "", tuple(plans)),
            ports=(),
            lifted=tuple(one for plan in each for one in plan.lifted),
            borders=tuple(one for plan in each for one in plan.borders),
            kept=(*(one for plan in each for one in plan.kept), *alone),
            moved=tuple(f"{path}.{name}" for path, plan in plans.items() for name in plan.moved),
            steps={},
            two_d=frozenset(),
            restored={},
            in_place=in_place,
            **options,
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "capture": asdict(self.capture),
            "lift": self.lift,
            "io": self.io,
            "unit_axis": self.unit_axis,
            "square": self.square,
            "ports": [asdict(one) for one in self.ports],
            "lifted": [asdict(one) for one in self.lifted],
            "borders": [asdict(one) for one in self.borders],
            "kept": [asdict(one) for one in self.kept],
            "moved": list(self.moved),
            "in_place": list(self.in_place),
        }

    def __str__(self) -> str:
        from convsurgeon.report import plan_text

        return plan_text(self)
