"""README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from convsurgeon.commands import app
from convsurgeon.exact import REWRITES
from convsurgeon.spellings.table import rules_table

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_rules_is_the_one_the_rules_make() -> None:
    shown = re.search(r"<!-- rules: .*? -->\n(.*?)\n<!-- end of rules -->", README, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == rules_table()


def test_the_table_of_exact_rewrites_is_theirs() -> None:
    shown = re.search(r"<!-- exact rewrites: .*? -->\n(.*?)\n<!-- end of exact rewrites -->", README, re.DOTALL)
    assert shown is not None
    rows = {
        f"| `{one.name}{f':{one.limit}' if one.limit else ''}` | {one.equation} | {one.limits} |".replace("``", "`")
        for one in REWRITES.values()
    }
    assert set(shown.group(1).splitlines()[2:]) == rows


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


def test_the_commands_print_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n([^`]*?def build.*?)```", README, re.DOTALL)
    session = "".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
    (tmp_path / "net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    model: dict[str, Any] = {}
    exec(code, model)
    save_file(model["build"]().state_dict(), tmp_path / "net.safetensors")
    for command, expected in re.findall(r"^\$ convsurgeon (.*)\n((?:[^$].*\n|\n)*)", session, re.MULTILINE):
        done = CliRunner().invoke(app, command.split())
        assert done.exit_code == (1 if command.startswith("fit") else 0), done.output
        assert shape_of(done.stdout) == shape_of(expected), command
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def shape_of(text: str) -> str:
    """A text without what differs from run to run and machine to machine."""
    return re.sub(
        r"\d\.\de[-+]\d\d|\d+\.\d+|\d+ threads|^.*torch \S+", "FIGURE", without_lines(text), flags=re.MULTILINE
    )


def without_lines(text: str) -> str:
    return " ".join(re.sub(r"[─━│┃┏┓┗┛┡┩┴┳╇└┘]", " ", text).split())
