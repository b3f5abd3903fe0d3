"""What tracing would silently drop is kept: modes, defaults, written buffers, regions without gradient, lines."""

from __future__ import annotations

import copy
import enum
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

X = torch.randn(2, 3, 8)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)


class FunctionalDropout(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.conv(x), 0.5, self.training) + F.dropout1d(self.conv(x), 0.5, training=self.training)


@pytest.mark.parametrize("converted_in", [True, False])
@pytest.mark.parametrize("run_in", [True, False])
def test_the_graph_follows_the_mode(converted_in: bool, run_in: bool) -> None:
    model = FunctionalDropout().train(converted_in)
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.mode is None
    model.train(run_in)
    conversion.module.train(run_in)
    torch.manual_seed(0)
    expected = model(X)
    torch.manual_seed(0)
    torch.testing.assert_close(conversion.module(X), expected)


class NoiseInTraining(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = x + torch.randn_like(x)
        return self.conv(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_graph_of_one_mode_says_so_and_refuses_the_other(training: bool) -> None:
    model = NoiseInTraining().train(training)
    conversion = convsurgeon.convert(model, X)
    mine, other = ("train", "eval") if training else ("eval", "train")
    assert conversion.plan.capture.mode == mine
    assert f"in {mine} mode only" in str(conversion)
    with pytest.raises(convsurgeon.UnsupportedError, match=f"captured in {mine} mode only"):
        getattr(conversion.module, other)()
    getattr(conversion.module, mine)()


class Defaults(Base):
    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 2.0, *, add: bool = False
    ) -> torch.Tensor:
        if mask is not None:
            x = x * mask
        return self.conv(x) * scale + (1 if add else 0)


def test_arguments_that_are_left_out_are_held_at_their_defaults() -> None:
    model = Defaults()
    module = convsurgeon.convert(model, X).module
    torch.testing.assert_close(module(X), model(X))
    torch.testing.assert_close(module(X, None, 2.0), model(X))
    with pytest.raises(ValueError, match="argument 'mask' was None when the model was captured"):
        module(X, torch.ones(8))


def test_flags_are_held_and_tensors_and_numbers_flow() -> None:
    model = Defaults()
    mask = torch.rand(8)
    module = convsurgeon.convert(model, convsurgeon.Sample((X, mask), {"scale": 3.0, "add": True})).module
    other = torch.rand(8)
    torch.testing.assert_close(module(X, other, 5.0, add=True), model(X, other, 5.0, add=True))
    with pytest.raises(ValueError, match="argument 'add' was True"):
        module(X, other, 5.0, add=False)


class Width(enum.Enum):
    NARROW = 1
    WIDE = 2


class Shape(enum.Flag):
    PEAKED = enum.auto()
    LONG = enum.auto()


class ByMember(Base):
    def forward(self, x: torch.Tensor, width: Width, shape: Shape = Shape.LONG) -> torch.Tensor:
        return self.conv(x) if width is Width.WIDE else self.conv(x)[..., ::2] * (3 if shape is Shape.LONG else 2)


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_members_of_enumerations_are_held(capture: Any) -> None:
    model = ByMember()
    converted = convsurgeon.convert(model, (X, Width.NARROW), capture=capture).module
    for module in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(module(X, Width.NARROW), model(X, Width.NARROW))
        torch.testing.assert_close(module(X, Width.NARROW, Shape.LONG), model(X, Width.NARROW))
        with pytest.raises(ValueError, match=r"'width' was <Width.NARROW: 1> when the model was captured"):
            module(X, Width.WIDE)
        with pytest.raises(ValueError, match=r"'shape' was <Shape.LONG: 2>"):
            module(X, Width.NARROW, Shape.PEAKED)


def test_several_flags_at_once_flow() -> None:
    class ByFlags(Base):
        def forward(self, x: torch.Tensor, shape: Shape) -> torch.Tensor:
            return self.conv(x)

    module = convsurgeon.convert(ByFlags(), (X, Shape.LONG | Shape.PEAKED)).module
    torch.testing.assert_close(module(X, Shape.LONG), module(X, Shape.LONG | Shape.PEAKED))


class Counts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.conv(x) * self.calls


def test_a_buffer_written_in_place_is_written_at_every_call() -> None:
    model = Counts()
    module = convsurgeon.convert(model, X, copy_weights=True).module
    for _ in range(3):
        torch.testing.assert_close(module(X), model(X))
    assert module.calls.item() == model.calls.item() == 3


class PartWithoutGradient(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            frozen = self.conv(x)
            with torch.enable_grad():
                inner = self.conv(x)
        return frozen * inner + self.conv(x)


def test_regions_without_gradient_are_kept() -> None:
    model = PartWithoutGradient()
    module = convsurgeon.convert(model, X).module
    assert convsurgeon.verify(model, module, X, gradients=True).passed
    with torch.no_grad():
        module(X)
        assert not torch.is_grad_enabled()
    module(X)
    assert torch.is_grad_enabled()


def test_shapes_of_parameters_may_steer_forward() -> None:
    class ByShape(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.conv.weight.shape[2] > 1 and self.conv.weight.dim() == 3 and self.conv.weight.size(-1) == 3:
                return F.conv1d(x, self.conv.weight, padding=self.conv.weight.shape[-1] // 2)
            return x

    model = ByShape()
    torch.testing.assert_close(convsurgeon.convert(model, X).module(X), model(X))


def test_kept_operators_name_the_users_line() -> None:
    class Walls(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.renorm(self.conv(x), 2, 1, 5.0)  # this line

    kept = convsurgeon.plan(Walls(), X).kept
    assert [one.operator for one in kept] == ["renorm"]
    file, _, line = kept[0].source.rpartition(":")
    with open(file) as source:
        assert "this line" in source.readlines()[int(line) - 1]


def test_containers_of_tensors_go_in_and_come_out() -> None:
    class Nested(Base):
        def forward(self, inputs: dict[str, list[torch.Tensor]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            first, second = inputs["x"][0], inputs["x"][1]
            return self.conv(first), {"sum": self.conv(first) + second}

    model = Nested()
    conversion = convsurgeon.convert(model, ({"x": [X, torch.ones(3, 1)]},))
    inputs = {"x": [torch.randn(1, 3, 5), torch.zeros(3, 1)]}
    torch.testing.assert_close(conversion.module(inputs), model(inputs))


def test_star_arguments() -> None:
    class Starred(Base):
        def forward(self, x: torch.Tensor, *rest: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + rest[0] + named["bias"]

    model = Starred()
    sample = convsurgeon.Sample((X, torch.ones(3, 1)), {"bias": torch.ones(1)})
    conversion = convsurgeon.convert(model, sample)
    torch.testing.assert_close(
        conversion.module(X, torch.zeros(3, 1), bias=torch.ones(1)), model(X, torch.zeros(3, 1), bias=torch.ones(1))
    )


def test_a_slice_of_a_traced_size_follows_the_mode() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = nn.Conv1d(3, 3, 4, padding=2), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.drop(self.conv(x))[..., : x.shape[-1]] + x

    model, x = Cut().eval(), torch.randn(2, 3, 20)
    conversion = convsurgeon.convert(model, x)
    assert conversion.plan.capture.mode is None
    convsurgeon.verify(model, conversion.module, x, gradients=True, train=True).require()


class Scaled(float):
    def __repr__(self) -> str:
        return "twice as much"


SCALARS = {
    "float64": np.sqrt(0.5),
    "float32": np.float32(0.1),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "subclass": Scaled(0.3),
}


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("capture", ["trace", "export"])
def test_numbers_of_numpy_are_written_as_pythons_own(kind: str, capture: Any) -> None:
    class Scales(Base):
        def forward(self, x: torch.Tensor, scale: Any = SCALARS[kind]) -> torch.Tensor:
            y = F.pad(self.conv(x * scale), (np.int64(1), np.int64(1)))
            return y[..., : np.int64(5)] / SCALARS[kind] + scale

    model = Scales().eval()
    module = convsurgeon.convert(model, X, capture=capture).module
    for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(one(X), model(X), rtol=0, atol=0)
        torch.testing.assert_close(one(X, SCALARS[kind]), model(X), rtol=0, atol=0)


def test_numbers_of_numpy_may_stand_on_the_left() -> None:
    class Scales(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return np.sqrt(2.0) * self.conv(x) + np.float32(1) / (np.float64(2) + self.conv.weight.data.abs().max())

    model = Scales().eval()
    conversion = convsurgeon.convert(model, X, capture="trace")
    torch.testing.assert_close(conversion.module(X), model(X))


def test_an_array_of_numpy_is_left_to_another_capture() -> None:
    class Chooses(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)[..., np.array([0, 2])]

    model = Chooses().eval()
    with pytest.raises(convsurgeon.CaptureError, match="ndarray"):
        convsurgeon.convert(model, X, capture="trace")
    torch.testing.assert_close(convsurgeon.convert(model, X).module(X), model(X))
