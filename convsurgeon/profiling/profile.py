"""What the operators of a model cost, before and after: as data, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from convsurgeon.tables import Table, escape, table_text
from convsurgeon.timing import Ratio, Timing

Kind = Literal["convolution", "region", "border", "layout", "1-D"]
"""A converted convolution, what else is computed in 2-D, what changes a value's form or its layout, and the rest."""

_NAMES: dict[str, str] = {
    "convolution": "convolutions",
    "region": "others in regions",
    "border": "borders",
    "layout": "changes of layout",
    "1-D": "kept 1-D",
}
_SHOWN = 24
_UNSURE = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operator of the original takes, and what stands for it in the converted model; or several, in all.

    Median seconds in one call of the whole model; 0 on the side where there is none. `ratio`: how many times faster it
    is now, None where one side takes no time that can be measured.
    """

    kind: str
    operator: str
    name: str
    original_s: float
    converted_s: float
    ratio: Ratio | None

    @classmethod
    def of(cls, kind: str, operator: str, name: str, original: Sequence[float], converted: Sequence[float]) -> Cost:
        """Out of the seconds of each round."""
        slow, fast = Timing(tuple(original)), Timing(tuple(converted))
        ratio = Ratio.of(slow, fast) if slow.least > 0 and fast.least > 0 else None
        return cls(kind, operator, name, slow.median, fast.median, ratio)

    @property
    def most_s(self) -> float:
        """The seconds of the side that takes longer."""
        return max(self.original_s, self.converted_s)


@dataclass(frozen=True, slots=True)
class Profile:
    """Original and converted model, operator by operator, in the order of the graph.

    `totals` are the sums of each kind, `by_node` of all, and `whole` are calls of the whole models, as they are. What
    these take beside the nodes is the Python between them, which in a model that keeps its own Python may be most; it
    is less than nothing where timing each node alone costs more than that. `blank_s` is what the timing of nothing
    takes: no node can seem to take less.
    """

    costs: tuple[Cost, ...]
    totals: tuple[Cost, ...]
    by_node: Cost
    whole: Cost
    blank_s: float
    rounds: int
    threads: int

    @property
    def is_certain(self) -> bool:
        """Whether the calls are long enough, and the machine quiet enough, to tell how the models compare."""
        return self.whole.ratio is not None and self.whole.ratio.noise < _UNSURE

    def to_json(self) -> dict[str, Any]:
        """The profile as plain data."""
        return {**asdict(self), "is_certain": self.is_certain}

    def __str__(self) -> str:
        dearest = sorted(range(len(self.costs)), key=lambda at: self.costs[at].most_s, reverse=True)[:_SHOWN]
        shown = [self.costs[at] for at in sorted(dearest)]
        title = f"us a call, medians of {self.rounds} rounds in turn; threads: {self.threads}"
        table = Table("", title=title, title_justify="left")
        table.add_column("", overflow="fold")
        for name in ("original", "converted", "x faster"):
            table.add_column(name, justify="right")
        for one in shown:
            table.add_row(one.operator, escape(one.name), *_figures(one))
        if len(shown) < len(self.costs):
            table.add_row(
                f"and {len(self.costs) - len(shown)} more",
                f"none takes more than {_us(self.costs[dearest[-1]].most_s)}",
            )
        table.add_section()
        for one in self.totals:
            table.add_row(_NAMES[one.kind], f"{one.operator} in all", *_figures(one))
        table.add_row("all of these", "node by node", *_figures(self.by_node))
        table.add_section()
        rest = [_us(getattr(self.whole, side) - getattr(self.by_node, side)) for side in ("original_s", "converted_s")]
        table.add_row("whole call", "", *_figures(self.whole))
        table.add_row("beside the nodes", "", *rest, "")
        lines = [
            table_text(table),
            "beside the nodes: Python, and what is in no graph; below 0 where timing each node alone costs more",
            f"a node that does nothing would seem to take {_us(self.blank_s)}",
        ]
        if not self.is_certain:
            lines.append("the sample is too short, or the machine too busy, to tell how the models compare")
        return "\n".join(lines)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def _figures(cost: Cost) -> tuple[str, str, str]:
    ratio = "" if cost.ratio is None else f"{cost.ratio.median:.2f} \N{PLUS-MINUS SIGN} {cost.ratio.noise:.2f}"
    return _us(cost.original_s), _us(cost.converted_s), ratio
