"""What goes wrong in such tools, each reproduced as a model and seen to go right: values, forms and weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon
from convsurgeon import Conversion


def converted(model: nn.Module, *inputs: torch.Tensor, **options: object) -> Conversion:
    """Convert in both unit axes, compare on the sample, on one of batch 1 and on a longer one; the default's result."""
    model.eval()
    longer = tuple(torch.cat([x, x], -1) if x.dim() == 3 and x.shape[-1] > 1 else x for x in inputs)
    one = tuple(x[:1] if x.dim() == 3 and x is inputs[0] else x for x in inputs)
    for axis in (-1, -2):
        conversion = convsurgeon.convert(model, inputs, unit_axis=axis, **options)
        for sample in (inputs, one, longer):
            expected, found = model(*clones(sample)), conversion.module(*clones(sample))
            torch.testing.assert_close(found, expected)
    return conversion


def clones(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.clone() for x in inputs)


class Calls(nn.Module):
    """A model whose forward is a function of itself and its inputs."""

    def __init__(self, **parts: object) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def test_a_module_called_twice_is_converted_once_and_shared() -> None:
    class Twice(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(F.relu(self.conv(x)))

    conversion = converted(Twice(conv=nn.Conv1d(3, 3, 3, padding=1)), torch.randn(2, 3, 9))
    assert [node.target for node in conversion.module.graph.find_nodes(op="call_module")] == ["conv", "conv"]
    assert isinstance(conversion.module.conv, nn.Conv2d)
    assert len(conversion.plan.borders) == 2


def test_a_replaced_module_called_inside_and_outside_a_region_keeps_one_form() -> None:
    class Both(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inside = self.conv2(self.norm(self.conv1(x)))
            return torch.cumsum(self.norm(torch.cumsum(inside, -1)), -1)

    parts = {"conv1": nn.Conv1d(3, 3, 3), "conv2": nn.Conv1d(3, 3, 3), "norm": nn.BatchNorm1d(3)}
    converted(Both(**parts), torch.randn(2, 3, 12))


def test_tied_weights_stay_tied() -> None:
    class Tied(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    model = Tied(a=nn.Conv1d(3, 3, 3, padding=1), b=nn.Conv1d(3, 3, 3, padding=1, dilation=1))
    model.b.weight = model.a.weight
    module = converted(model, torch.randn(2, 3, 9)).module
    assert module.a.weight is module.b.weight
    assert module.a.weight.shape == (3, 3, 1, 3)
    assert len(list(module.parameters())) == len(list(model.parameters()))


def test_a_weight_tied_to_a_module_that_stays_keeps_both_1d() -> None:
    class Tied(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    model = Tied(a=nn.Conv1d(3, 3, 3), b=nn.Conv1d(3, 3, 3))
    model.b.weight = model.a.weight
    conversion = converted(model, torch.randn(2, 3, 9), exclude=["b"])
    assert not conversion.plan.lifted
    assert "also that of b, which stays 1-D" in next(one for one in conversion.plan.kept if one.name == "a").reason


def test_a_converted_weight_that_is_read_elsewhere_keeps_its_shape_there() -> None:
    class Reads(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.conv.weight.squeeze(1).sum() + self.conv.weight.flatten(1).mean(1)[None, :, None]

    conversion = converted(Reads(conv=nn.Conv1d(4, 4, 3, groups=4)), torch.randn(2, 4, 9))
    assert conversion.module.conv.weight.shape == (4, 1, 1, 3)


def test_a_weight_is_also_returned() -> None:
    class Returns(Calls):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return F.conv1d(x, self.weight), self.weight

    conversion = converted(Returns(weight=nn.Parameter(torch.randn(4, 3, 3))), torch.randn(2, 3, 9))
    assert conversion.module(torch.randn(1, 3, 8))[1].shape == (4, 3, 3)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_same_padding_of_even_kernels_stays_asymmetric(kernel: int, dilation: int, mode: str) -> None:
    conv = nn.Conv1d(2, 3, kernel, padding="same", dilation=dilation, padding_mode=mode)
    module = converted(nn.Sequential(conv), torch.randn(2, 2, 16)).module
    assert module.get_submodule("0").padding == "same"
    assert module.get_submodule("0").padding_mode == mode


def test_unbatched_input() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3))
    conversion = convsurgeon.convert(model, torch.randn(3, 12))
    assert len(conversion.plan.borders) == 2
    x = torch.randn(3, 20)
    torch.testing.assert_close(conversion.module(x), model(x))


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 3, 1), (1, 1, 1), (2, 1, 1)])
def test_axes_of_size_one_are_not_squeezed_away(shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Conv1d(shape[1], shape[1], 1), nn.Tanh())
    x = torch.randn(shape)
    conversion = convsurgeon.convert(model, x)
    assert conversion.module(x).shape == shape
    torch.testing.assert_close(conversion.module(x), model(x))


