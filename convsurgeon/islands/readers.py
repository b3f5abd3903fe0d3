"""Who reads a convolution's weight or geometry, or calls a module inside another, as the source says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from convsurgeon.islands.sources import EACH, Place, mentions_in

_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


@dataclass(slots=True)
class Reads:
    """What methods do with convolutions, by qualified names.

    `weights`: the convolutions below a module of which a method of that module reads the weight. `geometry`: (reader,
    convolution) for each whose strides and the like are read. `methods`: those of the latter that are read by another
    method than forward. `calls`: by a module's name, what inside it is called beside its forward, and by whom.
    `themselves`: the convolutions of the user's that have a method which computes with their own weight.
    """

    weights: set[str] = field(default_factory=set)
    geometry: set[tuple[str, str]] = field(default_factory=set)
    methods: set[tuple[str, str]] = field(default_factory=set)
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    themselves: set[str] = field(default_factory=set)


def reads_of(root: nn.Module) -> Reads:
    """What the methods of every module say they do with the convolutions below it."""
    reads = Reads()
    for path, module in root.named_modules(remove_duplicate=False):
        kind: Any = type(module)
        for mention in mentions_in(kind):
            if mention.place == () and mention.what in ("weight", "super"):
                if isinstance(module, _CONVOLUTIONS) and not mention.with_forward:
                    reads.themselves.add(path)
                continue
            for name, found, rest in _at(module, path, mention.place):
                if mention.what == "call":
                    if name != path and rest in ((), ("forward",)):
                        _note_call(reads, path, name, found, with_forward=mention.with_forward)
                elif name != path:
                    _note_read(reads, path, name, found, weight=mention.what == "weight", traced=mention.by_forward)
    return reads


def _at(module: nn.Module, path: str, place: Place) -> Iterator[tuple[str, nn.Module, Place]]:
    """The modules at a place, as far as it leads through modules, and what is left of it."""
    if place and place[0] == EACH:
        for name, child in module.named_children():
            yield from _at(child, f"{path}.{name}".removeprefix("."), place[1:])
    elif place and (held := module._modules.get(place[0])) is not None:
        yield from _at(held, f"{path}.{place[0]}".removeprefix("."), place[1:])
    else:
        yield path, module, place


def _note_read(reads: Reads, reader: str, name: str, module: nn.Module, *, weight: bool, traced: bool) -> None:
    for below, holder in module.named_modules():
        if isinstance(holder, _CONVOLUTIONS):
            convolution = f"{name}.{below}".removesuffix(".")
            if weight:
                reads.weights.add(convolution)
            else:
                reads.geometry.add((reader, convolution))
                if not traced:
                    reads.methods.add((reader, convolution))


def _note_call(reads: Reads, caller: str, called: str, module: nn.Module, *, with_forward: bool) -> None:
    """Note a call in whatever it reaches into, where a graph in that place would not serve it."""
    outer, around = [] if with_forward else [caller], called.rpartition(".")[0]
    while len(around) > len(caller):
        outer.append(around)
        around = around.rpartition(".")[0]
    if outer and any(isinstance(one, _CONVOLUTIONS) for one in module.modules()):
        reads.calls.update(dict.fromkeys(outer, (called, caller)))
