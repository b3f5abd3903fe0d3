"""A class that saves, loads or pickles in its own way goes on so: as the root, as an island, inside of a graph."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 3, 8)


class Net(nn.Module):
    """Has extra state, and a version since which its gain is twice as much."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv1d(3, 3, 1), nn.Parameter(torch.ones(1) * 1.5)
        self.vocabulary = {"a": 1}

    def get_extra_state(self) -> Any:
        return {"vocabulary": self.vocabulary}

    def set_extra_state(self, state: Any) -> None:
        self.vocabulary = state["vocabulary"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if (local_metadata.get("version") or 1) < 2:
            state_dict[f"{prefix}gain"] = state_dict[f"{prefix}gain"] * 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x) * self.gain


class Around(nn.Module):
    """Python that can't be traced around a part."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return x if float(x.detach().abs().mean()) > 1e6 else self.inner(x)


PLACES: dict[str, tuple[Callable[[nn.Module], nn.Module], str, type[nn.Module]]] = {
    "root": (lambda module: module, "", convsurgeon.ConvertedModule),
    "island": (Around, "inner", convsurgeon.ConvertedModule),
    "inside a graph": (nn.Sequential, "0", convsurgeon.Scope),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda module: module,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "converted again": lambda module: convsurgeon.convert(module, X).module,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("place", PLACES)
def test_state_is_saved_and_loaded_as_the_class_does(place: str, how: str) -> None:
    put, path, kind = PLACES[place]
    model, other = put(Net()).eval(), put(Net()).eval()
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    module = COPIES[how](conversion.module)
    found: Any = module.get_submodule(path)
    assert isinstance(found, kind)
    assert list(module.state_dict()) == list(model.state_dict())
    assert module.state_dict()._metadata == model.state_dict()._metadata
    state: Any = other.state_dict()
    state[f"{path}._extra_state".removeprefix(".")] = {"vocabulary": {"b": 2}}
    assert module.load_state_dict(state) == ([], [])
    torch.testing.assert_close(module(X), other(X))
    assert found.get_extra_state() == {"vocabulary": {"b": 2}}
    for where in state._metadata.values():
        where["version"] = 1
    assert module.load_state_dict(state) == other.load_state_dict(state) == ([], [])
    torch.testing.assert_close(module(X), other(X))
    model.load_state_dict(conversion.weight_map.to_1d(module.state_dict()))
    torch.testing.assert_close(model(X), other(X))


class Guarded(nn.Module):
    """Holds a lock, which is no part of what is pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lock, self.used = nn.Conv1d(3, 3, 1), threading.Lock(), 3

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("place", ["island", "inside a graph"])
def test_what_a_class_does_not_pickle_is_made_anew(place: str, how: str) -> None:
    put, path, kind = PLACES[place]
    model = put(Guarded()).eval()
    module = COPIES[how](convsurgeon.convert(model, X).module)
    torch.testing.assert_close(module(X), model(X))
    found: Any = module.get_submodule(path)
    assert isinstance(found, kind)
    assert (type(found.lock), found.used) == (type(threading.Lock()), 3)


class Registered(nn.Module):
    """Keeps every subclass, and asks each for a name."""

    known: dict[str, type[nn.Module]] = {}  # noqa: RUF012  # as registries are

    def __init_subclass__(cls, *, name: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        Registered.known[name] = cls

    def get_extra_state(self) -> int:
        return 1

    def set_extra_state(self, state: int) -> None:
        assert state == 1


class Named(Registered, name="named"):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize("place", PLACES)
def test_no_class_is_made_of_the_users(place: str) -> None:
    model = PLACES[place][0](Named()).eval()
    module = convsurgeon.convert(model, X).module
    assert Registered.known == {"named": Named}
    assert module.load_state_dict(model.state_dict()) == ([], [])