def test_arguments_by_keyword_by_position_and_left_out() -> None:
    class Spelled(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.conv1d(x, self.weight)
            x = torch.conv1d(x, self.weight, None, 2, 1)
            x = F.conv1d(weight=self.weight, input=x, padding="same")
            return torch.nn.functional.conv_transpose1d(x, self.weight, dilation=2, stride=(3,))

    conversion = converted(Spelled(weight=nn.Parameter(torch.randn(3, 3, 3))), torch.randn(2, 3, 30))
    assert len(conversion.plan.convolutions) == 4
    assert len(conversion.plan.borders) == 2


def test_a_weight_times_a_mask() -> None:
    class Masked(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv1d(x, (self.weight * self.mask).to(x.dtype), padding=1)

    model = Masked(weight=nn.Parameter(torch.randn(3, 3, 3)))
    model.register_buffer("mask", torch.tensor([1.0, 1.0, 0.0]))
    conversion = converted(model, torch.randn(2, 3, 9))
    assert [entry.name for entry in conversion.weight_map.entries if entry.moves] == ["weight"]
    assert len(conversion.plan.borders) == 2


def test_hook_style_weight_norm_stays_alive() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv1d(3, 4, 3)), nn.ReLU()).eval()
    conversion = converted(model, torch.randn(2, 3, 9))
    assert [one.becomes for one in conversion.plan.convolutions] == ["conv2d"]
    assert list(conversion.module.state_dict()) == list(model.state_dict())
    conversion.module.get_parameter("0.weight_g").data.mul_(2)
    x = torch.randn(1, 3, 9)
    torch.testing.assert_close(conversion.module(x), model(x))


def test_parametrized_weight_norm_stays_alive() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), nn.ReLU()).eval()
    conversion = converted(model, torch.randn(2, 3, 9))
    assert [one.becomes for one in conversion.plan.convolutions] == ["conv2d"]
    assert list(conversion.module.state_dict()) == list(model.state_dict())


def test_other_parametrizations_stay_alive() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 4, 3)), nn.Conv1d(4, 3, 3)).eval()
    conversion = converted(model, torch.randn(2, 3, 9))
    assert [one.becomes for one in conversion.plan.convolutions] == ["conv2d", "Conv2d"]
    assert list(conversion.module.state_dict()) == list(model.state_dict())


def test_weights_as_graph_inputs() -> None:
    class Given(Calls):
        def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return F.conv1d(x, weight, padding=1)

    model = Given()
    conversion = convsurgeon.convert(model, (torch.randn(2, 3, 9), torch.randn(4, 3, 3)))
    inputs = torch.randn(1, 3, 20), torch.randn(4, 3, 3)
    torch.testing.assert_close(conversion.module(*inputs), model(*inputs))
    assert len(conversion.plan.convolutions) == 1


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1), (2, 4, 1), (1, 1, 7), (1, 7), (7,), (1,), ()])
def test_operands_of_lower_rank_broadcast_as_before(shape: tuple[int, ...]) -> None:
    class Scaled(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.sigmoid(self.a(x)) * self.scale + self.scale)

    parts = {"a": nn.Conv1d(3, 4, 3), "b": nn.Conv1d(4, 2, 1), "scale": nn.Parameter(torch.randn(shape))}
    model, x = Scaled(**parts).eval(), torch.randn(2, 3, 9)
    for axis in (-2, -1):
        conversion = convsurgeon.convert(model, x, unit_axis=axis)
        assert len(conversion.plan.borders) == 2
        torch.testing.assert_close(conversion.module(x), model(x))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_the_axis_of_cat_moves(axis: int) -> None:
    class Joined(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.conv(x), torch.relu(self.conv(x))
            return torch.concat((a, b, a), axis=axis) * 2

    conversion = converted(Joined(conv=nn.Conv1d(3, 3, 3)), torch.randn(2, 3, 9))
    assert len(conversion.plan.borders) == 2


def test_in_place_operators_on_values_that_are_used_again() -> None:
    class InPlace(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            before = y + 0
            F.relu(y, inplace=True)
            y.add_(1).mul_(self.scale)
            y += before
            wall = torch.cumsum(y, -1)
            y.clamp_(max=0.5)
            return self.other(y) + wall[:, :, 1:-1]

    parts = {"conv": nn.Conv1d(3, 3, 3), "other": nn.Conv1d(3, 3, 3), "scale": torch.tensor([[1.0], [2.0], [3.0]])}
    converted(InPlace(**parts), torch.randn(2, 3, 12))


def test_an_in_place_write_to_the_input_reaches_the_caller() -> None:
    class Writes(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.mul_(2))

    model = Writes(conv=nn.Conv1d(3, 3, 3))
    conversion = convsurgeon.convert(model, torch.randn(2, 3, 9))
    x = torch.ones(1, 3, 9)
    conversion.module(x)
    assert torch.equal(x, torch.full((1, 3, 9), 2.0))


def test_an_in_place_change_of_shape_keeps_its_operand_1d() -> None:
    class Reshapes(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.conv(x))
            y.unsqueeze_(0)
            return y * 2

    model = Reshapes(conv=nn.Conv1d(3, 3, 3)).eval()
    conversion = convsurgeon.convert(model, torch.randn(2, 3, 9))
    x = torch.randn(1, 3, 9)
    torch.testing.assert_close(conversion.module(x), model(x))
    assert any("changes the shape" in one.reason for one in conversion.plan.kept)


@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_module_with_hooks_stays_1d_and_keeps_them(hook: str) -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 3), nn.Conv1d(3, 3, 3))
    seen: list[int] = []
    register = getattr(model[0], f"register_{hook}_hook")

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], *outputs: object) -> None:
        seen.append(inputs[0].dim())

    register(note)
    conversion = convsurgeon.convert(model, torch.randn(2, 3, 9))
    assert isinstance(conversion.module.get_submodule("0"), nn.Conv1d)
    assert "hooks" in next(one for one in conversion.plan.kept if one.name == "0").reason
    seen.clear()
    conversion.module(torch.randn(2, 3, 9, requires_grad=True)).sum().backward()
    assert seen == [3]


