"""State that forward keeps in containers and objects, however deep, is no part of a graph; it is seen, and put back."""

from __future__ import annotations

import functools
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import converted_and_equal
from torch import nn

import convsurgeon
from convsurgeon.capture.state import noticed, undone

X = torch.randn(2, 4, 16)


@dataclass(slots=True)
class Slotted:
    seen: Any = None


@dataclass
class Cell:
    seen: Any = None

    def step(self) -> Any:
        self.seen += 1
        return self.seen


class Keeps(nn.Module):
    """Adds what it kept to its input, and keeps another number or tensor: a branch leaves it to torch.export."""

    def __init__(self, state: Any, step: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.state, self.step = nn.Conv1d(4, 4, 3), state, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x if x.shape[-1] > 100 else x + self.step(self.state, x))
        return y


def _by_name(state: dict[str, Any], x: torch.Tensor) -> Any:
    before = state.get("seen")
    state["seen"] = x.mean()
    return 0 if before is None else before


def _as_attribute(state: Any, x: torch.Tensor) -> Any:
    before, state.seen = state.seen, x.mean()
    return 0 if before is None else before


def _appended(state: Any, x: torch.Tensor) -> Any:
    state.append(x.mean())
    return len(state)


def _added(state: set[int], x: torch.Tensor) -> Any:
    state.add(len(state))
    return len(state)


def _counted(state: Any, x: torch.Tensor) -> Any:
    state["of"][0].seen += 1
    return state["of"][0].seen


def _counted_up(state: Any, x: torch.Tensor) -> Any:
    state += 1
    return float(state[0])


def _written(state: list[torch.Tensor], x: torch.Tensor) -> Any:
    return state[0].add_(1)


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], Any]]] = {
    "dict": (dict, _by_name),
    "ordered": (OrderedDict, _by_name),
    "list": (list, _appended),
    "deque": (lambda: deque([1, 2], maxlen=9), _appended),
    "set": (set, _added),
    "dataclass": (Cell, _as_attribute),
    "slots": (Slotted, _as_attribute),
    "namespace": (lambda: SimpleNamespace(seen=None), _as_attribute),
    "counter, deep": (lambda: {"of": (Cell(0),)}, _counted),
    "array": (lambda: np.zeros(2), _counted_up),
    "random": (lambda: [random.Random(0)], lambda state, x: state[0].random()),
    "random array": (lambda: {"of": np.random.default_rng(0)}, lambda state, x: state["of"].random()),
    "iterator": (lambda: itertools.count(1), lambda state, x: next(state)),
    "bound": (lambda: functools.partial(Cell(0).step), lambda state, x: state()),
    "tensor in a list": (lambda: [torch.zeros(())], _written),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    state, step = KINDS[request.param]
    return nn.Sequential(Keeps(state(), step), nn.ReLU()).eval()


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_a_graph_that_would_forget_is_refused(model: nn.Module, capture: Any) -> None:
    with pytest.raises(convsurgeon.CaptureError):
        convsurgeon.convert(model, X, capture=capture)


def test_state_stays_with_the_models_own_python(model: nn.Module) -> None:
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    assert conversion.plan.capture.how == "islands"
    for _ in range(3):
        torch.testing.assert_close(conversion.module(X), model(X))


def test_what_changed_is_named(model: nn.Module) -> None:
    with noticed(model) as left:
        model(X)
    assert left.attribute == "0.state"


WRITTEN_IN_C = {"array", "random", "random array", "iterator", "tensor in a list"}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - WRITTEN_IN_C))
def test_what_changed_is_put_back(kind: str) -> None:
    state, step = KINDS[kind]
    model = Keeps(state(), step)
    with undone(model):
        first = model(X)
    torch.testing.assert_close(model(X), first)


def test_what_only_fills_a_cache_is_a_graph_all_the_same() -> None:
    def cached(state: dict[Any, Any], x: torch.Tensor) -> Any:
        key = len(x.shape)
        if key not in state:
            state[key] = torch.arange(4.0)[:, None]
        return state[key]

    assert converted_and_equal(Keeps({}, cached).eval(), X).plan.capture.how == "export"


class Draws(nn.Module):
    """Adds noise from a generator that it finds where it was put."""

    def __init__(self, held: Any, find: Callable[[Any], torch.Generator], longest: int) -> None:
        super().__init__()
        self.conv, self.held, self.find, self.longest = nn.Conv1d(4, 4, 3), held, find, longest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.longest and x.shape[-1] > self.longest:
            return x
        y: torch.Tensor = self.conv(x + torch.randn(1, generator=self.find(self.held)))
        return y


GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], torch.Generator]]] = {
    "attribute": (torch.Generator, lambda held: held),
    "list": (lambda: [torch.Generator()], lambda held: held[0]),
    "deep": (lambda: {"of": SimpleNamespace(seen=torch.Generator())}, lambda held: held["of"].seen),
}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize(
    ("capture", "longest", "told"),
    [
        ("trace", 0, "draws random numbers that depend on no input"),
        ("export", 100, "draws from a generator of its own"),
    ],
)
def test_a_generator_of_the_model_goes_on_in_its_own_python(kind: str, capture: Any, longest: int, told: str) -> None:
    make, find = GENERATORS[kind]
    model = Draws(make(), find, longest).eval()
    with pytest.raises(convsurgeon.CaptureError, match=told):
        convsurgeon.convert(model, X, capture=capture)
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.how == "islands"
    for _ in range(3):
        torch.testing.assert_close(conversion.module(X), model(X))
