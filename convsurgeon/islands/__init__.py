"""The largest submodules that can be captured where the whole model can not: its Python stays around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from convsurgeon.capture import Capture, capture_model
from convsurgeon.converted.module import hidden_attributes, hidden_state
from convsurgeon.errors import ConvSurgeonError
from convsurgeon.islands.readers import Reads, reads_of
from convsurgeon.islands.recording import Recording, record
from convsurgeon.islands.standing import can_become_another
from convsurgeon.parts import Part
from convsurgeon.runs.faithful import Call, computes_the_same, mistakes_a_value
from convsurgeon.runs.observe import Facts, observe
from convsurgeon.samples import Sample

__all__ = ["Islands", "find_islands"]

_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


@dataclass(frozen=True, slots=True)
class Islands:
    """The islands of a model; `reasons` says by name why what convolves is none.

    `in_place` names the modules whose own Python calls convolutions that are in no island.
    """

    parts: list[Part]
    reasons: dict[str, str]
    in_place: tuple[str, ...]


def find_islands(model: nn.Module, samples: tuple[Sample, ...]) -> Islands:
    """The largest submodules of `model` that can be captured, and what convolves outside them."""
    recording = record(model, samples)
    search = _Search(model, recording, reads_of(model))
    parts = [part for name, child in _children(model, "") for part in search.visit(name, child)]
    covered = [part.path for part in parts]
    rest = {path for path in recording.themselves if not any(_is_inside(path, island) for island in covered)}
    return Islands(parts, search.reasons, tuple(sorted(rest)))


def _is_inside(path: str, island: str) -> bool:
    return path == island or path.startswith(f"{island}.")


class _Search:
    """A descent from the model's children: what can be captured is an island, into what can't it goes on."""

    def __init__(self, model: nn.Module, recording: Recording, reads: Reads) -> None:
        self._recording = recording
        self._reads = reads
        self._seen: set[int] = set()
        self._modules = _names(model.named_modules(remove_duplicate=False))
        self._parameters = _names(model.named_parameters(remove_duplicate=False))
        self.reasons: dict[str, str] = {}

    def visit(self, path: str, module: nn.Module) -> Iterator[Part]:
        """The islands at and below a submodule."""
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        if path not in self._recording.convolves:
            if isinstance(module, _CONVOLUTIONS) and path not in self._recording.calls:
                if f"{path}.weight" not in self._recording.readers:
                    self.reasons[path] = "no sample reaches it"
            elif not self._recording.calls.get(path):
                for name, child in _children(module, path):
                    yield from self.visit(name, child)
            return
        try:
            yield self._island(path, module)
        except ConvSurgeonError as error:
            self.reasons[path] = str(error).partition("\n  a trace records")[0]
        except _NoIsland as reason:
            self.reasons[path] = str(reason)
        else:
            return
        for name, child in _children(module, path):
            yield from self.visit(name, child)

    def _island(self, path: str, module: nn.Module) -> Part:
        """The captured submodule, which computes what it did in each call that was recorded.

        Raises:
            CaptureError: it can't be traced.
            _NoIsland: a graph would not be what the submodule is.
        """
        calls = self._recording.calls.get(path, [])
        if not calls:
            raise _NoIsland("it runs without being called as a module")
        if len(self._recording.kinds[path]) > 1 and not isinstance(module, _CONVOLUTIONS):
            raise _NoIsland("it is called in ways that differ")
        inside = f"{path}."
        for name, callers in self._recording.callers.items():
            if name.startswith(inside) and any(path not in stack for stack in callers):
                raise _NoIsland(f"{name}, inside it, is also called from outside")
        for one in module.modules():
            for name in self._modules[id(one)]:
                if not any(_is_inside(name, alias) for alias in self._modules[id(module)]):
                    raise _NoIsland(f"one of its modules is {name} as well, outside it")
        if path in self._reads.calls:
            called, caller = self._reads.calls[path]
            who = "its own" if caller == path else f"{caller}'s" if caller else "the model's"
            raise _NoIsland(f"{called}, inside it, is called by {who} methods as well")
        if path in self._reads.themselves:
            raise _NoIsland("another method than forward computes with its own weight")
        if isinstance(module, torch.jit.ScriptModule):
            raise _NoIsland("it is a scripted module")
        if not can_become_another(module):
            raise _NoIsland(f"{type(module).__name__} has __slots__, or a layout in memory of its own")
        if hidden := [*hidden_state(module), *hidden_attributes(module)]:
            raise _NoIsland(f"{type(module).__name__}.{hidden[0]} has a name that torch.fx.GraphModule uses for itself")
        pinned, opened = self._pinned(path), self._opened(path)
        captured = capture_model(module, calls[0].sample, path=path, pinned=pinned, opened=opened)
        if captured.mode is not None:
            raise _NoIsland(f"its graph would be frozen to {captured.mode} mode: {captured.reason}")
        facts = _observed(captured, calls)
        captured.restore_buffers(module)
        return Part(captured, facts, tuple(call.sample for call in calls))

    def _pinned(self, path: str) -> Mapping[str, str]:
        """The weights inside that are read elsewhere too, and so have to keep their shape."""
        inside = f"{path}."
        found = {f"{name}.weight": "is read by a method of the model" for name in self._reads.weights}
        for name, readers in self._recording.readers.items():
            if any(path not in stack for stack in readers):
                found[name] = "is read outside this part of the model"
        for names in self._parameters.values():
            outside = [name for name in names if not name.startswith(inside)]
            found |= {name: f"is also that of {outside[0]}" for name in names if outside and name not in outside}
        return {name.removeprefix(inside): why for name, why in found.items() if name.startswith(inside)}

    def _opened(self, path: str) -> frozenset[str]:
        """The convolutions inside whose geometry others read than its forward: they stay, and hold the weight."""
        inside = f"{path}."
        return frozenset(
            name.removeprefix(inside)
            for reader, name in self._reads.geometry
            if name.startswith(inside) and not reader.startswith(inside)
            if reader != path or (reader, name) in self._reads.methods
        )


class _NoIsland(Exception):
    """Why a submodule can't be an island."""


def _names(named: Iterable[tuple[str, object]]) -> dict[int, list[str]]:
    """Every name of each object."""
    found: dict[int, list[str]] = {}
    for name, one in named:
        found.setdefault(id(one), []).append(name)
    return found


def _children(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        yield f"{path}.{name}".removeprefix("."), child


def _observed(captured: Capture, calls: list[Call]) -> Facts:
    """The facts of the first call.

    Raises:
        _NoIsland: in one of the calls, the graph computes something else than the submodule did.
    """
    try:
        facts = observe(captured, calls[0].sample).facts
        faithful = not mistakes_a_value(captured, facts) and all(computes_the_same(captured, call) for call in calls)
    except Exception as error:  # the graph holds the user's own operations, which may raise anything
        raise _NoIsland(f"its graph fails where it doesn't: {type(error).__name__}: {error}") from error
    if captured.refilled:
        raise _NoIsland("it fills a tensor that it makes of no input, and a graph has one of these for all calls")
    if not faithful:
        raise _NoIsland("its graph computes something else than it did: forward takes decisions in Python")
    return facts
