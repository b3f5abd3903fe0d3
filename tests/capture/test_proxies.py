"""What forward sets on values of a trace would be lost: it is refused, and left to the model's own Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
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
