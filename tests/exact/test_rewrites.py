"""Every exact rewrite over its parameter space, in float64, at other lengths than the sample's as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact_support import AXES, CAPTURES, Called, convolutions, rewritten, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import convsurgeon
from convsurgeon.exact import Notes

pytestmark = [
    # torch says so of "same" with an even kernel, in 1-D and in 2-D
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

Drawn = tuple[nn.Module, torch.Tensor]
ODD = (41, 50, 63)
"""Lengths that no sample has, with different rests."""


def done_in(module: Any) -> set[str]:
    """The layers that the graph calls."""
    return {type(module.get_submodule(node.target)).__name__ for node in module.graph.find_nodes(op="call_module")}


def done(notes: Notes) -> list[str]:
    return [one.rewrite for one in notes.rewritten]


def reasons(notes: Notes) -> str:
    return "; ".join(one.reason for one in notes.left)


def between_convolutions(module: nn.Module) -> nn.Module:
    """So that it is computed in 2-D whatever it makes of the length."""
    return nn.Sequential(nn.Conv1d(1, 2, 1), module, nn.Conv1d(2, 1, 1)).double()


def is_smooth(number: int, limit: int) -> bool:
    """Whether it is a product of numbers up to the limit."""
    return all(number % prime or prime <= limit for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29))


def layer_of(model: nn.Module) -> Any:
    first = model[0]  # type: ignore[index]
    return first if not isinstance(first, Called) else type("Numbers", (), {**first.numbers, "weight": first.weight})


@given(convolutions(strides=6), AXES)
@settings(max_examples=60)
def test_fold_stride(drawn: Drawn, unit_axis: Any) -> None:
    model, x = drawn
    module, notes = rewritten(model, x, ["fold_stride"], lengths=ODD, unit_axis=unit_axis)
    strided = layer_of(model).stride[0] > 1
    assert done(notes) == ["fold_stride"] * strided
    assert not notes.left
    convs = [one for one in module.modules() if isinstance(one, nn.Conv2d)]
    assert all(max(one.stride) == 1 for one in convs)  # type: ignore[type-var]


@given(convolutions(strides=6, same=True), AXES, st.integers(2, 20))
@settings(max_examples=100)
def test_fold_into_channels(drawn: Drawn, unit_axis: Any, depth: int) -> None:
    model, x = drawn
    layer = layer_of(model)
    stride, inputs = layer.stride[0], layer.weight.shape[1] * layer.groups
    module, notes = rewritten(model, x, [f"fold_into_channels:{depth}"], lengths=ODD, unit_axis=unit_axis)
    wanted = stride > 1 or 2 * inputs <= depth
    assert done(notes) == ["fold_into_channels"] * (wanted and layer.groups == 1)
    assert ("groups, each of which" in reasons(notes)) == (wanted and layer.groups > 1)
    for one in module.modules():
        if isinstance(one, nn.Conv2d) and done(notes):
            assert max(one.stride) == 1  # type: ignore[type-var]
            assert stride * inputs <= one.in_channels <= max(depth, stride * inputs)


class Behind(nn.Module):
    """What may stand behind a convolution: pointwise operators, one that writes, and one whose value is read twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv1d(1, 3, 9, 2, dtype=torch.float64), kind
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
        self.relu = nn.ReLU(inplace=kind == "writes")
        self.after = nn.Conv1d(3, 1, 2, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)) if self.kind == "norm" else self.conv(x)
        y = torch.tanh(self.relu(x))
        if self.kind == "twice":
            return self.after(y + x)
        return y.view(y.shape[0], -1) if self.kind == "view" else y if self.kind == "last" else self.after(y * 2)


@CAPTURES
@pytest.mark.parametrize("kind", ["plain", "norm", "writes", "twice", "last", "view"])
@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_fold_into_channels_takes_pointwise_operators_along(capture: Any, kind: str, unit_axis: Any) -> None:
    model = Behind(kind).eval()
    module, notes = rewritten(
        model, wide(2, 1, 60), ["fold_into_channels:4"], lengths=(61, 73), unit_axis=unit_axis, capture=capture
    )
    assert done(notes) == ["fold_into_channels"]
    order = [str(node.target) for node in module.graph.nodes]  # type: ignore[union-attr]
    turns = max(at for at, name in enumerate(order) if "permute" in name)
    assert (next(at for at, name in enumerate(order) if "tanh" in name) < turns) == (kind != "twice")
    assert (module.captured_mode == "eval") == (kind == "norm")
    assert torch.export.export(module, (wide(2, 1, 60),)).module()(wide(2, 1, 60)).shape[0] == 2


