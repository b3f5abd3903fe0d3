"""The rules as a table for people: what README shows, and a test holds it to."""

from __future__ import annotations

from convsurgeon.rules.base import RULES


def rules_table() -> str:
    """Every rule in Markdown: its operators, and what they become, which is the first line of its docstring."""
    operators: dict[str, list[str]] = {}
    for rule in RULES.values():
        operators.setdefault(rule.equation, []).append(f"`{rule.operator}`")
    rows = [f"| {', '.join(names)} | {equation.replace('``', '`')} |" for equation, names in operators.items()]
    return "\n".join(["| operator | in 2-D |", "| --- | --- |", *rows])


if __name__ == "__main__":
    print(rules_table())
