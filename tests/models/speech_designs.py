"""Networks for speech and sound as their papers give them, at the papers' sizes, where no pinned package has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def separable(ins: int, outs: int, kernel: int, dilation: int = 1, stride: int = 1) -> list[nn.Module]:
    """QuartzNet's time-channel separable convolution: depthwise, pointwise, normalisation."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.Conv1d(ins, ins, kernel, stride, padding, dilation, groups=ins, bias=False),
        nn.Conv1d(ins, outs, 1, bias=False),
        nn.BatchNorm1d(outs),
    ]


class SeparableBlock(nn.Module):
    """So many separable convolutions, and a pointwise one around them: QuartzNet's and MatchboxNet's block."""

    def __init__(self, ins: int, outs: int, kernel: int, repeats: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for at in range(repeats):
            layers += [*separable(outs if at else ins, outs, kernel), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.around = nn.Sequential(nn.Conv1d(ins, outs, 1, bias=False), nn.BatchNorm1d(outs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.around(x))


def quartznet() -> nn.Module:
    """QuartzNet 5x5 (Kriman et al. 2019) over 64 mel bands."""
    widths, kernels = (256, 256, 256, 512, 512, 512), (33, 39, 51, 63, 75)
    blocks = [SeparableBlock(widths[at], widths[at + 1], kernel, 5) for at, kernel in enumerate(kernels)]
    head = [*separable(512, 512, 87, dilation=2), nn.ReLU(), nn.Conv1d(512, 1024, 1), nn.BatchNorm1d(1024), nn.ReLU()]
    return nn.Sequential(*separable(64, 256, 33, stride=2), nn.ReLU(), *blocks, *head, nn.Conv1d(1024, 29, 1))


def matchboxnet() -> nn.Module:
    """MatchboxNet 3x2x64 (Majumdar and Ginsburg 2020) over 64 features; over long sound it is MarbleNet."""
    blocks = [SeparableBlock(128 if at == 0 else 64, 64, kernel, 2) for at, kernel in enumerate((13, 15, 17))]
    head = [*separable(64, 128, 29, dilation=2), nn.ReLU(), nn.Conv1d(128, 128, 1), nn.BatchNorm1d(128), nn.ReLU()]
    stem = [*separable(64, 128, 11), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, *head, nn.Conv1d(128, 30, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())


def keyword_spotter() -> nn.Module:
    """DS-CNN large (Zhang et al. 2017), its convolutions over time alone, on 40 features."""
    stem = [nn.Conv1d(40, 276, 10, 2, 5), nn.BatchNorm1d(276), nn.ReLU()]
    blocks: list[nn.Module] = []
    for _ in range(5):
        depthwise = [nn.Conv1d(276, 276, 3, padding=1, groups=276), nn.BatchNorm1d(276), nn.ReLU()]
        blocks += [*depthwise, nn.Conv1d(276, 276, 1), nn.BatchNorm1d(276), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(276, 12))


class TasNetBlock(nn.Module):
    """Conv-TasNet's separable block: what goes on, and what is skipped to the end."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(128, 512, 1),
            nn.PReLU(),
            nn.GroupNorm(1, 512, eps=1e-8),
            nn.Conv1d(512, 512, 3, padding=dilation, dilation=dilation, groups=512),
            nn.PReLU(),
            nn.GroupNorm(1, 512, eps=1e-8),
        )
        self.on, self.skip = nn.Conv1d(512, 128, 1), nn.Conv1d(512, 128, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.body(x)
        return x + self.on(found), self.skip(found)


class ConvTasNet(nn.Module):
    """Conv-TasNet (Luo and Mesgarani 2019): N=512, L=16, B=128, H=512, P=3, X=8, R=3, two speakers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 512, 16, 8, bias=False)
        self.decoder = nn.ConvTranspose1d(512, 1, 16, 8, bias=False)
        self.bottleneck = nn.Sequential(nn.GroupNorm(1, 512, eps=1e-8), nn.Conv1d(512, 128, 1))
        self.blocks = nn.ModuleList(TasNetBlock(2**at) for _ in range(3) for at in range(8))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(128, 1024, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.encoder(x)
        y, skipped = self.bottleneck(found), []
        for block in self.blocks:
            y, skip = block(y)
            skipped.append(skip)
        first, second = self.masks(sum(skipped)).chunk(2, dim=1)
        return torch.cat([self.decoder(found * first), self.decoder(found * second)], dim=1)


class ConvNeXtBlock(nn.Module):
    """Vocos' block: depthwise, then a perceptron on the channels, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(512, 512, 7, padding=3, groups=512)
        self.norm = nn.LayerNorm(512, eps=1e-6)
        self.wide, self.narrow = nn.Linear(512, 1536), nn.Linear(1536, 512)
        self.gamma = nn.Parameter(torch.full((512,), 1 / 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))
        return x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).transpose(1, 2)


class Vocos(nn.Module):
    """Vocos (Siuzdak 2023) over 100 mel bands, to magnitudes and phases."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(100, 512, 7, padding=3)
        self.norm, self.final = nn.LayerNorm(512, eps=1e-6), nn.LayerNorm(512, eps=1e-6)
        self.blocks = nn.Sequential(*(ConvNeXtBlock() for _ in range(8)))
        self.out = nn.Linear(512, 1026)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        magnitude, phase = self.out(self.final(self.blocks(y).transpose(1, 2))).transpose(1, 2).chunk(2, dim=1)
        magnitude = torch.exp(magnitude).clip(max=1e2)
        return magnitude * torch.cos(phase), magnitude * torch.sin(phase)


class WaveNetLayer(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(64, 128, 2, dilation=dilation)
        self.on, self.skip = nn.Conv1d(64, 64, 1), nn.Conv1d(64, 256, 1)
        self.dilation = dilation

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signal, gate = self.dilated(F.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        found = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.on(found), self.skip(found)


class WaveNet(nn.Module):
    """WaveNet (van den Oord et al. 2016): three times dilations from 1 to 512, 256 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(256, 64, 1)
        self.layers = nn.ModuleList(WaveNetLayer(2**at) for _ in range(3) for at in range(10))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(256, 256, 1), nn.ReLU(), nn.Conv1d(256, 256, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, skipped = self.stem(x), []
        for layer in self.layers:
            y, skip = layer(y)
            skipped.append(skip)
        return self.head(sum(skipped))


class Denoiser(nn.Module):
    """Causal Demucs (Defossez et al. 2020), 48 channels wide, without its resampling."""

    def __init__(self) -> None:
        super().__init__()
        widths = [48 * 2**at for at in range(5)]
        ins = [1, *widths]
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv1d(ins[at], w, 8, 4), nn.ReLU(), nn.Conv1d(w, 2 * w, 1), nn.GLU(1))
            for at, w in enumerate(widths)
        )
        ups = [
            [nn.Conv1d(w, 2 * w, 1), nn.GLU(1), nn.ConvTranspose1d(w, ins[at], 8, 4), *([nn.ReLU()] if at else [])]
            for at, w in enumerate(widths)
        ]
        self.decoder = nn.ModuleList(nn.Sequential(*layers) for layers in reversed(ups))
        self.lstm = nn.LSTM(widths[-1], widths[-1], num_layers=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        for layer in self.decoder:
            skip = skips.pop()
            x = layer(x + skip[..., : x.shape[-1]])
        return x


class Res2Block(nn.Module):
    """ECAPA-TDNN's block: eight parts of the channels, each convolved with what came before; squeeze and excite."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(512, 512, 1), nn.ReLU(), nn.BatchNorm1d(512))
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Conv1d(64, 64, 3, padding=dilation, dilation=dilation), nn.ReLU(), nn.BatchNorm1d(64))
            for _ in range(7)
        )
        self.last = nn.Sequential(nn.Conv1d(512, 512, 1), nn.ReLU(), nn.BatchNorm1d(512))
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Conv1d(512, 128, 1), nn.ReLU(), nn.Conv1d(128, 512, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = torch.chunk(self.first(x), 8, dim=1)
        found = [pieces[0]]
        for at, part in enumerate(self.parts):
            found.append(part(pieces[at + 1] if at == 0 else pieces[at + 1] + found[-1]))
        y = self.last(torch.cat(found, dim=1))
        return x + y * self.excite(y)


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN (Desplanques et al. 2020), 512 channels, over 80 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(80, 512, 5, padding=2), nn.ReLU(), nn.BatchNorm1d(512))
        self.blocks = nn.ModuleList(Res2Block(dilation) for dilation in (2, 3, 4))
        self.joined = nn.Sequential(nn.Conv1d(1536, 1536, 1), nn.ReLU())
        self.attention = nn.Sequential(
            nn.Conv1d(4608, 128, 1), nn.ReLU(), nn.BatchNorm1d(128), nn.Tanh(), nn.Conv1d(128, 1536, 1), nn.Softmax(2)
        )
        self.head = nn.Sequential(nn.BatchNorm1d(3072), nn.Linear(3072, 192))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        y = self.joined(torch.cat(found, dim=1))
        mean = y.mean(2, keepdim=True).expand_as(y)
        spread = y.var(2, keepdim=True).clamp(min=1e-4).sqrt().expand_as(y)
        weight = self.attention(torch.cat([y, mean, spread], dim=1))
        mean = (y * weight).sum(2)
        spread = ((y**2 * weight).sum(2) - mean**2).clamp(min=1e-4).sqrt()
        return self.head(torch.cat([mean, spread], dim=1))
