"""Which code is the user's, and where in it something was asked for or went wrong."""

from __future__ import annotations

import functools
import os
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import torch
from torch import fx

_LIBRARIES = tuple(
    f"{Path(folder)}{os.sep}"
    for folder in (Path(torch.__file__).parent, Path(__file__).parents[1], sysconfig.get_path("stdlib"))
)


def user_frames(frame: FrameType | None) -> tuple[tuple[str, int, str], ...]:
    """(file, line, function) of the user's own frames, outermost first, from `frame` out to the tracer's call."""
    found = []
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        if is_users_file(frame.f_code.co_filename):
            line = frame.f_lineno or frame.f_code.co_firstlineno
            found.append((frame.f_code.co_filename, line, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(reversed(found))


@functools.cache
def is_users_file(file: str) -> bool:
    """Whether a frame of this file is the user's code, not torch's, Python's or ours."""
    return not file.startswith(("<eval_with_key>", "<frozen", *_LIBRARIES)) or _is_installed_apart(file)


def _is_installed_apart(file: str) -> bool:
    """Whether a file below the standard library's folder is an installed package other than torch."""
    return "site-packages" in file and not file.startswith(_LIBRARIES[:2])


def where_in_user_code(error: BaseException) -> str:
    """The innermost line of the user's own code that an error passed through, or ""."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users_file(f.filename)]
    if not frames:
        return ""
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}"
