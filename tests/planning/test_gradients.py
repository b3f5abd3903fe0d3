"""Gradients stay those of the original where views put axes in another order behind a batch or instance norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

BEHIND: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transpose": lambda y: y.transpose(1, 2),
    "permute": lambda y: y.permute(2, 0, 1),
    "gelu": lambda y: F.gelu(y).transpose(-1, -2),
    "dropout": lambda y: F.dropout(y, 0.0).transpose(-1, 1),
    "residual": lambda y: (y + y.sigmoid()).permute(0, 2, 1),
    "view": lambda y: y.unflatten(1, (2, 10)).flatten(1, 2).transpose(1, 2),
}


class Tagger(nn.Module):
    def __init__(self, behind: Callable[[torch.Tensor], torch.Tensor], norm: type[nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(4, 20, 3, padding=1), nn.Linear(20, 6)
        self.norm = norm(20, affine=True)  # type: ignore[call-arg]
        self.behind = behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.behind(self.norm(self.conv(x))))
        return y


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", BEHIND)
def test_a_batch_norm_in_front_of_reordered_axes_has_the_originals_gradients(
    name: str, unit_axis: int, batch: int
) -> None:
    model, x = Tagger(BEHIND[name]), torch.randn(batch, 4, 5)
    module = convsurgeon.convert(model, x, unit_axis=unit_axis).module
    for train in (False, True):
        convsurgeon.verify(model, module, x, gradients=True, train=train).require()


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("batch", [1, 3])
def test_so_has_an_instance_norm(batch: int, unit_axis: int) -> None:
    class Doubled(Tagger):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = (self.behind(self.norm(self.conv(x))) * 2).sum(1)
            return y

    model, x = Doubled(BEHIND["transpose"], nn.InstanceNorm1d), torch.randn(batch, 4, 5)
    module = convsurgeon.convert(model, x, unit_axis=unit_axis).module
    convsurgeon.verify(model, module, x, gradients=True).require()


def test_only_views_behind_a_batch_norm_are_aligned() -> None:
    class Apart(Tagger):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(self.norm(self.conv(x))[:, :4]).transpose(1, 2)
            return y

    x = torch.randn(2, 4, 5)
    for kind, aligned in ((Tagger, 1), (Apart, 0)):
        module = convsurgeon.convert(kind(BEHIND["transpose"]), x).module
        assert len([node for node in module.graph.nodes if node.target is torch.ops.aten.slice.Tensor]) == aligned


OUTSIDE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nothing": lambda y: y,
    "gelu": F.gelu,
    "residual": lambda y: y + y.sigmoid(),
    "an operator that stays 1-D": lambda y: y.movedim(1, 2),
    "the matrix transposed": lambda y: y.mT,
}


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d])
@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", OUTSIDE)
def test_so_it_has_where_axes_are_reordered_outside_of_the_region(
    name: str, unit_axis: Any, norm: type[nn.Module]
) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), norm(6, affine=True))  # type: ignore[call-arg]
    x = torch.randn(3, 4, 5).double()

    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return OUTSIDE[name](self.model(x))

    for train in (False, True):
        original = Ends().train(train)
        converted = convsurgeon.convert(original, x, unit_axis=unit_axis, copy_weights=True).module
        found = []
        for module in (original, converted):
            module.zero_grad()
            y = module(x).transpose(1, 2)
            (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
            found.append([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(found[1], found[0])


ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a border": lambda y: y,
    "gelu": F.gelu,
    "a reshape": lambda y: y.reshape(y.shape[0], 6, 1, -1).squeeze(2),
}


@pytest.mark.parametrize(("norm", "batch"), [(nn.BatchNorm1d, 1), (nn.InstanceNorm1d, 1), (nn.InstanceNorm1d, 3)])
@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", ENDS)
def test_so_it_has_where_what_follows_the_region_puts_time_first(
    name: str, unit_axis: Any, norm: type[nn.Module], batch: int
) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(4, 6, 3, padding=1), norm(6, affine=True)  # type: ignore[call-arg]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ENDS[name](self.norm(self.conv(x)))

    model, x = Ends().double(), torch.randn(batch, 4, 5).double()
    converted = convsurgeon.convert(model, x, unit_axis=unit_axis, copy_weights=True).module
    found = []
    for module in (model, converted):
        y = module(x).permute(2, 0, 1)
        (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
        found.append([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(found[1], found[0])


def test_so_it_has_where_a_batch_of_one_is_squeezed_and_transposed() -> None:
    class Single(Tagger):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)).squeeze(0)

    model, x = Single(BEHIND["transpose"]).double(), torch.randn(1, 4, 5).double()
    converted = convsurgeon.convert(model, x, copy_weights=True).module
    found = []
    for module in (model, converted):
        y = module(x).T
        (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
        found.append([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_so_it_has_where_the_region_ends_in_an_output_in_2d(unit_axis: Any) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)).double()
    x = torch.randn(1, 4, 5).double()
    converted = convsurgeon.convert(model, x, unit_axis=unit_axis, io="2d", copy_weights=True).module
    found = []
    for module, call in ((model, model), (converted, converted.call_1d)):
        y = call(x).permute(2, 0, 1)
        (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
        found.append([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(found[1], found[0])


def test_with_the_unit_axis_last_the_norm_is_lifted_too() -> None:
    plan = convsurgeon.plan(Tagger(BEHIND["transpose"]), torch.randn(2, 4, 5), unit_axis=-1)
    assert "BatchNorm1d" in {step.operator for step in plan.lifted}


MARKS: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "and goes on with it": lambda net, x: net(x.requires_grad_()),
    "beside the graph": lambda net, x: (x.requires_grad_(), net(x))[1],
    "in the middle": lambda net, x: net(x).detach() + (x.requires_grad_(), net(x))[1],
}


@pytest.mark.parametrize("options", [{}, {"lift": "ops"}, {"unit_axis": -1}], ids=str)
@pytest.mark.parametrize("name", MARKS)
def test_an_input_that_the_model_marks_has_the_originals_gradient(name: str, options: dict[str, Any]) -> None:
    class Marks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(MARKS[name](self.conv, x))

    model, x = Marks(), torch.randn(2, 4, 5)
    module = convsurgeon.convert(model, x, copy_weights=True, **options).module
    found = []
    for one in (model, module):
        given = x.clone()
        one(given).sum().backward()
        found.append(given.grad)
    assert found[0] is not None
    torch.testing.assert_close(found[1], found[0])
