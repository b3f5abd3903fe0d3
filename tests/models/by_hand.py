"""Four networks, each written in 1-D and by hand in 4-D, and one on raw sound.

A temporal CNN, a depthwise-separable keyword spotter, a TCN with causal pads and residuals, and a U-Net with a
transposed convolution, concatenation and linear interpolation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TemporalCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, (stride, dilation) in enumerate([(2, 1), (1, 1), (2, 1), (1, 2), (1, 4), (1, 1)]):
            blocks += [
                nn.Conv1d(4 if i == 0 else 16, 16, 5, stride, 2 * dilation, dilation, bias=False),
                nn.BatchNorm1d(16),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*blocks[:6], nn.MaxPool1d(3, 2, 1), *blocks[6:], nn.AdaptiveAvgPool1d(1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).squeeze(-1))


class TemporalCnn4d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, (stride, dilation) in enumerate([(2, 1), (1, 1), (2, 1), (1, 2), (1, 4), (1, 1)]):
            blocks += [
                nn.Conv2d(4 if i == 0 else 16, 16, (1, 5), (1, stride), (0, 2 * dilation), (1, dilation), bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
            ]
        pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))
        self.features = nn.Sequential(*blocks[:6], pool, *blocks[6:], nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


class KeywordSpotter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 3, padding=1)
        self.depthwise = nn.ModuleList(nn.Conv1d(8, 8, 9, padding=4, groups=8) for _ in range(3))
        self.pointwise = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(3))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for depthwise, pointwise, norm in zip(self.depthwise, self.pointwise, self.norms, strict=True):
            x = F.relu6(norm(pointwise(depthwise(x))))
        return self.head(self.drop(x.mean(-1)))


class KeywordSpotter4d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, (1, 3), padding=(0, 1))
        self.depthwise = nn.ModuleList(nn.Conv2d(8, 8, (1, 9), padding=(0, 4), groups=8) for _ in range(3))
        self.pointwise = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for depthwise, pointwise, norm in zip(self.depthwise, self.pointwise, self.norms, strict=True):
            x = F.relu6(norm(pointwise(depthwise(x))))
        return self.head(self.drop(x.mean((2, 3))))


class Tcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv1d(4 if i == 0 else 8, 8, 3, dilation=2**i) for i in range(3))
        self.second = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=2**i) for i in range(3))
        self.match = nn.Conv1d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(3):
            skip = self.match(x) if i == 0 else x
            y = torch.relu(self.first[i](F.pad(x, (2 * 2**i, 0))))
            x = torch.relu(skip + torch.relu(self.second[i](F.pad(y, (2 * 2**i, 0)))))
        return x


class Tcn4d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(4 if i == 0 else 8, 8, (1, 3), dilation=(1, 2**i)) for i in range(3))
        self.second = nn.ModuleList(nn.Conv2d(8, 8, (1, 3), dilation=(1, 2**i)) for i in range(3))
        self.match = nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(3):
            skip = self.match(x) if i == 0 else x
            y = torch.relu(self.first[i](F.pad(x, (2 * 2**i, 0, 0, 0))))
            x = torch.relu(skip + torch.relu(self.second[i](F.pad(y, (2 * 2**i, 0, 0, 0)))))
        return x


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv1d(4, 8, 4, 2, 1), nn.Conv1d(8, 16, 4, 2, 1)
        self.middle = nn.Conv1d(16, 16, 3, padding=1)
        self.up2, self.up1 = nn.ConvTranspose1d(16, 8, 4, 2, 1), nn.Conv1d(16, 8, 3, padding=1)
        self.out = nn.Conv1d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = F.leaky_relu(self.down1(x), 0.1)
        two = F.leaky_relu(self.down2(one), 0.1)
        y = torch.cat([self.up2(torch.tanh(self.middle(two))), one], 1)
        y = F.interpolate(y, scale_factor=2, mode="linear", align_corners=False)
        return self.out(self.up1(y))


class UNet4d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(4, 8, (1, 4), (1, 2), (0, 1))
        self.down2 = nn.Conv2d(8, 16, (1, 4), (1, 2), (0, 1))
        self.middle = nn.Conv2d(16, 16, (1, 3), padding=(0, 1))
        self.up2 = nn.ConvTranspose2d(16, 8, (1, 4), (1, 2), (0, 1))
        self.up1 = nn.Conv2d(16, 8, (1, 3), padding=(0, 1))
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = F.leaky_relu(self.down1(x), 0.1)
        two = F.leaky_relu(self.down2(one), 0.1)
        y = torch.cat([self.up2(torch.tanh(self.middle(two))), one], 1)
        y = F.interpolate(y, scale_factor=(1.0, 2.0), mode="bilinear", align_corners=False)
        return self.out(self.up1(y))


class Wrapped(nn.Module):
    """A 4-D network behind the 1-D inputs and outputs that the original has."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.ends_in_4d = inner, isinstance(inner, (Tcn4d, UNet4d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x.unsqueeze(2))
        return y.squeeze(2) if self.ends_in_4d else y


class RawAudio(nn.Module):
    """M5 of Dai et al. (2016, arXiv:1610.00087): a long strided convolution over samples, then short ones."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, (taken, made) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)]):
            convolution = nn.Conv1d(taken, made, 80, stride=4) if i == 0 else nn.Conv1d(taken, made, 3)
            blocks += [convolution, nn.BatchNorm1d(made), nn.ReLU(), nn.MaxPool1d(4)]
        self.features, self.head = nn.Sequential(*blocks), nn.Linear(64, 35)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean(-1))


NETWORKS = [(TemporalCnn, TemporalCnn4d), (KeywordSpotter, KeywordSpotter4d), (Tcn, Tcn4d), (UNet, UNet4d)]


def pair(at: int) -> tuple[nn.Module, nn.Module]:
    """A network in 1-D and, with the same weights, by hand in 4-D."""
    torch.manual_seed(0)
    one, hand = (kind().eval() for kind in NETWORKS[at])
    hand.load_state_dict({k: v.unsqueeze(-2) if v.dim() == 3 else v for k, v in one.state_dict().items()})
    return one, hand
