"""What a model's other methods do with the layers of an island goes on as before: lengths, streaming, activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import ranks_of_convolutions
from torch import nn

import convsurgeon

X = torch.randn(4, 4, 64)


class Silent(nn.Module):
    """A block that nobody but others asks how long its result is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 4, 5, stride=2, padding=1), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Strided(Silent):
    """A block that tells how long its result is."""

    def out_length(self, n: int) -> int:
        conv = self.conv
        return through(n, conv.stride, conv.kernel_size, conv.padding)


def through(n: int, stride: Any, kernel: Any, padding: Any) -> int:
    return (n + 2 * padding[0] - kernel[0]) // stride[0] + 1


class Blocks(nn.Module):
    """Blocks in Python that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Strided() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if x.abs().mean() > 1e6:
                return x
            x = block(x)
        return x


class ByMethod(Blocks):
    def length(self, n: int) -> int:
        for block in self.blocks:
            n = block.out_length(n)
        return n


class ByLoop(Blocks):
    def length(self, n: int) -> int:
        for block in self.blocks:
            n = through(n, block.conv.stride, block.conv.kernel_size, block.conv.padding)
        return n


class ByPairs(Blocks):
    def length(self, n: int) -> int:
        for _, (block, conv) in enumerate((one, one.conv) for one in reversed(self.blocks)):
            n = through(n, conv.stride, conv.kernel_size, block.conv.padding)
        return n


class ByList(Blocks):
    def length(self, n: int) -> int:
        convs = [block.conv for block in self.blocks]
        for conv in [*convs[:1], convs[-1]]:
            n = through(n, conv.stride, conv.kernel_size, conv.padding)
        return n


class ByUnpacking(Blocks):
    def length(self, n: int) -> int:
        first, last = self.blocks
        for block in (first, last):
            n = through(n, block.conv.stride, block.conv.kernel_size, block.conv.padding)
        return n


class ByEveryModule(Blocks):
    def length(self, n: int) -> int:
        for module in self.modules():
            if isinstance(getattr(module, "conv", None), nn.Module):
                n = through(n, (held := module.conv).stride, held.kernel_size, held.padding)
        return n


class ByName(Blocks):
    def length(self, n: int) -> int:
        for name in ("blocks", "blocks"):
            block = getattr(self, name)[0]
            n = through(n, block.conv.stride, block.conv.kernel_size, block.conv.padding)
        return n


@pytest.mark.parametrize("kind", [ByMethod, ByLoop, ByPairs, ByList, ByUnpacking, ByEveryModule, ByName])
def test_lengths_are_told_from_the_originals_geometry(kind: type[nn.Module]) -> None:
    model: Any = kind().eval()
    for block in model.blocks if kind is not ByMethod else ():
        block.__class__ = Silent
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.islands == ("blocks.0", "blocks.1")
    assert conversion.module.length(64) == model.length(64) == 15
    assert set(ranks_of_convolutions(conversion.module, X)) == {(4, 4)}
    conversion.module.load_state_dict(model.state_dict())


def test_what_forward_alone_reads_leaves_the_layer_one() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(F.pad(x, (self.conv.kernel_size[0] - 1, 0)))
            return y

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads = Reads()

        def forward(self, x: torch.Tensor) -> Any:
            return x if x.abs().mean() > 1e6 else self.reads(x)

    conversion = convsurgeon.convert(Decides(), X)
    assert conversion.plan.capture.islands == ("reads",)
    assert type(conversion.module.get_submodule("reads.conv")) is nn.Conv2d


class CausalConv1d(nn.Conv1d):
    """A streaming layer, which computes with its own weight step by step too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (self.kernel_size[0] - 1, 0)))

    def step(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([state, x], -1))

    def step_by_function(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return F.conv1d(torch.cat([state, x], -1), self.weight, self.bias)


class Streams(nn.Module):
    """Goes through layers one by one, and into them, beside its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.causal = CausalConv1d(4, 4, 3)
        self.features = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 3, padding=1))
        self.block = Steps()

    def forward(self, x: torch.Tensor) -> Any:
        return x if x.abs().mean() > 1e6 else self.block(self.features(self.causal(x)))

    def streamed(self, x: torch.Tensor) -> torch.Tensor:
        return self.causal.step(x[..., :1], x[..., 1:3])

    def streamed_by_function(self, x: torch.Tensor) -> torch.Tensor:
        return self.causal.step_by_function(x[..., :1], x[..., 1:3])

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            found.append(x + i)
        return torch.cat(found, 1)

    def first(self, x: torch.Tensor) -> Any:
        return self.features[0](x)

    def stepped(self, x: torch.Tensor) -> torch.Tensor:
        return self.block.step(x)


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({"one": nn.Conv1d(4, 4, 3), "two": nn.Conv1d(4, 4, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.helper(torch.relu(x))

    def helper(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs.values():
            x = conv(x)
        return x

    def step(self, x: torch.Tensor) -> torch.Tensor:
        for _, conv in self.convs.items():
            x = conv.forward(torch.relu(x))
        return x


@pytest.mark.parametrize("way", ["streamed", "streamed_by_function", "activations", "first", "stepped"])
def test_layers_that_other_methods_call_are_called_in_1d(way: str) -> None:
    model = Streams().eval()
    conversion = convsurgeon.convert(model, X)
    module = conversion.module
    torch.testing.assert_close(getattr(module, way)(X), getattr(model, way)(X))
    assert conversion.plan.capture.islands == ("features.0", "features.2", "block.convs.one", "block.convs.two")
    assert conversion.plan.in_place == ("causal",)
    assert set(ranks_of_convolutions(module, X)) == {(4, 4)}


def test_helpers_of_forward_are_no_other_methods() -> None:
    class Helped(Streams):
        def __init__(self) -> None:
            super().__init__()
            self.block = Helper()

        def activations(self, x: torch.Tensor) -> torch.Tensor:
            return x

        first: Callable[..., Any] = activations

    class Helper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._helper(x)

        def _helper(self, x: torch.Tensor) -> Any:
            return torch.relu(self.conv(x))

    assert "block" in convsurgeon.convert(Helped().eval(), X).plan.capture.islands
