"""What every command says, and how it ends: text for people, JSON for machines, errors on the error stream."""

from __future__ import annotations

import enum
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from convsurgeon.errors import ConvSurgeonError, EquivalenceError, MisfitError


class Code(enum.IntEnum):
    """How a command ends."""

    DONE = 0
    DIFFERS = 1
    BAD_INPUT = 2
    NOTHING_CONVERTED = 3
    DEFECT = 70


errors = Console(stderr=True)
"""Where errors and progress are shown; progress only if it is a terminal."""


def show(text: str, data: Any, *, as_json: bool) -> None:
    """Print the one or the other to standard output."""
    typer.echo(json_text(data) if as_json else text)


def json_text(data: Any) -> str:
    """The data as JSON, which has no word for what is infinite or no number: these become "inf" and "nan"."""
    return json.dumps(_plain(data), indent=1, allow_nan=False)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Tell of an error that is the caller's to mend in words, without a traceback, and end with its code.

    What the model prints meanwhile goes to the error stream: standard output is for the result, which may be piped.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ConvSurgeonError, ValueError, TypeError, OSError) as error:
        if as_json:
            typer.echo(json_text({"error": type(error).__name__, "message": str(error)}))
        else:
            errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        code = Code.DIFFERS if isinstance(error, (EquivalenceError, MisfitError)) else Code.BAD_INPUT
        raise typer.Exit(code) from error


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something takes its time, on a terminal."""
    if not errors.is_terminal:
        yield
        return
    with errors.status(Text(what)):
        yield


@contextmanager
def share_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told what share of something is done, on a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many bytes of how many are done, on a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell
