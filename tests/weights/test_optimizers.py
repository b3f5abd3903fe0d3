"""Training goes on in the converted model, with the optimizer that began it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon
from convsurgeon import CheckpointError

X, Y = torch.randn(4, 3, 20), torch.randn(4, 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.deep = nn.Sequential(nn.Conv1d(8, 8, 3, groups=4), nn.ReLU(), nn.ConvTranspose1d(8, 4, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.deep(torch.relu(self.norm(self.conv(x)))).mean(-1))


def in_groups(model: nn.Module, *, named: bool = False) -> list[dict[str, Any]]:
    """Two groups in no order of the model's: weights with decay, the rest without."""
    heavy = [(n, p) for n, p in model.named_parameters() if p.dim() > 1]
    light = [(n, p) for n, p in model.named_parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": heavy[::-1], "weight_decay": 0.1}, {"params": light, "lr": 0.02}]
    return groups if named else [{**g, "params": [p for _, p in g["params"]]} for g in groups]


MAKERS: dict[str, Any] = {
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, amsgrad=True),
    "sgd in groups": lambda m: torch.optim.SGD(in_groups(m), lr=0.05, momentum=0.9, nesterov=True),
    "named, in groups": lambda m: torch.optim.Adam(in_groups(m, named=True), lr=0.01),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=0.05),
    "lbfgs": lambda m: torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=2),
    "an empty group": lambda m: torch.optim.Adam([{"params": m.parameters()}, {"params": [], "lr": 1.0}], lr=0.01),
    "some parameters": lambda m: torch.optim.Adam([*m.deep.parameters(), m.conv.weight], lr=0.01),
}


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(steps)]  # type: ignore[arg-type, union-attr]


def trained(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same model and optimizer each time, after a few steps."""
    torch.manual_seed(0)
    model = Net()
    optimizer: torch.optim.Optimizer = MAKERS[name](model)
    losses(model, optimizer, 5)
    return model, optimizer


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_is_converted_in_the_middle_follows_one_that_is_not(name: str) -> None:
    (model, optimizer), apart = trained(name), trained(name)
    conversion = convsurgeon.convert(model, X)
    moved = conversion.weight_map.move_optimizer(optimizer, conversion.module)
    assert type(moved) is type(optimizer)
    for group, old in zip(moved.param_groups, optimizer.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in old.items() if k != "params"}
        assert [tuple(p.shape) for p in old["params"]] == [
            tuple(p.squeeze(2).shape) if p.dim() == 4 else tuple(p.shape) for p in group["params"]
        ]
    torch.testing.assert_close(losses(conversion.module, moved, 8), losses(*apart, 8), rtol=1e-4, atol=1e-5)


def test_the_moved_optimizer_owns_its_state() -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    losses(model, optimizer, 2)
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    before = copy.deepcopy(optimizer.state_dict())
    losses(conversion.module, conversion.weight_map.move_optimizer(optimizer, conversion.module), 3)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


def test_parameters_that_can_not_be_told_apart() -> None:
    model = Net()
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    partly = torch.optim.SGD([model.head.weight, model.conv.weight], lr=0.1)
    with pytest.raises(CheckpointError, match=r"2 parameters in 1 group\(s\).*share no memory.*named_parameters"):
        conversion.weight_map.move_optimizer(partly, conversion.module)


class Strange(torch.optim.SGD):
    def __init__(self, model: nn.Module, depth: int) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.depth = depth


class OfModel(torch.optim.SGD):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)


@pytest.mark.parametrize("make", [lambda model: Strange(model, 2), OfModel])
def test_an_optimizer_that_can_not_be_built_like_another(make: Any) -> None:
    model = Net()
    conversion = convsurgeon.convert(model, X)
    optimizer = make(model)
    words = rf"a {type(optimizer).__name__} can't be built.*weight_map.to_2d\(optimizer.state_dict"
    with pytest.raises(CheckpointError, match=words):
        conversion.weight_map.move_optimizer(optimizer, conversion.module)


def test_an_order_that_is_not_the_models_is_noticed() -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.Conv1d(3, 3, 3, padding=1))
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    swapped = torch.optim.Adam([*model[1].parameters(), *model[0].parameters()])
    with pytest.raises(CheckpointError, match="in order and with the values"):
        conversion.weight_map.move_optimizer(swapped, conversion.module)
