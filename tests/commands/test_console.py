"""What is shown on a terminal, whatever the names of files are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from convsurgeon.commands import console


@pytest.mark.parametrize("name", ["{task}.safetensors", "{0}", "[/bold].ckpt", "plain"])
def test_names_are_shown_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "errors", Console(file=screen, force_terminal=True, width=200))
    with console.bytes_bar(name) as tell:
        tell(1, 2)
    with console.working(name):
        pass
    assert screen.getvalue().count(name) >= 2
