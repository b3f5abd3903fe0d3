"""Tables as plain text."""

from __future__ import annotations

import io

from convsurgeon.clones.rng import preserved_random_state

with preserved_random_state():  # rich draws a number as it is imported
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

__all__ = ["Table", "escape", "table_text"]

_WIDTH = 100


def table_text(table: Table) -> str:
    """The table as it is printed where there are no colours, in 100 columns."""
    text = io.StringIO()
    Console(file=text, width=_WIDTH, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
