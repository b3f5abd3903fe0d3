"""What ``rules`` shows: every rule with its equation, how its operators are written, and its limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from convsurgeon.rules.table import described


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
