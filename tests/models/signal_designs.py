"""Networks for raw sound, biosignals and time series as their papers give them, at the papers' sizes."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn


def m5() -> nn.Module:
    """M5 (Dai et al. 2017) on raw sound."""
    layers: list[nn.Module] = []
    for ins, outs, kernel, stride in ((1, 128, 80, 4), (128, 128, 3, 1), (128, 256, 3, 1), (256, 512, 3, 1)):
        layers += [nn.Conv1d(ins, outs, kernel, stride), nn.BatchNorm1d(outs), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(512, 35))


class WaveUNet(nn.Module):
    """Wave-U-Net (Stoller et al. 2018): twelve levels of 24 channels each, linear interpolation on the way up."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, *(24 * at for at in range(1, 13))]
        self.down = nn.ModuleList(nn.Conv1d(ins, outs, 15, padding=7) for ins, outs in itertools.pairwise(widths))
        self.middle = nn.Conv1d(288, 312, 15, padding=7)
        self.up = nn.ModuleList(
            nn.Conv1d(24 * (at + 1) + 24 * at, 24 * at, 5, padding=2) for at in reversed(range(1, 13))
        )
        self.out = nn.Conv1d(25, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, skips = x, []
        for layer in self.down:
            y = F.leaky_relu(layer(y), 0.2)
            skips.append(y)
            y = y[:, :, ::2]
        y = F.leaky_relu(self.middle(y), 0.2)
        for layer in self.up:
            y = F.interpolate(y, scale_factor=2, mode="linear", align_corners=False)
            y = F.leaky_relu(layer(torch.cat([skips.pop(), y], dim=1)), 0.2)
        return torch.tanh(self.out(torch.cat([x, y], dim=1)))


def eegnet() -> nn.Module:
    """EEGNet (Lawhern et al. 2018) on 64 electrodes, these as channels: spatial filters first, then over time."""
    spatial = [nn.Conv1d(64, 64, 1, bias=False), nn.BatchNorm1d(64)]
    temporal = [nn.Conv1d(64, 128, 64, padding="same", groups=64, bias=False), nn.BatchNorm1d(128), nn.ELU()]
    separable = [
        nn.Conv1d(128, 128, 16, padding="same", groups=128, bias=False),
        nn.Conv1d(128, 128, 1, bias=False),
        nn.BatchNorm1d(128),
        nn.ELU(),
    ]
    return nn.Sequential(
        *(*spatial, *temporal, nn.AvgPool1d(4), nn.Dropout(0.25)),
        *(*separable, nn.AvgPool1d(8), nn.Dropout(0.25), nn.AdaptiveAvgPool1d(32), nn.Flatten(), nn.Linear(4096, 4)),
    )


class SleepStager(nn.Module):
    """DeepSleepNet's two branches (Supratak et al. 2017): small and large filters on 30 s of one EEG channel."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = self._branch(50, 6, 8, 8, 4), self._branch(400, 50, 4, 6, 2)
        self.head = nn.Linear(2816, 5)

    def _branch(self, kernel: int, stride: int, pool: int, inner: int, last: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Conv1d(1, 64, kernel, stride, kernel // 2), nn.BatchNorm1d(64), nn.ReLU()]
        layers += [nn.MaxPool1d(pool), nn.Dropout(0.5)]
        for at in range(3):
            same = nn.Conv1d(128 if at else 64, 128, inner, padding="same")
            layers += [same, nn.BatchNorm1d(128), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool1d(last), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.small(x), self.large(x)], dim=1))


class InceptionBlock(nn.Module):
    def __init__(self, ins: int) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(ins, 32, 1, bias=False)
        self.branches = nn.ModuleList(nn.Conv1d(32, 32, k, padding="same", bias=False) for k in (9, 19, 39))
        self.pooled = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(ins, 32, 1, bias=False))
        self.norm = nn.BatchNorm1d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = self.narrow(x)
        return F.relu(self.norm(torch.cat([*(one(narrow) for one in self.branches), self.pooled(x)], dim=1)))


class InceptionTime(nn.Module):
    """InceptionTime (Ismail Fawaz et al. 2020): six modules, a shortcut around each three."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InceptionBlock(128 if at else 12) for at in range(6))
        self.around = nn.ModuleList(
            nn.Sequential(nn.Conv1d(ins, 128, 1, bias=False), nn.BatchNorm1d(128)) for ins in (12, 128)
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x
        for at, block in enumerate(self.blocks):
            x = block(x)
            if at % 3 == 2:
                x = before = F.relu(x + self.around[at // 3](before))
        return self.head(x.mean(2))


class HeartBlock(nn.Module):
    """A residual block of the ECG network: two convolutions of 17, strided by 4, and a pooled shortcut."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(ins, outs, 17, padding=8, bias=False), nn.BatchNorm1d(outs), nn.ReLU())
        self.second = nn.Conv1d(outs, outs, 17, 4, 8, bias=False)
        self.around = nn.Sequential(nn.MaxPool1d(4), nn.Conv1d(ins, outs, 1, bias=False))
        self.norm = nn.BatchNorm1d(outs)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.second(self.first(x)) + self.around(y)
        return F.relu(self.norm(y)), y


class HeartNet(nn.Module):
    """The network for 12-lead ECG of Ribeiro et al. 2020, on 4096 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(12, 64, 17, padding=8, bias=False), nn.BatchNorm1d(64), nn.ReLU())
        widths = (64, 128, 196, 256, 320)
        self.blocks = nn.ModuleList(HeartBlock(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(5120, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = y = self.stem(x)
        for block in self.blocks:
            x, y = block(x, y)
        return torch.sigmoid(self.head(x.flatten(1)))


class ModernTcnBlock(nn.Module):
    """ModernTCN's block: a depthwise kernel of 51 beside one of 5, then a perceptron on the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv1d(256, 256, 51, padding=25, groups=256, bias=False), nn.BatchNorm1d(256))
        self.small = nn.Sequential(nn.Conv1d(256, 256, 5, padding=2, groups=256, bias=False), nn.BatchNorm1d(256))
        self.mix = nn.Sequential(nn.BatchNorm1d(256), nn.Conv1d(256, 512, 1), nn.GELU(), nn.Conv1d(512, 256, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(self.large(x) + self.small(x))


def modern_tcn() -> nn.Module:
    """ModernTCN (Luo and Wang 2024), six blocks over patches of a 12-lead signal."""
    return nn.Sequential(nn.Conv1d(12, 256, 8, 4), *(ModernTcnBlock() for _ in range(6)), nn.Conv1d(256, 12, 1))