class Root(nn.Module):
    """A root of what is positive wherever the model computes it, and 0 in what is computed beside that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 9, 2, bias=False, dtype=torch.float64)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(self.conv(x.abs() + 1))


def test_fold_into_channels_has_the_gradients_of_a_root_behind() -> None:
    model, inputs = Root().eval(), [wide(2, 1, 60).requires_grad_() for _ in range(2)]
    module, notes = rewritten(model, inputs[0].detach(), ["fold_into_channels:16"])
    assert done(notes) == ["fold_into_channels"]
    for one, x in zip((model, module), inputs, strict=True):
        one(x).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    assert all(bool(one.grad.isfinite().all()) for one in module.parameters() if one.grad is not None)


@given(convolutions(strides=4, dilations=3, same=True), AXES, st.sampled_from(["trace", "export"]))
@settings(max_examples=80)
def test_convolution_as_product(drawn: Drawn, unit_axis: Any, capture: str) -> None:
    model, x = drawn
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module, notes = rewritten(
        model,
        x,
        ["convolution_as_product"],
        lengths=ODD if capture == "trace" else (),
        unit_axis=unit_axis,
        capture=capture,
    )
    assert done(notes) == ["convolution_as_product"] * (x.ndim == 3)
    assert ("no batch" in reasons(notes)) == (x.ndim == 2)
    assert not notes.baked
    module.load_state_dict(before)
    assert not any("conv" in str(node.target) for node in module.graph.nodes) or x.ndim == 2  # type: ignore[union-attr]
    if capture == "trace" and x.ndim == 3:
        assert module(x[:0]).shape == model(x[:0]).shape


@CAPTURES
@given(st.integers(1, 4), st.integers(2, 4), st.integers(1, 5), st.integers(1, 3), st.booleans(), AXES)
@settings(max_examples=20)
def test_repeat_inputs(
    capture: str, channels: int, times: int, taps: int, stride: int, bias: bool, unit_axis: Any
) -> None:
    layer = nn.Conv1d(channels, channels * times, taps, stride, 1, groups=channels, bias=bias, dtype=torch.float64)
    model = nn.Sequential(layer, nn.Tanh())
    for x in (wide(2, channels, 20), wide(channels, 20)):
        module, notes = rewritten(
            model, x, ["repeat_inputs"], unit_axis=unit_axis, capture=capture, lengths=ODD if capture == "trace" else ()
        )
        assert done(notes) == ["repeat_inputs"] * (channels > 1)
        assert not notes.left
        assert not notes.baked
        groups = {one.groups for one in module.modules() if isinstance(one, nn.Conv2d)}
        assert groups <= {channels * times if channels > 1 else 1}


@given(convolutions(dilations=5, same=True), AXES)
@settings(max_examples=60)
def test_fold_dilation(drawn: Drawn, unit_axis: Any) -> None:
    model, x = drawn
    module, notes = rewritten(model, x, ["fold_dilation"], lengths=ODD, unit_axis=unit_axis)
    assert done(notes) == ["fold_dilation"] * (layer_of(model).dilation[0] > 1)
    convs = [one for one in module.modules() if isinstance(one, nn.Conv2d)]
    assert all(max(one.dilation) == 1 for one in convs)  # type: ignore[type-var]


@given(convolutions(strides=3, dilations=3, same=True), AXES, st.integers(2, 5))
@settings(max_examples=60)
def test_split_kernel(drawn: Drawn, unit_axis: Any, limit: int) -> None:
    model, x = drawn
    module, notes = rewritten(model, x, [f"split_kernel:{limit}"], lengths=ODD, unit_axis=unit_axis)
    assert done(notes) == ["split_kernel"] * (layer_of(model).weight.shape[-1] > limit)
    convs = [one for one in module.modules() if isinstance(one, nn.Conv2d)]
    assert all(max(one.kernel_size) <= limit for one in convs)


@given(convolutions(strides=4, dilations=3, transposed=True), AXES)
@settings(max_examples=60)
def test_crop_padding(drawn: Drawn, unit_axis: Any) -> None:
    model, x = drawn
    module, notes = rewritten(model, x, ["crop_padding"], lengths=ODD, unit_axis=unit_axis)
    assert not notes.left
    for one in module.modules():
        if isinstance(one, nn.ConvTranspose2d):
            assert (one.padding, one.output_padding, one.dilation) == ((0, 0), (0, 0), (1, 1))


@given(convolutions(strides=4, dilations=3, transposed=True), AXES)
@settings(max_examples=60)
def test_transposed_as_convolution(drawn: Drawn, unit_axis: Any) -> None:
    model, x = drawn
    module, notes = rewritten(model, x, ["transposed_as_convolution"], lengths=ODD, unit_axis=unit_axis)
    assert done(notes) == ["transposed_as_convolution"]
    assert "transpose2d" not in module.code
    assert not any(isinstance(one, nn.ConvTranspose2d) for one in module.modules())


@given(convolutions(strides=3, dilations=2, same=True) | convolutions(strides=3, transposed=True), AXES, st.booleans())
@settings(max_examples=60)
def test_ungroup(drawn: Drawn, unit_axis: Any, dense: bool) -> None:
    model, x = drawn
    name = "ungroup_dense" if dense else "ungroup_split"
    module, notes = rewritten(model, x, [name], lengths=ODD, unit_axis=unit_axis)
    groups = layer_of(model).groups
    assert done(notes) == [name] * (groups > 1)
    assert all(one.groups == 1 for one in module.modules() if isinstance(one, (nn.Conv2d, nn.ConvTranspose2d)))
    if groups > 1:
        assert notes.rewritten[0].after.macs == notes.rewritten[0].before.macs * (groups if dense else 1)


@given(convolutions(strides=3, dilations=2, same=True) | convolutions(strides=3, transposed=True), AXES, st.booleans())
@settings(max_examples=60)
def test_fold_batch_norm(drawn: Drawn, unit_axis: Any, affine: bool) -> None:
    model, x = drawn
    norm = nn.BatchNorm1d(model(x).shape[-2], affine=affine, dtype=torch.float64)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = x if x.ndim == 3 else x[None]
    model = nn.Sequential(model[0], norm, nn.ReLU()).eval()
    module, notes = rewritten(model, x, ["fold_batch_norm"], lengths=ODD, unit_axis=unit_axis)
    assert done(notes) == ["fold_batch_norm"]
    assert "BatchNorm" not in str(done_in(module))
    with pytest.raises(convsurgeon.UnsupportedError, match="eval mode only"):
        module.train()


@given(convolutions(strides=2, dilations=2), st.integers(0, 4), st.integers(0, 4), AXES)
@settings(max_examples=60)
def test_merge_padding(drawn: Drawn, left: int, right: int, unit_axis: Any) -> None:
    model, x = drawn
    _, notes = rewritten(
        nn.Sequential(nn.ZeroPad1d((left, right)), *model), x, ["merge_padding"], lengths=ODD, unit_axis=unit_axis
    )
    assert done(notes) == ["merge_padding"] * (left == right)
    assert ("and a convolution pads both sides alike" in reasons(notes)) == (left != right)


@given(convolutions(strides=2, dilations=2, same=True), st.sampled_from(["zeros", "reflect", "circular"]), AXES)
@settings(max_examples=60)
def test_separate_padding(drawn: Drawn, mode: str, unit_axis: Any) -> None:
    model, x = drawn
    if isinstance(model[0], nn.Conv1d):  # type: ignore[index]
        model[0].padding_mode = mode  # type: ignore[index]
    module, _ = rewritten(model, x, ["separate_padding"], lengths=ODD, unit_axis=unit_axis)
    for one in module.modules():
        if isinstance(one, nn.Conv2d):
            assert one.padding in ((0, 0), "valid") or (one.padding, one.kernel_size) == ("same", (1, 1))


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 6), st.integers(2, 5), AXES)
@settings(max_examples=60)
def test_split_max_pool(taps: int, stride: int, padding: int, limit: int, unit_axis: Any) -> None:
    model = between_convolutions(nn.MaxPool1d(taps, stride, min(padding, taps // 2)))
    _, notes = rewritten(model, wide(2, 1, 12), [f"split_pool:{limit}"], lengths=range(13, 30), unit_axis=unit_axis)
    assert done(notes) == ["split_pool"] * (taps > limit)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 6), st.integers(2, 4), AXES)
@settings(max_examples=100)
def test_split_max_pool_stride(taps: int, stride: int, padding: int, limit: int, unit_axis: Any) -> None:
    model = between_convolutions(nn.MaxPool1d(taps, stride, min(padding, taps // 2)))
    _, notes = rewritten(
        model, wide(2, 1, 12), [f"split_pool_stride:{limit}"], lengths=range(13, 40), unit_axis=unit_axis
    )
    assert done(notes) == ["split_pool_stride"] * (stride > limit and is_smooth(stride, limit))
    assert bool(notes.rewritten) or stride <= limit or "no product of numbers" in reasons(notes)


@given(st.integers(1, 30), st.integers(2, 5), AXES)
def test_split_average_pool_stride(taps: int, limit: int, unit_axis: Any) -> None:
    model = between_convolutions(nn.AvgPool1d(taps))
    _, notes = rewritten(model, wide(2, 1, 60), [f"split_pool_stride:{limit}"], lengths=(61, 89), unit_axis=unit_axis)
    assert done(notes) == ["split_pool_stride"] * (taps > limit and is_smooth(taps, limit))


@given(st.integers(1, 30), st.integers(2, 5), AXES)
def test_split_average_pool(taps: int, limit: int, unit_axis: Any) -> None:
    model = between_convolutions(nn.AvgPool1d(taps))
    _, notes = rewritten(model, wide(2, 1, 60), [f"split_pool:{limit}"], lengths=(61, 75, 89), unit_axis=unit_axis)
    smooth = is_smooth(taps, limit)
    assert done(notes) == ["split_pool"] * (taps > limit and smooth)
    assert taps <= limit or smooth or "no product of numbers" in reasons(notes)


@given(st.integers(1, 24), st.integers(4, 30), st.sampled_from([nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d]), AXES)
def test_fix_adaptive_pool(size: int, length: int, pool: Any, unit_axis: Any) -> None:
    model = between_convolutions(pool(size))
    module, notes = rewritten(model, wide(2, 1, length), ["fix_pool"], unit_axis=unit_axis)
    assert bool(notes.rewritten) or "several sizes" in reasons(notes)
    assert bool(notes.rewritten) or length % size
    if notes.rewritten:
        with pytest.raises(ValueError, match=f"fixed it to {length}"):
            module(wide(2, 1, length + 1))


class Mean(nn.Module):
    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.conv, self.keepdim = nn.Conv1d(1, 2, 3, dtype=torch.float64), keepdim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(-1, keepdim=self.keepdim)


@CAPTURES
@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_fix_mean(capture: Any, keepdim: bool, unit_axis: Any) -> None:
    model = Mean(keepdim)
    module, notes = rewritten(model, wide(2, 1, 20), ["fix_pool"], unit_axis=unit_axis, capture=capture)
    assert done(notes) == ["fix_pool"]
    with pytest.raises(ValueError, match="fixed it to 18"):
        module(wide(2, 1, 21))


class Mixer(nn.Module):
    """A pointwise layer between two convolutions, over channels that stand last."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.before, self.after = nn.Conv1d(1, 6, 3, dtype=torch.float64), nn.Conv1d(4, 2, 3, dtype=torch.float64)
        self.linear, self.called = nn.Linear(6, 4, dtype=torch.float64), called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x).transpose(1, 2)
        x = F.linear(x, self.linear.weight, self.linear.bias) if self.called else self.linear(x)
        return self.after(x.transpose(1, 2))


@CAPTURES
@pytest.mark.parametrize("called", [True, False])
def test_linear_as_convolution_leaves_no_transposition(capture: Any, called: bool) -> None:
    module, notes = rewritten(
        Mixer(called), wide(2, 1, 20), ["linear_as_convolution"], lengths=(21, 33), capture=capture
    )
    assert done(notes) == ["linear_as_convolution"]
    assert "transpose" not in module.code


def test_linear_at_the_end_is_transposed_there() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(1, 6, 3).double(), nn.Linear(6, 4, bias=False).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.conv(x).transpose(1, 2).relu())

    _, notes = rewritten(Head(), wide(2, 1, 20), ["linear_as_convolution"], lengths=(21, 33))
    assert done(notes) == ["linear_as_convolution"]
