"""What ``rules`` and ``targets`` show: every rule with its equation and limits, every accelerator with its sources."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from convsurgeon.spellings.table import described
from convsurgeon.targets import Target, load_target, target_names


def rules_listing() -> list[dict[str, Any]]:
    """Every rule as plain data."""
    return [asdict(one) for one in described()]


def rules_shown() -> None:
    """Print every rule as a table."""
    table = Table("operator", "in 2-D", "limits", row_styles=("", "dim"))
    for one in described():
        spellings = ", ".join(one.spellings) or "any pointwise operator, as observed"
        table.add_row(*(text.replace("``", "") for text in (spellings, one.equation, one.limits)))
    Console().print(table, markup=False)


def targets_listing() -> list[dict[str, Any]]:
    """Every accelerator as plain data."""
    return [
        {
            "name": target.name,
            "title": target.title,
            "static_shapes": target.static_shapes,
            "limits": len(target.limits),
            "confirmed": sum(limit.confirmed is not None for limit in target.limits),
            "sources": _sources(target),
            "notes": target.notes,
        }
        for target in map(load_target, target_names())
    ]


def targets_shown() -> None:
    """Print every accelerator as a table."""
    table = Table("name", "accelerator, compiler", "limits", "confirmed", "by what", row_styles=("", "dim"))
    for one in targets_listing():
        kinds = ", ".join(dict.fromkeys(source.partition(":")[0] for source in one["sources"]))
        table.add_row(one["name"], one["title"], str(one["limits"]), str(one["confirmed"] or ""), kinds)
    Console().print(table, markup=False)


def _sources(target: Target) -> list[str]:
    """What the limits rest on, and what they are confirmed by."""
    cited = [source for limit in target.limits for source in (limit.source, limit.confirmed) if source is not None]
    return list(dict.fromkeys(f"{source.kind}: {source.document}, {source.date}" for source in (target.source, *cited)))
