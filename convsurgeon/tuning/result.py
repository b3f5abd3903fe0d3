"""What tuning found, what it tried, and how it prints."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from convsurgeon.tables import Table, table_text
from convsurgeon.timing import Ratio
from convsurgeon.tuning.choice import Choice
from convsurgeon.tuning.parts import Tried

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `convsurgeon.tune` did, and why.

    `taken`: whether the module is another than it was; `reason` says why not, or where the choice comes from.

    `ratio`: how many times faster the tuned module is than the converted one, and `seconds` those of both, None where
    that wasn't measured. `copies`: how many nodes bring a value into another layout, and `functions`: how many call a
    function of torch where they called the ATen overload behind it. `hurried`: how many kinds of convolutions weren't
    timed by exact rewrites, for want of time. `spent_s`: the seconds that all of it took.
    """

    taken: bool
    reason: str
    choice: Choice
    ratio: Ratio | None = None
    seconds: tuple[float, float] | None = None
    copies: int = 0
    functions: int = 0
    hurried: int = 0
    tried: tuple[Tried, ...] = field(default=(), repr=False)
    spent_s: float = 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the choice, to be carried out again without measuring: ``convsurgeon.tune(..., choice=path)``.

        Raises:
            OSError: the file can't be written.
            ValueError: what is there isn't a file of choices, or nothing was decided.
        """
        self.choice.save(path)

    def to_json(self) -> dict[str, Any]:
        """The tuning as plain data."""
        return {
            "taken": self.taken,
            "reason": self.reason,
            "machine": asdict(self.choice.machine),
            "ratio": None if self.ratio is None else asdict(self.ratio),
            "seconds": None if self.seconds is None else list(self.seconds),
            "copies": self.copies,
            "functions": self.functions,
            "hurried": self.hurried,
            "spent_s": self.spent_s,
            "tried": [
                {
                    "nodes": list(one.nodes),
                    "operator": one.operator,
                    "seconds": {name or "as it is": dict(each) for name, each in one.seconds.items()},
                    "taken": {" ".join(filter(None, key)): count for key, count in one.taken.items()},
                }
                for one in self.tried
            ],
        }

    def lines(self) -> Iterator[str]:
        """The outcome, for the report."""
        if not self.taken:
            yield f"not changed: {self.reason}"
            return
        if self.ratio is not None and self.seconds is not None:
            before, after = (f"{1000 * one:.2f} ms" for one in self.seconds)
            yield f"{self.ratio.median:.2f} x as fast as converted: {before} -> {after}, on {self.choice.machine}"
        else:
            yield self.reason
        decisions = [one for one in self.choice.decisions.values() if not one.changes_nothing]
        taken = Counter(layout for one in decisions for layout in one.layouts.takes.values())
        if taken["last"]:
            copies = f"{self.copies} {'copy' if self.copies == 1 else 'copies'} between layouts"
            yield f"  {taken['last']} of {taken.total()} operators in channels_last, {copies}"
        rewritten = Counter[str]()
        for decision in decisions:
            rewritten.update({name: len(paths) for name, paths in decision.rewrites.items()})
        if rewritten:
            yield f"  rewritten exactly: {', '.join(f'{count} x {name}' for name, count in rewritten.items())}"
        if self.hurried:
            kinds = f"{self.hurried} {'kind' if self.hurried == 1 else 'kinds'} of convolutions"
            yield f"  {kinds} not tried by exact rewrites, for want of time: give more as budget_s"
        if self.functions:
            yield f"  {self.functions} ATen overloads called as functions of torch, which takes less Python"
        if decisions:
            yield "  outputs may have other strides, and layers in training other random numbers, than the original's"

    def __str__(self) -> str:
        return "\n".join((*self.lines(), *([_table(self.tried)] if self.tried else [])))


def _table(tried: Sequence[Tried]) -> str:
    """Every kind of operator that was timed: as it is, in channels_last, and by the best exact rewrite."""
    table = Table("operator", "nodes", "us as it is", "channels_last", "rewritten", "taken", box=None)
    for one in tried[:_SHOWN]:
        plain, last = (f"{1e6 * one.seconds[''][layout]:.1f}" for layout in ("plain", "last"))
        ways = {
            f"{name} {1e6 * min(each.values()):.1f}": min(each.values()) for name, each in one.seconds.items() if name
        }
        best = min(ways, key=lambda way: ways[way], default="")
        taken = ", ".join(f"{count} x {' '.join(filter(None, key))}" for key, count in one.taken.items())
        more = f" and {len(one.nodes) - 1} more" if len(one.nodes) > 1 else ""
        table.add_row(one.operator, f"{one.nodes[0]}{more}", plain, last, best, taken)
    cut = [f"and {len(tried) - _SHOWN} more kinds of operators"] if len(tried) > _SHOWN else []
    return "\n".join((table_text(table), *cut))
