"""What a review with fresh eyes broke in the rules and the planner, each with the smallest model that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import convsurgeon

X = torch.randn(2, 4, 8)
TRANSPOSED = torch.randn(2, 8, 4).transpose(1, 2)
AXES = pytest.mark.parametrize("unit_axis", [-2, -1])


class Net(nn.Module):
    """Two convolutions, what a test adds, and its forward."""

    def __init__(self, forward: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.p = nn.Parameter(torch.randn(4, 1))
        for name, value in held.items():
            setattr(self, name, value)
        self._run = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self._run(self, x)


def checked(net: Net, sample: torch.Tensor, unit_axis: int, *others: torch.Tensor) -> convsurgeon.Conversion:
    """Convert, and compare values and strides on the sample, and values on others."""
    conversion = convsurgeon.convert(net.double().eval(), sample.double(), unit_axis=unit_axis)
    for x in (sample.double(), *(one.double() for one in others)):
        torch.manual_seed(1)
        expected = net(x.clone(memory_format=torch.preserve_format))
        torch.manual_seed(1)
        found = conversion.module(x.clone(memory_format=torch.preserve_format))
        torch.testing.assert_close(found, expected)
        if x is not others and isinstance(found, torch.Tensor) and x.stride() == sample.stride():
            assert found.stride() == expected.stride()
    return conversion


SHARED: dict[str, tuple[nn.Module, Callable[..., Any]]] = {
    "softmax": (nn.Softmax(1), lambda s, x: s.b((y := s.m(s.a(x))) + s.m(y.mean(1))[:, None])),
    "glu": (nn.GLU(1), lambda s, x: s.m(torch.cat([s.a(x)] * 2, 1)).sum() + s.b(x) + s.m(s.a(x)[0]).sum()),
    "flatten": (nn.Flatten(1), lambda s, x: s.m(s.a(x)).sum() + s.m(s.b(x)[0]) * 2),
    "flatten rows": (nn.Flatten(0, 1), lambda s, x: s.m(s.a(x)).sum() + s.m(s.b(x)[0]) * 2),
}


@AXES
@pytest.mark.parametrize("name", SHARED)
def test_a_module_called_on_values_of_different_ranks(name: str, unit_axis: int) -> None:
    module, forward = SHARED[name]
    checked(Net(forward, m=module), X, unit_axis, torch.randn(2, 4, 2))


STRIDES: dict[str, Callable[..., Any]] = {
    "residual, viewed": lambda s, x: s.b(torch.tanh(x) + s.a(x)).view(x.size(0), -1),
    "scaled": lambda s, x: s.b(F.relu(x) * s.p),
    "norm": lambda s, x: s.n(torch.tanh(x) + s.a(x)),
    "pad": lambda s, x: F.pad(torch.tanh(x) + s.a(x), (1, 1)),
    "average pool": lambda s, x: s.b(x)[..., :2].mean() + F.avg_pool1d(torch.tanh(x), 3, 1, 1) * s.a(x).mean(),
    "interpolate": lambda s, x: F.interpolate(torch.tanh(x) + s.a(x), scale_factor=2),
    "gate": lambda s, x: s.b(torch.tanh(x) * torch.sigmoid(s.a(x.mean(-1, keepdim=True)))),
    "rms norm": lambda s, x: s.r((s.b(x) + x).transpose(1, 2)).view(x.size(0), -1),
    "written through a view": lambda s, x: written(s.b(F.relu(x) * s.p) * 2),
    "dropout": lambda s, x: F.dropout(s.b(torch.tanh(x) * s.p), 0.5, True),
}


def written(y: torch.Tensor) -> torch.Tensor:
    y.reshape(y.size(0), -1).mul_(2)
    return y


@AXES
@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("sample", [X, TRANSPOSED], ids=["contiguous", "transposed"])
def test_strides_and_what_depends_on_them(name: str, sample: torch.Tensor, unit_axis: int) -> None:
    net = Net(STRIDES[name], n=nn.BatchNorm1d(4), r=nn.RMSNorm(4))
    checked(net, sample, unit_axis, X, TRANSPOSED)


@AXES
@pytest.mark.parametrize("pool", [nn.MaxPool1d(2, return_indices=True), nn.AdaptiveMaxPool1d(3, return_indices=True)])
def test_a_shared_pool_one_of_whose_tuples_is_used_whole(pool: nn.Module, unit_axis: int) -> None:
    def forward(s: Any, x: torch.Tensor) -> Any:
        values, _ = s.m(s.a(x))
        return s.b(values), s.m(x)

    checked(Net(forward, m=pool), X, unit_axis)


@AXES
def test_a_layer_norm_whose_weight_is_read_elsewhere(unit_axis: int) -> None:
    def reads(s: Any, x: torch.Tensor) -> torch.Tensor:
        walled = torch.fft.fft(s.n(torch.fft.fft(x.transpose(1, 2)).real)).real
        return s.a(x) * s.n.weight[:, None] + walled.transpose(1, 2)

    checked(Net(reads, n=nn.LayerNorm(4)), X, unit_axis)
    one, other = nn.LayerNorm(4), nn.LayerNorm(4)
    other.weight = one.weight

    def tied(s: Any, x: torch.Tensor) -> torch.Tensor:
        y = s.b(s.n(s.a(x).transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        return torch.fft.fft(s.o(torch.fft.fft(y).real)).real

    checked(Net(tied, n=one, o=other), X, unit_axis)
    checked(Net(lambda s, x: s.b(s.n(s.a(x))), n=nn.LayerNorm((4, 8))), X, unit_axis, torch.randn(1, 4, 8))


NUMBERS: dict[str, Callable[..., Any]] = {
    "flatten": lambda s, x: s.b(s.a(x) * s.a(x).mean().flatten()),
    "sum": lambda s, x: s.b(s.a(x) * s.a(x).mean().sum(-1)),
    "argmax": lambda s, x: s.b(s.a(x) * s.a(x).mean().argmax(0)),
    "max": lambda s, x: s.b(s.a(x) * s.a(x).mean().max(0).values),
    "unsqueeze": lambda s, x: s.b(s.a(x) * s.a(x).mean().unsqueeze(0)),
}


@AXES
@pytest.mark.parametrize("name", NUMBERS)
def test_operators_on_one_number(name: str, unit_axis: int) -> None:
    checked(Net(NUMBERS[name]), X, unit_axis)


def test_a_rank_that_depends_on_the_input_is_found_by_a_second_sample() -> None:
    net = Net(lambda s, x: s.b(torch.softmax(s.a(x).squeeze(0), 1)))
    checked(net, X[:1], -2)
    with pytest.raises(convsurgeon.EquivalenceError):
        convsurgeon.convert(net, [X[:1].double(), X.double()])


WHOLE: dict[str, Callable[..., Any]] = {
    "where with a number": lambda s, x: s.b(torch.where((y := s.a(x)) > 0, y, 0.0)),
    "interpolate by a list": lambda s, x: s.b(F.interpolate(s.a(x), scale_factor=[2.0], mode="linear")),
    "interpolate to a shape": lambda s, x: s.b(F.interpolate(F.max_pool1d(y := s.a(x), 2), size=y.shape[2:])),
    "interpolate to a size": lambda s, x: s.b(F.interpolate(F.max_pool1d(y := s.a(x), 2), size=y.size()[2:])),
    "type_as": lambda s, x: s.b((y := s.a(x)) * (y > 0).type_as(y)),
    "chunk by keywords": lambda s, x: s.b(torch.cat([p.relu() for p in [s.a(x).chunk(chunks=2, dim=1)[0]] * 2], 1)),
}


@AXES
@pytest.mark.parametrize("name", WHOLE)
def test_neighbours_that_left_the_region(name: str, unit_axis: int) -> None:
    assert len(checked(Net(WHOLE[name]), X, unit_axis, torch.randn(1, 4, 12)).plan.borders) == 2


TWICE: dict[str, Callable[..., Any]] = {
    "linear": lambda s, x: s.b(F.linear(y := torch.tanh(s.a(x)), y)),
    "matmul": lambda s, x: s.b(torch.matmul(y := torch.tanh(s.a(x)), y)),
    "matmul operator": lambda s, x: s.b((y := torch.tanh(s.a(x))) @ y),
}


@AXES
@pytest.mark.parametrize("name", TWICE)
def test_one_value_as_the_operand_that_is_lifted_and_as_the_matrix_that_is_not(name: str, unit_axis: int) -> None:
    checked(Net(TWICE[name]), torch.randn(4, 4), unit_axis)


@AXES
def test_a_layer_that_is_called_by_its_own_keyword(unit_axis: int) -> None:
    checked(Net(lambda s, x: s.b(s.m(x=s.a(x).transpose(1, 2)).transpose(1, 2)), m=nn.RMSNorm(4)), X, unit_axis)


@AXES
@pytest.mark.parametrize("channels", [1, 4])
def test_a_pruned_prelu(channels: int, unit_axis: int) -> None:
    prelu = nn.PReLU(channels)
    prune.l1_unstructured(prelu, "weight", amount=0.5)
    assert len(checked(Net(lambda s, x: s.b(s.m(s.a(x))), m=prelu), X, unit_axis).plan.borders) == 2


OF_NO_AXIS: dict[str, Callable[..., Any]] = {
    "any": lambda s, x: s.b((y := s.a(x)) * (y > 0).any(dim=())),
    "all": lambda s, x: s.b((y := s.a(x)) * torch.all(y > 0, dim=[])),
    "sum": lambda s, x: s.b((y := s.a(x)) * y.sum(dim=())),
}


@AXES
@pytest.mark.parametrize("name", OF_NO_AXIS)
def test_a_reduction_over_no_axes(name: str, unit_axis: int) -> None:
    checked(Net(OF_NO_AXIS[name]), X, unit_axis)


@AXES
@pytest.mark.parametrize("like", [torch.rand_like, torch.randn_like])
def test_noise_in_a_layout_of_its_own(like: Callable[..., torch.Tensor], unit_axis: int) -> None:
    def noisy(s: Any, x: torch.Tensor) -> Any:
        y = s.a(x).unflatten(1, (2, 2))
        return s.b((y + like(y, memory_format=torch.channels_last)).flatten(1, 2))

    checked(Net(noisy), X, unit_axis)


@AXES
def test_one_transposed_convolution_to_two_lengths(unit_axis: int) -> None:
    def forward(s: Any, x: torch.Tensor) -> Any:
        y = s.d(x)
        return s.m(s.m(s.d(y), output_size=y.size()), output_size=x.size())

    down, up = nn.Conv1d(4, 4, 3, stride=2, padding=1), nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1)
    conversion = checked(Net(forward, d=down, m=up), X, unit_axis, torch.randn(1, 4, 11))
    assert not conversion.plan.kept


@AXES
@pytest.mark.parametrize(
    "written",
    [
        lambda y: torch.permute(input=torch.permute(input=y, dims=(0, 2, 1)), dims=(0, 2, 1)),
        lambda y: y.permute(dims=(0, 2, 1)).permute(dims=(0, 2, 1)),
        lambda y: torch.flip(input=y, dims=(-1,)),
        lambda y: torch.flip(y, dims=(-1,)),
        lambda y: y - y.mean(-1, keepdims=True),
    ],
)
def test_several_values_that_are_named_and_numpys_keepdims(written: Callable[..., Any], unit_axis: int) -> None:
    net = Net(lambda s, x: s.b(written(s.a(x))))
    conversion = checked(net, X, unit_axis, torch.randn(3, 4, 11))
    assert len(conversion.plan.borders) == 2


@AXES
@pytest.mark.parametrize("capture", ["trace", "export"])
def test_a_value_that_is_detached_in_place(capture: Any, unit_axis: Any) -> None:
    def forward(s: Any, x: torch.Tensor) -> Any:
        h = s.a(x)
        h.detach_()
        return s.b(torch.relu(s.a(x)) + h), h

    net = Net(forward).double()
    module = convsurgeon.convert(net, X.double(), capture=capture, unit_axis=unit_axis, copy_weights=True).module
    for one in (net, module):
        result, kept = one(X.double())
        assert (result.requires_grad, kept.requires_grad) == (True, False)
        result.sum().backward()
    torch.testing.assert_close(module.get_parameter("a.weight").grad.flatten(), net.a.weight.grad.flatten())
