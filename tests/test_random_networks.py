"""Random small networks of every operator that has a rule, with walls between, converted and compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convsurgeon

C = 3
"""Channels of every value, so that any can feed any."""

Values = list[torch.Tensor]
Step = Callable[["Network", Values, int, int], torch.Tensor]


def in_place(values: Values, at: int, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Write to a value that others may have seen, if it isn't the input or a parameter."""
    return change(values[at]) if at else torch.relu(values[at])


def halves(value: torch.Tensor) -> torch.Tensor:
    """The gate of WaveNet: one half of the channels times a sigmoid of the other."""
    first, second = value.chunk(2, 1)[0], value.chunk(2, 1)[1]
    return torch.tanh(first) * torch.sigmoid(second)


def shuffled(value: torch.Tensor) -> torch.Tensor:
    """The channel shuffle of ShuffleNet, as it is written out in most models."""
    n, channels, length = value.shape
    return value.view(n, 2, channels // 2, length).transpose(1, 2).reshape(n, channels, length)


def unpooled(value: torch.Tensor) -> torch.Tensor:
    """The largest of each pair, at its place, and zeros."""
    pooled, indices = F.max_pool1d(value, 2, return_indices=True)
    return F.max_unpool1d(torch.relu(pooled), indices, 2, output_size=value.shape)


STEPS: dict[str, Step] = {
    "conv": lambda net, v, a, b: net.conv(v[a]),
    "shared conv": lambda net, v, a, b: net.conv(v[b]),
    "dilated": lambda net, v, a, b: F.conv1d(v[a], net.weight * net.mask, padding=2, dilation=2),
    "transposed": lambda net, v, a, b: net.up(v[a])[..., 1:-1],
    "computed weight": lambda net, v, a, b: F.conv1d(v[a], v[b].mean(0)[:, :C, None] * net.weight, padding="same"),
    "norm": lambda net, v, a, b: net.norm(v[a]),
    "relu": lambda net, v, a, b: torch.relu(v[a]),
    "gelu": lambda net, v, a, b: F.gelu(v[a]),
    "prelu": lambda net, v, a, b: net.prelu(v[a]),
    "gain": lambda net, v, a, b: v[a] * net.gain + net.shift,
    "add": lambda net, v, a, b: v[a] + v[b],
    "where": lambda net, v, a, b: torch.where(v[a] > 0, v[a], v[b]),
    "cat": lambda net, v, a, b: torch.cat([v[a], v[b]], 1)[:, 1 : C + 1],
    "cat along the batch": lambda net, v, a, b: torch.cat((v[a], v[b]), dim=-3)[: v[a].size(0)],
    "relu_": lambda net, v, a, b: in_place(v, a, torch.relu_),
    "mul_": lambda net, v, a, b: in_place(v, a, lambda y: y.mul_(net.gain)),
    "add_": lambda net, v, a, b: in_place(v, a, lambda y: y.add_(v[b])),
    "cast": lambda net, v, a, b: v[a].float().to(v[a].dtype),
    "contiguous": lambda net, v, a, b: v[a].contiguous(),
    "dropout": lambda net, v, a, b: F.dropout(v[a], 0.3, net.training),
    "dropout1d": lambda net, v, a, b: net.drop(v[a]),
    "transposed twice": lambda net, v, a, b: torch.sigmoid(v[a].transpose(1, 2)).transpose(1, 2),
    "flat": lambda net, v, a, b: v[a].contiguous().view(v[a].size(0), -1).reshape(v[a].shape),
    "softmax": lambda net, v, a, b: torch.softmax(v[a], 1),
    "linear": lambda net, v, a, b: net.linear(v[a].transpose(1, 2)).transpose(1, 2),
    "gate": lambda net, v, a, b: v[a] * torch.sigmoid(v[b].mean(-1, keepdim=True)),
    "max pool": lambda net, v, a, b: F.max_pool1d(v[a], 3, 1, 1),
    "max pool layer": lambda net, v, a, b: F.pad(net.max_pool(v[a]), (0, 1)),
    "avg pool": lambda net, v, a, b: F.avg_pool1d(v[a], 3, 1, 1, False, count_include_pad=False),
    "adaptive pool": lambda net, v, a, b: v[a] + F.adaptive_avg_pool1d(v[b], 1),
    "pad": lambda net, v, a, b: F.pad(v[a], (2, -1))[..., :-1],
    "reflect": lambda net, v, a, b: net.reflect(v[a])[:, :, 1:-1],
    "circular": lambda net, v, a, b: F.pad(v[a], (1, 1), mode="circular")[..., 2:],
    "channel pad": lambda net, v, a, b: F.pad(v[a], (0, 0, 1, 0))[:, :C],
    "linear up": lambda net, v, a, b: F.interpolate(v[a], scale_factor=2, mode="linear")[..., ::2],
    "nearest": lambda net, v, a, b: net.up2(v[a])[:, :, 1::2],
    "instance norm": lambda net, v, a, b: F.instance_norm(v[a]),
    "group norm": lambda net, v, a, b: net.group(v[a]),
    "layer norm": lambda net, v, a, b: F.layer_norm(v[a], v[a].shape[-1:]),
    "softmax along": lambda net, v, a, b: v[a].softmax(-1),
    "cumsum": lambda net, v, a, b: torch.cumsum(v[a], dim=2),
    "flip": lambda net, v, a, b: torch.flip(v[a], (-1, 1)),
    "glu": lambda net, v, a, b: F.glu(torch.cat([v[a], v[b]], 1), 1),
    "mean over channels": lambda net, v, a, b: v[a] * v[b].mean(1, keepdim=True),
    "std of rows": lambda net, v, a, b: v[a] + v[b].std(dim=(1, 2), keepdim=True),
    "gate by sum": lambda net, v, a, b: v[a] * torch.tanh(v[b].sum(-1))[:, :, None],
    "chunk": lambda net, v, a, b: torch.cat(torch.cat([v[a], v[b]], 1).chunk(2, dim=1)[::-1], 1)[:, :C],
    "gated halves": lambda net, v, a, b: halves(torch.cat([v[a], v[b]], 1)),
    "split": lambda net, v, a, b: v[a].split([1, C - 1], 1)[0] * v[b],
    "split length": lambda net, v, a, b: torch.cat([torch.split(v[a], 3, -1)[1], v[b]], -1)[..., 3:],
    "roll": lambda net, v, a, b: torch.roll(v[a], 1, 1),
    "by its shape": lambda net, v, a, b: v[a] / v[a].shape[-1] + v[b].size(1) + v[b].dim(),
    "to its size": lambda net, v, a, b: F.interpolate(F.max_pool1d(v[a], 2), size=v[a].size(2)),
    "sum of channels": lambda net, v, a, b: v[a] + v[b].sum(1)[:, None],
    "channel slice": lambda net, v, a, b: torch.cat([v[a][:, 1:], v[b][..., 1:2, :]], 1),
    "row": lambda net, v, a, b: v[a] + v[b].mean((0, 1)),
}

STEPS |= {
    "stack": lambda net, v, a, b: torch.stack([v[a], v[b]], 1).flatten(1, 2)[:, :C],
    "unbind": lambda net, v, a, b: torch.stack(v[a].unbind(1)[::-1], dim=1) + v[b],
    "select": lambda net, v, a, b: v[a] + v[b].select(1, 0)[:, None],
    "one channel": lambda net, v, a, b: v[a] * v[b][:, -1].unsqueeze(1),
    "last of the length": lambda net, v, a, b: v[a] + v[b][..., -1].unsqueeze(-1),
    "narrow": lambda net, v, a, b: torch.cat([v[a].narrow(1, 1, 2), v[b].narrow(1, 0, 1)], 1),
    "index_select": lambda net, v, a, b: torch.index_select(v[a], 1, net.order),
    "gather": lambda net, v, a, b: v[a].gather(1, v[b].argsort(1)),
    "sort": lambda net, v, a, b: v[a].sort(1).values + v[b].sort(-1)[0],
    "topk": lambda net, v, a, b: torch.gather(v[a], 1, v[b].topk(C, dim=1).indices),
    "max of both": lambda net, v, a, b: torch.max(v[a], v[b]),
    "less the largest": lambda net, v, a, b: v[a] - v[b].max(1, keepdim=True)[0],
    "over the largest": lambda net, v, a, b: v[a] / (1 + v[b].abs().max()),
    "argmax": lambda net, v, a, b: v[a] * (1 + v[b].argmax(-1, keepdim=True)),
    "norm": lambda net, v, a, b: v[a] / (1 + v[b].norm(dim=1, keepdim=True)),
    "norm along": lambda net, v, a, b: v[a] * torch.tanh(torch.linalg.vector_norm(v[b], dim=-1))[:, :, None],
    "standardised": lambda net, v, a, b: v[a] - torch.var_mean(v[b], (1, 2), keepdim=True)[1],
    "any": lambda net, v, a, b: v[a] * (v[b] > 0).any(1, keepdim=True),
    "shuffle": lambda net, v, a, b: shuffled(torch.cat([v[a], v[b]], 1))[:, :C],
    "channel shuffle": lambda net, v, a, b: torch.channel_shuffle(torch.cat([v[a], v[b]], 1), 2)[:, 1 : C + 1],
    "unflatten": lambda net, v, a, b: torch.cat([v[a], v[b]], 1).unflatten(1, (2, C)).sum(1),
    "linear along": lambda net, v, a, b: torch.cat([net.along(v[a][..., :4]), v[b][..., 4:]], -1),
    "matmul": lambda net, v, a, b: torch.cat([v[a][..., :4] @ net.matrix, v[b][..., 4:]], -1),
    "norm of channels": lambda net, v, a, b: net.layer(v[a].permute(0, 2, 1)).permute(0, 2, 1),
    "norm of both": lambda net, v, a, b: F.layer_norm(v[a], v[a].shape[1:]),
    "rows": lambda net, v, a, b: torch.relu(v[a].flatten(0, 1)).view(v[a].shape),
    "squeezed": lambda net, v, a, b: torch.sigmoid(v[a].mean(1, keepdim=True).squeeze(1)).unsqueeze(1) * v[b],
    "expanded": lambda net, v, a, b: v[a].sum(1).unsqueeze(1).expand(-1, C, -1) * v[b],
    "expanded as": lambda net, v, a, b: v[a][:, :1].expand_as(v[b]) + v[b],
    "repeated": lambda net, v, a, b: v[a][:, 1:2].repeat(1, C, 1),
    "unpooled": lambda net, v, a, b: unpooled(v[a]),
    "conv of a row": lambda net, v, a, b: net.mono(v[a].mean(1).unsqueeze(1)),
    "running max": lambda net, v, a, b: v[a].cummax(-1)[0],
    "differences": lambda net, v, a, b: F.pad(v[a].diff(dim=-1), (0, 1)),
    "repeat_interleave": lambda net, v, a, b: v[a].repeat_interleave(2, dim=2)[..., ::2],
    "new axis": lambda net, v, a, b: v[a][:, None].squeeze(1) + v[b],
    "batch first": lambda net, v, a, b: torch.transpose(v[a], 0, 1).contiguous().transpose(1, 0),
    "product": lambda net, v, a, b: v[a] * v[b].prod(1, keepdim=True),
}


class Network(nn.Module):
    """A straight line of steps over a pool of values, each of (N, 3, L)."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv1d(C, C, 3, padding=1)
        self.up = nn.ConvTranspose1d(C, C, 3)
        self.norm = nn.BatchNorm1d(C)
        self.prelu = nn.PReLU(C)
        self.linear = nn.Linear(C, C)
        self.drop = nn.Dropout1d(0.3)
        self.max_pool = nn.MaxPool1d(2, 1, dilation=1, ceil_mode=True)
        self.reflect = nn.ReflectionPad1d(1)
        self.up2 = nn.Upsample(scale_factor=2)
        self.group = nn.GroupNorm(1, C)
        self.along, self.mono, self.layer = nn.Linear(4, 4), nn.Conv1d(1, C, 3, padding=1), nn.LayerNorm(C)
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.weight = nn.Parameter(torch.randn(C, C, 3) / 3)
        self.gain = nn.Parameter(torch.rand(C, 1) + 0.5)
        self.register_buffer("mask", torch.tensor([1.0, 0.5, 0.0]))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("shift", torch.randn(1, C, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for name, a, b in self.steps:
            values.append(STEPS[name](self, values, a % len(values), b % len(values)))
        return values[-1], values[len(values) // 2]


networks = st.lists(
    st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9
)


@pytest.mark.slow
@settings(max_examples=400)
@given(
    networks,
    st.sampled_from([-2, -1]),
    st.sampled_from([("regions", "1d"), ("regions", "2d"), ("ops", "1d")]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_random_network_is_equal(
    steps: list[tuple[str, int, int]],
    unit_axis: int,
    lift_and_io: tuple[str, str],
    square: bool,
    transposed: bool,
    train: bool,
) -> None:
    torch.manual_seed(0)
    model = Network(steps).double().train(train)
    x = torch.randn(2, 8, C, dtype=torch.float64).transpose(1, 2) if transposed else torch.randn(2, C, 8).double()
    lift, io = lift_and_io
    module = convsurgeon.convert(model, x, unit_axis=unit_axis, lift=lift, io=io, square=square).module
    for sample in (x, torch.randn(3, C, 11).double()):
        streams = []
        outputs = []
        for run in (model, module.call_1d):
            torch.manual_seed(1)
            outputs.append(run(sample.clone()))
            streams.append(torch.get_rng_state())
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)
        assert torch.equal(*streams)
    with contextlib.suppress(convsurgeon.UnsupportedError):  # a network may write over what its own backward needs
        found = convsurgeon.verify(model, module, x, gradients=True)
        assert found.passed, found
    for ours, theirs in zip(model(x.clone()), module.call_1d(x.clone()), strict=True):
        assert ours.stride() == theirs.stride()
