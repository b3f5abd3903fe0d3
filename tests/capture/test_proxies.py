"""What forward sets on values of a trace would be lost: it is refused, and left to the model's own Python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Constrained(nn.Conv1d):
    """A convolution whose weight never gets beyond a norm, as EEGNet's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
        return super().forward(x)


def test_a_parameter_whose_data_forward_sets_stays_with_the_models_own_python() -> None:
    model = nn.Sequential(Constrained(4, 4, 3), nn.ELU(), nn.Conv1d(4, 4, 1))
    model.get_parameter("0.weight").data.mul_(0.1)
    with pytest.raises(convsurgeon.CaptureError, match=r"in forward: self.weight.data = .*\n.*sets 0.weight.data, and"):
        convsurgeon.convert(model, X, capture="trace")
    module = convsurgeon.convert(model, X, copy_weights=True).module
    state = {name: tensor * 100 for name, tensor in model.state_dict().items()}
    for one in (model, module):
        one.load_state_dict(state)
    torch.testing.assert_close(module(X), model(X))


@dataclass
class Kept:
    seen: torch.Tensor
    inner: Any = None


def _of_the_argument(kept: Kept, x: torch.Tensor) -> None:
    kept.seen = x[..., -2:]


def _of_what_it_holds(kept: Kept, x: torch.Tensor) -> None:
    kept.inner.seen = x[..., -2:]


@pytest.mark.parametrize(
    ("step", "told"), [(_of_the_argument, "sets kept.seen"), (_of_what_it_holds, r"sets kept\.inner\.seen")]
)
def test_an_argument_whose_attribute_forward_sets_stays_with_it_too(step: Callable[..., None], told: str) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor, kept: Kept) -> torch.Tensor:
            seen = torch.cat([kept.seen, kept.inner.seen, x], -1)
            step(kept, x)
            y: torch.Tensor = self.a(seen)
            return y

    def fresh() -> Kept:
        return Kept(torch.zeros(2, 4, 2), Kept(torch.zeros(2, 4, 2)))

    model, sample = Steps().eval(), (X, fresh())
    with pytest.raises(convsurgeon.CaptureError, match=told):
        convsurgeon.convert(model, sample, capture="trace")
    module = convsurgeon.convert(model, sample).module
    assert torch.equal(sample[1].seen, torch.zeros(2, 4, 2))
    mine, theirs = fresh(), fresh()
    for _ in range(3):
        torch.testing.assert_close(module(X, mine), model(X, theirs))
    torch.testing.assert_close(mine.inner.seen, theirs.inner.seen)


def test_an_input_that_is_given_a_gradient_for_checkpoints_may_be() -> None:
    class Front(nn.Module):
        """As in wav2vec 2.0: a graph of both modes."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x[:, :]
            if self.training:
                x.requires_grad = True
            y: torch.Tensor = self.conv(x)
            return y

    model = Front()
    conversion = convsurgeon.convert(model, X, capture="trace", copy_weights=True)
    assert conversion.plan.capture.mode is None
    for one in (model, conversion.module):
        one(X).sum().backward()
    torch.testing.assert_close(conversion.module.get_parameter("conv.bias").grad, model.conv.bias.grad)


class Asks(nn.Module):
    """Pads what `asks` tells it to."""

    def __init__(self, asks: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.asks = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 2, 3), asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.asks(x):
            x = F.pad(x, (0, 3))
        return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


OF_SIZES: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tensor of odd length": lambda x: torch.is_tensor(x) and x.shape[-1] % 2,
    "an instance of odd length": lambda x: isinstance(x, torch.Tensor) and x.shape[-1] % 2,
    "a length in a set": lambda x: x.shape[-1] in {31, 33},
    "a shape in a set": lambda x: x.shape in {(2, 4, 31)},
    "a length in a table": lambda x: {31: True}.get(x.size(-1), False),
    "a length that is whole": lambda x: isinstance(x.shape[-1] / 2, int) or x.shape[-1] == 31,
}


@pytest.mark.parametrize("asked", OF_SIZES)
def test_what_is_decided_by_a_size_is_not_frozen(asked: str) -> None:
    net = Asks(OF_SIZES[asked])
    module = convsurgeon.convert(net, X).module
    for length in (16, 31):
        x = torch.randn(2, 4, length)
        with suppress(ValueError):  # an exported graph tells what it admits
            torch.testing.assert_close(module(x), net(x))


OF_CLASSES: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tensor": lambda x: isinstance(x, torch.Tensor),
    "a value": lambda x: torch.is_tensor(torch.relu(x) + 1),
    "no number": lambda x: not isinstance(x, (int, float)),
    "seen before": lambda x: x not in {torch.ones(1): 1},
}


@pytest.mark.parametrize("asked", OF_CLASSES)
def test_a_value_is_a_tensor_to_those_who_ask(asked: str) -> None:
    net = Asks(OF_CLASSES[asked])
    conversion = convsurgeon.convert(net, X, capture="trace")
    torch.testing.assert_close(conversion.module(X), net(X))


def test_what_was_taken_for_a_tensor_and_is_none_is_no_capture() -> None:
    class Recurrent(Asks):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: Any = torch.sort(self.a(x), -1)
            return self.b(y if isinstance(y, torch.Tensor) else y[0])  # type: ignore[no-any-return]

    net = Recurrent(torch.is_tensor)
    torch.testing.assert_close(convsurgeon.convert(net, X).module(X), net(X))
    with pytest.raises(convsurgeon.CaptureError):
        convsurgeon.convert(net, X, capture="trace")
