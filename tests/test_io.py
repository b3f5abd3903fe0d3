"""``io="2d"``: what touches a region is 4-D; the plan names it, and verification feeds and compares it so."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class TwoOutputs(nn.Module):
    """One input for the convolution, one for a wall; a value of the region, one before it, and a number come out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 6, 3, padding=1), nn.LSTM(6, 5, batch_first=True)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor, side: torch.Tensor, *, scale: float = 2.0) -> dict[str, object]:
        y = torch.relu(self.norm(self.conv(x)))
        return {"y": y * scale, "both": (self.lstm(side)[0], y.mean(-1)), "length": x.shape[-1]}


def lifted(x: torch.Tensor, unit_axis: int) -> torch.Tensor:
    return x.unsqueeze(unit_axis)


@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_no_border_remains_around_a_chain_of_convolutions(unit_axis: int) -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 4, 3)).eval()
    conversion = convsurgeon.convert(model, X, io="2d", unit_axis=unit_axis)
    assert conversion.plan.borders == ()
    shape_2d = (2, 4, 1, 16) if unit_axis == -2 else (2, 4, 16, 1)
    assert [(p.kind, p.name, p.shape_1d, p.shape_2d) for p in conversion.plan.ports] == [
        ("input", "input", (2, 4, 16), shape_2d),
        ("output", "output", (2, 4, 16), shape_2d),
    ]
    assert "[2, 4, 16] -> " in str(conversion.plan)
    for x in (X, torch.randn(1, 4, 9)):
        found = conversion.module(lifted(x, unit_axis))
        torch.testing.assert_close(found.squeeze(unit_axis), model(x))
        torch.testing.assert_close(conversion.module.call_1d(x), model(x))


def test_only_what_touches_a_region_changes() -> None:
    model, side = TwoOutputs().eval(), torch.randn(2, 3, 6)
    sample = convsurgeon.Sample((X,), {"side": side, "scale": 3.0})
    conversion = convsurgeon.convert(model, sample, io="2d")
    assert [port.name for port in conversion.plan.ports] == ["x", "output['y']"]
    expected = model(X, side=side, scale=3.0)
    for module in (conversion.module, copy.deepcopy(conversion.module), pickle.loads(pickle.dumps(conversion.module))):
        found = module(X.unsqueeze(-2), side=side, scale=3.0)
        assert found["y"].shape == (2, 6, 1, 16)
        assert found["length"] == 16
        torch.testing.assert_close(found["both"], expected["both"])
        torch.testing.assert_close(module.call_1d(X, side, scale=3.0), expected)


def test_gradients_and_training_are_compared_in_the_shapes_of_the_original() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 3))
    conversion = convsurgeon.convert(model, X, io="2d")
    found = convsurgeon.verify(model, conversion.module, X, gradients=True, train=True)
    assert found.passed
    assert any(one.what == "gradient of input 0" for one in found.comparisons)


def test_a_wrong_weight_is_still_located() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3))
    module = convsurgeon.convert(model, X, io="2d", copy_weights=True).module
    with torch.no_grad():
        module.get_submodule("2").weight[0] += 1e-3
    assert not convsurgeon.verify(model, module, X).passed


def test_an_input_written_to_in_place_is_compared() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.mul_(2.0))

    conversion = convsurgeon.convert(Writes(), X, io="2d")
    assert conversion.plan.borders == ()
    assert any("as written to" in one.what for one in conversion.verification.comparisons)
    x = X.unsqueeze(-2).clone()
    conversion.module(x)
    torch.testing.assert_close(x.squeeze(-2), X * 2)


def test_an_input_of_two_axes_stays_where_a_view_makes_it_four() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 5)

        def forward(self, wave: torch.Tensor) -> torch.Tensor:
            return self.conv(wave.unsqueeze(1)).mean(-1)

    conversion = convsurgeon.convert(Raw(), torch.randn(3, 40), io="2d")
    assert conversion.plan.ports == ()
    assert conversion.plan.borders == ()


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch's own, where fx copies
def test_a_graph_module_of_nested_inputs_is_fed_by_leaf() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, pair: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return pair["b"], {"y": self.conv(pair["a"])}

    model = Nested()
    inputs = {"a": X, "b": torch.randn(3)}
    traced = torch.fx.symbolic_trace(model, concrete_args={"pair": {"a": torch.fx.PH, "b": torch.fx.PH}})
    conversion = convsurgeon.convert(traced, (inputs,), io="2d")
    assert {port.kind for port in conversion.plan.ports} == {"input", "output"}
    assert conversion.plan.borders == ()
    torch.testing.assert_close(conversion.module.call_1d(inputs), model(inputs))
    found = conversion.module({"a": X.unsqueeze(-2), "b": inputs["b"]})
    assert found[1]["y"].shape == (2, 4, 1, 16)


@pytest.mark.parametrize(
    ("options", "words"), [({"lift": "ops"}, "lift='ops'"), ({"verify": False}, "no sample_inputs")]
)
def test_what_can_not_be_open_ended_is_refused(options: dict[str, object], words: str) -> None:
    sample = None if "verify" in options else X
    with pytest.raises(ValueError, match=words):
        convsurgeon.convert(nn.Conv1d(4, 4, 1), sample, io="2d", **options)


def test_square_makes_strides_and_dilations_equal() -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3, stride=2, padding=1),
        nn.Conv1d(8, 8, 3, dilation=2, padding="same"),
        nn.MaxPool1d(3, 2, 1, ceil_mode=True),
        nn.AvgPool1d(2),
        nn.ConvTranspose1d(8, 4, 4, stride=3, padding=1, output_padding=2, dilation=2),
        nn.LPPool1d(2, 2),
    ).eval()
    for unit_axis in (-2, -1):
        module = convsurgeon.convert(model, torch.randn(2, 4, 64), square=True, unit_axis=unit_axis).module
        layers = [module.get_submodule(str(i)) for i in range(6)]
        assert [layer.stride for layer in layers] == [(2, 2), (1, 1), (2, 2), (2, 2), (3, 3), (2, 2)]
        assert [layers[i].dilation for i in (1, 2, 4)] == [(2, 2), (1, 1), (2, 2)]
        assert layers[0].kernel_size == ((1, 3) if unit_axis == -2 else (3, 1))
        torch.testing.assert_close(module(torch.ones(1, 4, 50)), model(torch.ones(1, 4, 50)))


class Returned:
    """What a package returns, registered with torch's pytree without names for its parts."""

    def __init__(self, sample: torch.Tensor, more: torch.Tensor) -> None:
        self.sample, self.more = sample, more


torch.utils._pytree.register_pytree_node(
    Returned, lambda one: ([one.sample, one.more], None), lambda leaves, _: Returned(*leaves)
)


class ReturnsObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> Returned:
        y = self.conv(x)
        return Returned(y, y.mean(-1)) if x.shape[-1] > 2 else Returned(x, x)


@pytest.mark.parametrize("io", ["1d", "2d"])
def test_what_is_returned_may_have_no_names(io: Any) -> None:
    model, x = ReturnsObject().eval(), torch.randn(2, 3, 9)
    conversion = convsurgeon.convert(model, x, capture="export", io=io)
    found, expected = conversion.module.call_1d(x), model(x)
    torch.testing.assert_close((found.sample, found.more), (expected.sample, expected.more))
    assert [port.name for port in conversion.plan.ports] == ([] if io == "1d" else ["x", "output[0]"])
