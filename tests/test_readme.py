"""README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from convsurgeon.rules.table import rules_table

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_rules_is_the_one_the_rules_make() -> None:
    shown = re.search(r"<!-- rules: .*? -->\n(.*?)\n<!-- end of rules -->", README, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == rules_table()


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", README, re.DOTALL).groups()  # type: ignore[union-attr]
    torch.manual_seed(0)
    exec(code, {})
    printed = capsys.readouterr().out
    assert without_figures(printed) == without_figures(output)


def without_figures(text: str) -> str:
    return " ".join(re.sub(r"\d\.\de[-+]\d\d", "FIGURE", text).split())


def test_ci_runs_the_command_that_readme_gives() -> None:
    script = (Path(__file__).parents[1] / ".ci/run").read_text(encoding="utf-8")
    command = re.search(r"pip install -e '\.\[test,models\]' && (.*)", README)
    assert command is not None
    assert script.splitlines()[-1] == command.group(1)