class Causal(nn.Conv1d):
    """A subclass with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class CastsWeight(nn.Conv1d):
    """A subclass that changes what the base class calls."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(input, weight.to(input.dtype) * 2, bias)


class Named(nn.Conv1d):
    """A subclass that computes what its base does."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__(channels, channels, 3)
        self.name = name


def test_a_subclass_with_its_own_forward_is_traced_into() -> None:
    model = nn.Sequential(Causal(3, 3, 3, dilation=2), CastsWeight(3, 3, 3))
    conversion = converted(model, torch.randn(2, 3, 9))
    assert len(conversion.plan.convolutions) == 2
    assert conversion.module.state_dict()["0.weight"].shape == (3, 3, 1, 3)


def test_a_subclass_that_computes_the_same_is_replaced_and_keeps_its_attributes() -> None:
    module = converted(nn.Sequential(Named("stem", 3)), torch.randn(2, 3, 9)).module
    assert type(module.get_submodule("0")) is nn.Conv2d
    assert module.get_submodule("0").name == "stem"


def test_no_length_is_baked_in() -> None:
    class Reshaped(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            batch, channels, length = y.shape
            return self.conv(y.reshape(batch, channels, length).view(batch, channels, -1)) + y[..., : length - 2]

    converted(Reshaped(conv=nn.Conv1d(3, 3, 3)), torch.randn(2, 3, 12))


def test_strides_are_what_a_view_needs() -> None:
    class Viewed(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.norm(self.conv(x.transpose(1, 2))))
            return y.view(y.size(0), -1)

    for channels in (1, 3):
        model = Viewed(conv=nn.Conv1d(channels, 4, 3), norm=nn.BatchNorm1d(4)).eval()
        for axis in (-2, -1):
            conversion = convsurgeon.convert(model, torch.randn(2, 9, channels), unit_axis=axis)
            x = torch.randn(3, 14, channels)
            torch.testing.assert_close(conversion.module(x), model(x))


def test_contiguous_before_an_in_place_write_copies_in_both_forms_or_in_neither() -> None:
    class Written(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.transpose(1, 2))
            z = y.contiguous()
            z.mul_(3)
            t = torch.sigmoid(x.transpose(1, 2))
            u = t.contiguous()
            u.add_(1)
            return self.other(torch.cat([y, t, u], 1))

    model = Written(conv=nn.Conv1d(5, 5, 3, padding=1), other=nn.Conv1d(15, 2, 1)).eval()
    for axis in (-2, -1):
        conversion = convsurgeon.convert(model, torch.randn(2, 7, 5), unit_axis=axis)
        x = torch.randn(3, 11, 5)
        torch.testing.assert_close(conversion.module(x), model(x))


def test_randn_like_of_a_transposed_value_draws_the_same_numbers() -> None:
    class Noisy(Calls):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x.transpose(1, 2))
            return self.conv(y + torch.randn_like(y) + torch.rand_like(torch.sigmoid(x.transpose(1, 2))))

    model, x = Noisy(conv=nn.Conv1d(4, 4, 3, padding=1)), torch.randn(2, 9, 4)
    conversion = convsurgeon.convert(model, x)
    assert conversion.verification.referee == "direct"
    assert "randn_like" in conversion.verification.reason or "normal" in conversion.verification.reason
    assert len(conversion.plan.borders) == 2
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(conversion.module(x), expected)
