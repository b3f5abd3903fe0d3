"""An island stands in the place of its submodule everywhere, and not only in the tree of modules."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import assert_same, ranks_of_convolutions
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Step:
    """Holds a layer in an object of the user's."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


HELD: dict[str, Callable[[list[nn.Module]], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": lambda layers: dict(enumerate(layers)),
    "keys": lambda layers: dict.fromkeys(layers, 1.0),
    "pairs": lambda layers: [(layer, 1.0) for layer in layers],
    "partials": lambda layers: [functools.partial(layer) for layer in layers],
    "objects": lambda layers: [Step(layer) for layer in layers],
}


def callables(held: Any) -> Iterator[Any]:
    for one in held.values() if isinstance(held, dict) and 0 in held else held:
        yield one[0] if isinstance(one, tuple) else one.layer if isinstance(one, Step) else one


class Listed(nn.Module):
    """Calls its layers by what it holds them in beside its tree, in Python that can't be traced."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.BatchNorm1d(4), nn.ReLU())
        self.last = nn.Conv1d(4, 4, 3, padding=1, groups=4)
        self.held = HELD[held]([self.first, self.last])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in callables(self.held):
            x = layer(x)
            if x.abs().mean() > 1e6:
                break
        return x


@pytest.mark.parametrize("held", HELD)
def test_what_is_held_outside_the_tree_is_converted_as_well(held: str) -> None:
    model = Listed(held).eval()
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.islands == ("first", "last")
    for module in (conversion.module, copy.deepcopy(conversion.module), pickle.loads(pickle.dumps(conversion.module))):
        assert ranks_of_convolutions(module, X) == [(4, 4), (4, 4)]
        torch.testing.assert_close(module(X), model(X))
        assert module.first.graph.owning_module is module.first
        module.load_state_dict(model.state_dict())
    assert isinstance(model.first, nn.Sequential)


class Slotted(nn.Conv1d):
    """Keeps something beside its ``__dict__``, so that its objects can't be of another class."""

    __slots__ = ("scale",)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Chooses(nn.Module):
    """Around a layer with slots, Python that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Slotted(4, 4, 1), nn.Conv1d(4, 4, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[int(x.sum() > 1e9)](x) + self.layers[1](x)


def test_a_class_with_slots_is_no_island_and_computed_in_place() -> None:
    conversion = convsurgeon.convert(Chooses().eval(), X)
    assert conversion.plan.capture.islands == ("layers.1",)
    assert conversion.plan.in_place == ("layers.0",)


class Measured(nn.Module):
    """Counts and looks through the layers of a part, and calls none."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return x if x.abs().mean() > 1e6 else self.features(x)

    def told(self) -> Any:
        channels = [layer.out_channels for layer in self.features if hasattr(layer, "out_channels")]
        kernels = [layer.kernel_size for layer in self.features if hasattr(layer, "kernel_size")]
        return len(self.features), channels, kernels, self.features[-1].in_channels, len(self.features[1:])


def test_a_container_that_is_an_island_has_length_and_members() -> None:
    model = Measured().eval()
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.islands == ("features",)
    for module in (conversion.module, copy.deepcopy(conversion.module), pickle.loads(pickle.dumps(conversion.module))):
        assert module.told() == model.told()
        torch.testing.assert_close(module(X), model(X))
        assert 2 * len(module.features) == 6


@pytest.mark.parametrize("name", ["meta", "code", "_graph"])
@pytest.mark.parametrize("held", [{"name": "block"}, nn.Parameter(torch.ones(4, 1))], ids=["attribute", "parameter"])
def test_what_a_graph_in_its_place_would_hide_stays(name: str, held: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)
            setattr(self, name, held)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).relu()

    model = Listed("list").eval()
    model.held.append(Block())
    model.block = model.held[-1]
    conversion = convsurgeon.convert(model, X, capture="islands")
    assert isinstance(conversion.module.block, Block)
    assert_same(getattr(conversion.module.block, name), held)
    assert ranks_of_convolutions(conversion.module, X)[-1] == (4, 4)
