"""Both convolutions over their whole parameter space, against a float64 run of the original."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import convsurgeon

pytestmark = [
    # nn.Module.to() says so of every module that goes to a complex dtype
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature"),
    # torch says so of "same" with an even kernel, in 1-D and in 2-D
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

LIFTS = st.sampled_from(["regions", "ops"])
AXES = st.sampled_from([-2, -1])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """A Conv1d of any parameters, with an input that it accepts."""
    groups = draw(st.integers(1, 3))
    kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.one_of(st.integers(0, 4), st.sampled_from(["same", "valid"])))
    stride = 1 if padding == "same" else draw(st.integers(1, 4))
    dtype = draw(DTYPES)
    conv = nn.Conv1d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
        dtype=dtype,
    )
    return conv, _input(draw, conv.in_channels, 1 + dilation * kernel, dtype)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """A ConvTranspose1d of any parameters, with an input that it accepts."""
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    output_padding = draw(st.integers(0, max(stride, dilation) - 1))
    dtype = draw(DTYPES)
    conv = nn.ConvTranspose1d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride,
        draw(st.integers(0, 2)),
        output_padding,
        groups,
        bias=draw(st.booleans()),
        dilation=dilation,
        dtype=dtype,
    )
    return conv, _input(draw, conv.in_channels, 6, dtype)


def _input(draw: st.DrawFn, channels: int, least: int, dtype: torch.dtype) -> torch.Tensor:
    length = draw(st.integers(least, least + 9))
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        return torch.randn(*batch, length, channels, generator=generator).to(dtype).transpose(-1, -2)
    return torch.randn(*batch, channels, length, generator=generator).to(dtype)


class Functional(nn.Module):
    """The same convolution spelled as a function, keyword by keyword or in order."""

    def __init__(self, conv: nn.Module, *, keywords: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.keywords = conv.weight, conv.bias, keywords
        self.function = F.conv1d if isinstance(conv, nn.Conv1d) else F.conv_transpose1d
        names = ["stride", "padding", "dilation", "groups"]
        if isinstance(conv, nn.ConvTranspose1d):
            names = ["stride", "padding", "output_padding", "groups", "dilation"]
        self.settings = {name: getattr(conv, name) for name in names}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.keywords:
            return self.function(weight=self.weight, input=x, bias=self.bias, **self.settings)
        return self.function(x, self.weight, self.bias, *self.settings.values())


def assert_same(model: nn.Module, x: torch.Tensor, **options: object) -> None:
    """Convert, compare on `x` and on another batch and length, in the model's dtype and in float64; strides too."""
    try:
        expected = model(x)
    except RuntimeError:
        assume(False)
    model.requires_grad_(False)
    conversion = convsurgeon.convert(model, x, **options)
    assert len(conversion.plan.convolutions) == 1
    assert layout(conversion.module(x)) == layout(expected)
    other = torch.cat([x, x], -1) if x.dim() == 2 else torch.cat([torch.cat([x, x], -1)] * 2)
    wide = torch.complex128 if x.is_complex() else torch.float64
    model, module = model.to(wide), conversion.module.to(wide)
    for sample in (x.to(wide), other.to(wide)):
        torch.testing.assert_close(module(sample), model(sample), rtol=1e-12, atol=1e-12)


def layout(value: torch.Tensor) -> list[int]:
    """The strides that mean something: an axis of size 1 has none."""
    return [stride for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1]


@settings(max_examples=150)
@given(convolutions(), LIFTS, AXES)
def test_conv1d_module(case: tuple[nn.Module, torch.Tensor], lift: str, axis: int) -> None:
    assert_same(nn.Sequential(case[0]), case[1], lift=lift, unit_axis=axis)


@settings(max_examples=100)
@given(convolutions(), LIFTS, AXES, st.booleans())
def test_conv1d_function(case: tuple[nn.Module, torch.Tensor], lift: str, axis: int, keywords: bool) -> None:
    assert_same(Functional(case[0], keywords=keywords), case[1], lift=lift, unit_axis=axis)


@settings(max_examples=150)
@given(transposed_convolutions(), LIFTS, AXES)
def test_conv_transpose1d_module(case: tuple[nn.Module, torch.Tensor], lift: str, axis: int) -> None:
    assert_same(nn.Sequential(case[0]), case[1], lift=lift, unit_axis=axis)


@settings(max_examples=100)
@given(transposed_convolutions(), LIFTS, AXES, st.booleans())
def test_conv_transpose1d_function(case: tuple[nn.Module, torch.Tensor], lift: str, axis: int, keywords: bool) -> None:
    assert_same(Functional(case[0], keywords=keywords), case[1], lift=lift, unit_axis=axis)


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (2, 4, 1, 8)), ({"stride": 2, "padding": 1}, (2, 4, 1, 5)), ({"dilation": 2}, (2, 4, 1, 6))],
    ids=["plain", "stride 2 and padding 1", "dilation 2"],
)
def test_the_classic_cases(options: dict[str, int], shape: tuple[int, ...]) -> None:
    model, x = nn.Sequential(nn.Conv1d(3, 4, 3, **options)), torch.randn(2, 3, 10)
    module = convsurgeon.convert(model, x).module
    conv = module.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    assert conv(x.unsqueeze(-2)).shape == shape
    torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)


class Upsampled(nn.Module):
    def __init__(self, size: object) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 3, 3, stride=2)
        self.up = nn.ConvTranspose1d(3, 2, 3, stride=2)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.size() if self.size == "like input" else x.shape[-1:] if self.size == "length" else self.size
        if self.size == "list":
            size = [x.size(2)]
        return self.up(self.down(x), output_size=size)


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("size", ["like input", "length", "list", [12], (2, 2, 12)])
def test_output_size_in_forward(size: object, axis: int) -> None:
    model, x = Upsampled(size).eval(), torch.randn(2, 2, 12)
    conversion = convsurgeon.convert(model, x, unit_axis=axis)
    assert len(conversion.plan.convolutions) == 2
    assert conversion.module(x).shape == model(x).shape
    if isinstance(size, str):
        longer = torch.randn(3, 2, 20)
        torch.testing.assert_close(conversion.module(longer), model(longer))


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="there torch.fx can't trace a computed stride")
def test_a_stride_that_the_graph_computes_is_carried_over() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 2, 3))

        def forward(self, x: torch.Tensor, stride: int) -> torch.Tensor:
            return F.conv1d(x, self.weight, stride=stride + 1)

    model, x = Computed(), torch.randn(1, 2, 20)
    conversion = convsurgeon.convert(model, (x, 1))
    assert [one.becomes for one in conversion.plan.lifted] == ["conv2d"]
    torch.testing.assert_close(conversion.module(x, 3), model(x, 3))
