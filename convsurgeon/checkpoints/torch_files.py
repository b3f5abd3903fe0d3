"""Files that torch.save wrote: state_dicts, and checkpoints that nest them beside optimizers and whatever else.

What is read is data alone, unless the caller trusts the file: pickled code is never run. Weights are mapped into
memory, not loaded, where the file is on this machine.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from convsurgeon.checkpoints.location import Location
from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import some_of
from convsurgeon.weights.state import Mover


def load_torch_file(source: Location, *, trust: bool) -> Any:
    """What is in the file, its tensors on the CPU; with `trust`, objects of any class, whose code is run.

    Raises:
        CheckpointError: it is no such file, or holds more than data and isn't trusted.
        OSError: it can't be read.
    """
    try:
        if source.is_local:
            return torch.load(
                source.path, map_location="cpu", weights_only=not trust, mmap=zipfile.is_zipfile(source.path)
            )
        with source.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise _not_data(source, error) from error
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{source} can't be read by torch.load: {type(error).__name__}: {_shortened(error)}; accepted: what "
            "torch.save wrote, whole"
        ) from error


def _not_data(source: Location, error: pickle.UnpicklingError) -> CheckpointError:
    try:
        with source.open("rb") as file:
            classes = get_unsafe_globals_in_checkpoint(file)
    except (
        RuntimeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
    ):  # no zip, or broken: then the first error tells
        classes = []
    if not classes:
        return CheckpointError(f"{source} can't be read: {_shortened(error)}; accepted: what torch.save wrote, whole")
    return CheckpointError(
        f"{source} holds more than weights: {some_of(sorted(classes), ', ', 'classes')}; loading it runs their code; "
        "if you trust where it comes from, say trust=True (--trust)"
    )


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def move_torch_file(source: Location, target: Location, mover: Mover, *, trust: bool) -> bool:
    """Write the file with what belongs to the model moved; False, and nothing written, where nothing does.

    Storages that tensors share are shared in the new file as well.

    Raises:
        CheckpointError: the file can't be read, or its entries don't fit; says which.
        OSError: it can't be read or written.
    """
    moved = mover.move(load_torch_file(source, trust=trust))
    if not mover.found:
        return False
    save_torch_file(moved, target)
    return True


def save_torch_file(content: Any, target: Location) -> None:
    """Write what torch.load will give back.

    Raises:
        OSError: it can't be written.
    """
    try:
        with target.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch's writer says that it failed, and not why
            raise error.__context__ from error
        raise


def shapes_in(source: Location, *, trust: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a plain state_dict by their keys, as shards of one are.

    Raises:
        CheckpointError: it can't be read, or is no state_dict.
    """
    content = load_torch_file(source, trust=trust)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} is a {type(content).__name__}; a shard is a state_dict")
    return {key: tuple(value.shape) for key, value in content.items() if isinstance(value, torch.Tensor)}
