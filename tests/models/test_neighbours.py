"""The neighbours of convolutions stay in their region: torch's own samples of every 1-D layer, and whole networks."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test modules warn on import of what they no longer need
    from torch.testing._internal.common_modules import module_db

WALLS = {"MaxPool1d": "used as a whole, by output", "BatchNorm1d": "has rank 2", "GroupNorm": "not (N, C, L)"}
"""Layers some of whose samples stay 1-D, and a word of the reason."""

LAYERS = (
    *("AdaptiveAvgPool1d", "AdaptiveMaxPool1d", "AvgPool1d", "MaxPool1d", "LPPool1d", "BatchNorm1d", "InstanceNorm1d"),
    *(
        "GroupNorm",
        "LocalResponseNorm",
        "ConstantPad1d",
        "ReflectionPad1d",
        "ReplicationPad1d",
        "ZeroPad1d",
        "CircularPad1d",
    ),
    *("Upsample", "Softmax", "LogSoftmax", "Softmin", "GLU", "PReLU", "LayerNorm", "RMSNorm", "Dropout1d"),
)


class Between(nn.Module):
    """A layer after a convolution that keeps its input's shape, and before one if what it returns can be convolved."""

    def __init__(self, layer: nn.Module, x: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.before = nn.Conv1d(x.shape[-2], x.shape[-2], 1)
        self.layer = layer
        out = layer(self.before(x))
        self.after = nn.Conv1d(out.shape[-2], 2, 1) if isinstance(out, torch.Tensor) and out.dim() == rank else None

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(self.before(x))
        return y if self.after is None else self.after(y)


def samples_of(name: str) -> list[tuple[nn.Module, torch.Tensor]]:
    """torch's samples of a layer, as (layer, input), those that a convolution can stand before."""
    found = []
    for info in module_db:
        if info.formatted_name != f"nn_{name}":
            continue
        for sample in info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
        ):
            build, call = sample.constructor_input, sample.forward_input
            if call is None or not call.args or not isinstance(call.args[0], torch.Tensor) or len(call.args) > 1:
                continue
            x = call.args[0]
            if x.dim() in (2, 3) and x.numel():
                layer = info.module_cls(*build.args, **build.kwargs).eval()
                found.append((layer, x))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", LAYERS)
def test_torchs_samples_of_a_layer_between_convolutions(
    name: str, unit_axis: int, record_property: pytest.RecordProperty
) -> None:
    lifted, kept = 0, 0
    for layer, x in samples_of(name):
        try:
            model = Between(layer, x, x.dim()).eval()
        except (RuntimeError, ValueError):  # a convolution's result is nothing this sample's layer takes
            continue
        conversion = convsurgeon.convert(model, x, unit_axis=unit_axis)
        expected, found = model(x), conversion.module(x)
        torch.testing.assert_close(found, expected, equal_nan=True)
        if any(one.name == "layer" for one in conversion.plan.lifted):
            lifted += 1
            if model.after is not None:
                assert len(conversion.plan.borders) == 2, name
        else:
            kept += 1
            assert any(WALLS[name] in one.reason for one in conversion.plan.kept), conversion.plan
    record_property("lifted", lifted)
    record_property("kept", kept)
    assert lifted + kept > 0 or name in ("CircularPad1d", "Upsample", "Dropout1d")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.skip = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inp(x)
        return x + self.skip(torch.tanh(y[:, :4]) * torch.sigmoid(y[:, 4:]))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 2, 1), nn.Conv1d(2, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(self.up(F.relu(self.down(y.mean(-1, keepdim=True)))))


class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**i) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, conv in enumerate(self.convs):
            x = F.relu(x + conv(F.pad(x, (2 ** (i + 1), 0))))
        return x


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv1d(4, 8, 4, stride=2, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1), nn.Conv1d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = F.leaky_relu(self.down(x))
        wide = F.interpolate(self.mid(low), scale_factor=2, mode="linear", align_corners=False)
        return self.out(torch.cat([self.up(low), wide], 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(4, 4, k, padding=k // 2) for k in (9, 5, 3))
        self.pool, self.pointwise = nn.MaxPool1d(3, 1, 1), nn.Conv1d(4, 4, 1)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [conv(x) for conv in self.convs] + [self.pointwise(self.pool(x))]
        return torch.relu(self.norm(torch.cat(branches, 1)))


def conv() -> nn.Module:
    return nn.Conv1d(4, 4, 3, padding=1)


NETWORKS: dict[str, nn.Module] = {
    "MaxPool1d": nn.Sequential(conv(), nn.MaxPool1d(2), conv()),
    "AvgPool1d": nn.Sequential(conv(), nn.AvgPool1d(2), conv()),
    "Upsample": nn.Sequential(conv(), nn.Upsample(scale_factor=2, mode="linear"), conv()),
    "ConstantPad1d": nn.Sequential(conv(), nn.ConstantPad1d((1, 2), 0.5), conv()),
    "ReflectionPad1d": nn.Sequential(conv(), nn.ReflectionPad1d(2), conv()),
    "PReLU": nn.Sequential(conv(), nn.PReLU(4), conv()),
    "GroupNorm": nn.Sequential(conv(), nn.GroupNorm(2, 4), conv()),
    "GLU": nn.Sequential(nn.Conv1d(4, 8, 1), nn.GLU(1), conv()),
    "gated": nn.Sequential(Gated(), Gated()),
    "squeeze-excite": SqueezeExcite(),
    "causal TCN": Causal(),
    "U-Net": UNet(),
    "InceptionTime": Inception(),
    "adaptive pool": nn.Sequential(conv(), nn.AdaptiveAvgPool1d(1), conv(), nn.AdaptiveMaxPool1d(1), conv()),
    "MelGAN": nn.Sequential(
        nn.ReflectionPad1d(3), nn.Conv1d(4, 8, 7), nn.LeakyReLU(0.2), nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.Tanh()
    ),
}


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_borders_remain_for_a_whole_network(name: str, unit_axis: int) -> None:
    model = NETWORKS[name].eval()
    conversion = convsurgeon.convert(model, torch.randn(2, 4, 16), unit_axis=unit_axis)
    assert len(conversion.plan.borders) == 2, conversion.plan
    for x in (torch.randn(1, 4, 24), torch.randn(3, 4, 16)):
        torch.testing.assert_close(conversion.module(x), model(x))


@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_a_head_that_takes_the_mean_over_the_length_needs_no_border(unit_axis: int) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = conv(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.relu(self.conv(x)).mean(-1))

    model, x = Head(), torch.randn(2, 4, 16)
    conversion = convsurgeon.convert(model, x, unit_axis=unit_axis)
    assert [border.direction for border in conversion.plan.borders] == ["lift"]
    torch.testing.assert_close(conversion.module(x[:1, :, :9]), model(x[:1, :, :9]))
