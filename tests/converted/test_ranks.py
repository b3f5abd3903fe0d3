"""Arguments of another rank than the samples' are refused in words, wherever something in 2-D follows from them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(4, 3, 20)


class Gated(nn.Module):
    """Softmax over the channels, which stand elsewhere in an unbatched value, and a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 2, 3)

    def forward(self, x: torch.Tensor, gain: Any = 1.0) -> torch.Tensor:
        y = self.a(x)
        return self.b(y * torch.softmax(y, 1) * gain)  # type: ignore[no-any-return]


def converted(*samples: Any, **options: Any) -> Any:
    return convsurgeon.convert(Gated(), list(samples), **options).module


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_an_unbatched_value_after_batched_ones(capture: Any) -> None:
    module = converted(X, capture=capture)
    for one in (module, pickle.loads(pickle.dumps(module))):
        with pytest.raises(ValueError, match="argument 'x' had 3 axes in the samples"):
            one(X[0])


def test_a_tensor_after_numbers() -> None:
    module = converted((X, 0.5))
    assert module(X, 2.0).shape == module(X, torch.tensor(2.0)).shape
    with pytest.raises(ValueError, match="argument 'gain' was a number in the samples"):
        module(X, torch.rand(4, 1, 1))


def test_all_that_were_in_samples() -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU())
    module = convsurgeon.convert(net, [X, X[0]]).module
    for x in (X, X[0]):
        torch.testing.assert_close(module(x), net(x))
    with pytest.raises(ValueError, match="'input' had 2 or 3 axes"):
        module(X[None])


def test_inputs_in_2d() -> None:
    module = converted(X, io="2d")
    assert module(X[:, :, None]).dim() == 4
    with pytest.raises(ValueError, match="argument 'x' had 4 axes"):
        module(X)


def test_what_only_1d_follows_from_may_have_any_rank() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 3)

        def forward(self, x: torch.Tensor, other: torch.Tensor) -> Any:
            return self.conv(x), other.flatten(-1) + 1

    module = convsurgeon.convert(Beside(), (X, torch.randn(3))).module
    assert module(X, torch.randn(2, 3))[1].shape == (2, 3)


@pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")
def test_it_is_traced_scripted_and_compiled() -> None:
    module = converted(X)
    for one in (
        torch.fx.symbolic_trace(module),
        torch.jit.trace(module, X),
        torch.jit.script(convsurgeon.convert(nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), X).module),
        torch.compile(module, backend="eager", fullgraph=True),
        torch.export.export(module, (X,)).module(),
    ):
        assert one(X).dim() == 3
    assert not [node for node in module.graph.nodes if node.target in (isinstance, "dim")]


def test_an_argument_that_hides_what_is_asked_by() -> None:
    class Hiding(Gated):
        def forward(self, x: torch.Tensor, torch: Any = 1.0) -> Any:
            return self.b(self.a(x) * torch)

    net = Hiding()
    torch.testing.assert_close(convsurgeon.convert(net, X).module(X), net(X))
