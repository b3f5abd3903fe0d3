"""MODEL on a command line: ``package.module:callable``, ``file.py:callable``, or a program that torch.export saved.

The model's own Python file is run, for that is where the model is; nothing is unpickled that isn't weights, unless the
caller trusts the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.serialization import get_unsafe_globals_in_checkpoint

from convsurgeon.capture.places import where_in_user_code
from convsurgeon.errors import ConvSurgeonError, UnsupportedError
from convsurgeon.weights.placement import some_of

_ACCEPTED = "accepted: package.module:callable, file.py:callable, or the .pt2 file of an exported program"


class ModelError(ConvSurgeonError):
    """The model of a command line can't be had; says where it fails."""


@dataclass(frozen=True, slots=True)
class Given:
    """A model, and the samples that came with it (None if none did)."""

    model: nn.Module | ExportedProgram
    sample_inputs: Any

    @property
    def module(self) -> nn.Module:
        """The model as a module to call."""
        if not isinstance(self.model, ExportedProgram):
            return self.model
        found: nn.Module = self.model.module()
        return found


def model_of(spec: str, *, trust: bool) -> Given:
    """Find, import and call what `spec` names.

    Raises:
        ModelError: it can't be found, its code fails, or it isn't a model.
        UnsupportedError: a program that holds pickled code, and isn't trusted.
        OSError: the file can't be read.
    """
    if spec.endswith(".pt2"):
        return _program(spec, trust=trust)
    home, colon, name = spec.rpartition(":")
    if not colon or not home or not name:
        raise ModelError(f"MODEL is {spec!r}; {_ACCEPTED}")
    made = _made(_file(home) if home.endswith(".py") else _package(home), spec, name)
    if isinstance(made, tuple) and len(made) == 2:
        made, samples = made
    else:
        samples = None
    if not isinstance(made, (nn.Module, ExportedProgram)):
        raise ModelError(
            f"{spec} gives a {type(made).__name__}; accepted: a torch.nn.Module or an ExportedProgram, or a tuple of "
            "one and its sample inputs"
        )
    return Given(made, samples)


def _made(home: ModuleType, spec: str, name: str) -> Any:
    """What the callable returns; a model that stands there ready is taken as it is."""
    try:
        found = reduce(getattr, name.split("."), home)
    except AttributeError as error:
        known = [one for one, value in vars(home).items() if callable(value) and not one.startswith("_")]
        raise ModelError(f"{spec}: {error}; it has {some_of(known, ', ', 'names') or 'nothing to call'}") from error
    if isinstance(found, (nn.Module, ExportedProgram)):
        return found
    if not callable(found):
        raise ModelError(f"{spec} is a {type(found).__name__}; {_ACCEPTED}")
    with _telling(f"calling {spec}"):
        return found()


def _file(path: str) -> ModuleType:
    file = Path(path).resolve()
    if not file.is_file():
        raise ModelError(f"{path} is no file; {_ACCEPTED}")
    loader = importlib.util.spec_from_file_location(file.stem, file)
    if loader is None or loader.loader is None:
        raise ModelError(f"{path} is no Python file; {_ACCEPTED}")
    module = importlib.util.module_from_spec(loader)
    sys.modules.setdefault(file.stem, module)  # what the file defines is found again by its name, as pickling does
    _require_own_neighbours(file)
    sys.path.insert(0, str(file.parent))  # as for a script, whose neighbours can be imported
    with _telling(f"running {path}"):
        loader.loader.exec_module(module)
    return module


def _require_own_neighbours(file: Path) -> None:
    """Of two files, as ``verify`` takes, each must get what stands beside it, and a name can be imported but once.

    Raises:
        ModelError: what an earlier file imported from its folder stands beside this one too; says what can be done.
    """
    for name, module in list(sys.modules.items()):
        origin = Path(getattr(module, "__file__", None) or os.devnull).resolve()
        home = origin.parent.parent if origin.name == "__init__.py" else origin.parent
        beside = file.parent / origin.relative_to(home)
        if str(home) in sys.path and home != file.parent and beside != file and beside.is_file():
            raise ModelError(
                f"{file} would import {name!r} from {origin}, which is loaded, and not from beside it; convert one of "
                "the two models to a .pt2 file, and give that"
            )


def _package(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    with _telling(f"importing {name}"):
        return importlib.import_module(name)


@contextmanager
def _telling(doing: str) -> Iterator[None]:
    """What goes wrong in the user's code is told, with its line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # it may raise anything, or end as a script does, with a code of its own
        where = where_in_user_code(error)
        raise ModelError(
            f"{doing} failed" + (f"\n  at {where}" if where else "") + f"\n  {type(error).__name__}: {error}"
        ) from error


def _program(path: str, *, trust: bool) -> Given:
    if not trust:
        try:
            with zipfile.ZipFile(path) as archive:
                unsafe = sorted(set(_pickled_code(archive)))
        except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise ModelError(f"{path}: {error}; accepted: what torch.export.save wrote, whole") from error
        if unsafe:
            raise UnsupportedError(
                f"{path} holds pickled objects: {some_of(unsafe, ', ', 'more')}; loading them runs their code; if you "
                "trust where the file comes from, say --trust"
            )
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch's reader raises what it happens to meet
        raise ModelError(f"{path} can't be read by torch.export.load: {type(error).__name__}: {error}") from error
    return Given(program, None)


def _pickled_code(archive: zipfile.ZipFile) -> Iterator[str]:
    """What in a program's archive may run code of its own: classes by name, objects pickled whole, compiled parts.

    torch.export.load reads pickled weights and sample inputs with their code, where it can't without.
    """
    pickled = set()
    for name in archive.namelist():
        if name.endswith("_config.json"):
            payloads = json.loads(archive.read(name)).get("config", {}).values()
            pickled |= {f"{name.rpartition('/')[0]}/{one['path_name']}" for one in payloads if one.get("use_pickle")}
    for name in archive.namelist():
        if name.endswith(".pt") or name in pickled:
            content = archive.read(name)
            is_zip = zipfile.is_zipfile(io.BytesIO(content))
            yield from get_unsafe_globals_in_checkpoint(io.BytesIO(content)) if is_zip else [name]
        elif "aotinductor" in name:
            yield name
