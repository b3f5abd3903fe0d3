"""What other systems' tests hold on 1-D convolutions, and what their best leaves behind: ours must do as well."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import assert_computes_the_same, converted_and_equal, form_changes, ranks_of_convolutions, shapes_of_state
from torch import fx, nn
from torch.nn.modules import activation as activations

import convsurgeon

EVERY_WAY = pytest.mark.parametrize(
    "options", [{}, {"unit_axis": -1}, {"lift": "ops"}], ids=["regions", "unit_axis=-1", "ops"]
)
BOTH_AXES = pytest.mark.parametrize("unit_axis", [-2, -1])

# pytest makes errors of warnings; torch gives this one for the layers that these tests are about
EVEN_SAME_PADS_A_COPY = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths and odd dilation:UserWarning"
)

# layers to be, built by the test that uses them, so that it draws its weights itself
conv, transposed = partial(partial, nn.Conv1d), partial(partial, nn.ConvTranspose1d)
Layer = Callable[[], nn.Module]


class PaddedFirst(nn.Module):
    """A convolution that can't say its padding itself: more on one side than on the other."""

    def __init__(self, pads: tuple[int, int], convolution: nn.Module) -> None:
        super().__init__()
        self.pads = pads
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(F.pad(x, self.pads))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + x


class TwoBranches(nn.Module):
    """A stem, two branches that read it, and what joins them."""

    def __init__(self, stem: nn.Module, left: nn.Module, right: nn.Module, join: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.left, self.right = stem, left, right
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        return self.join(self.left(stem), self.right(stem))


def trained(model: nn.Module) -> nn.Module:
    """`model` in eval mode, its BatchNorms with statistics and parameters that training could have left."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2.0)
    return model.eval()


# --- single layers ---------------------------------------------------------------------------------------------------

EXECUTORCH = {
    "executorch plain": (conv(2, 4, 3, padding=1), (1, 2, 8)),
    "executorch no bias": (conv(2, 4, 3, padding=1, bias=False), (1, 2, 8)),
    "executorch no bias, g2": (conv(2, 4, 3, padding=1, bias=False, groups=2), (1, 2, 8)),
    "executorch s3 p2 d2": (conv(2, 4, 3, stride=3, padding=2, dilation=2), (1, 2, 16)),
    "executorch transposed": (transposed(2, 4, 3, stride=2, padding=1, output_padding=1), (1, 2, 8)),
}

NXP_CONV: dict[str, dict[str, Any]] = {
    "k3": {},
    "k2": {"kernel_size": 2},
    "s2": {"stride": 2},
    "p1": {"padding": 1},
    "d2": {"dilation": 2},
    "g7": {"groups": 7},
    "no bias": {"bias": False},
    "combined": {"kernel_size": 5, "stride": 3, "padding": 2, "dilation": 3, "groups": 7, "bias": False},
}
NXP_TRANSPOSED: dict[str, dict[str, Any]] = NXP_CONV | {
    "s2": {"stride": 2, "output_padding": 1},
    "combined": NXP_CONV["combined"] | {"output_padding": 1},
}
NXP = {
    f"nxp {kind.__name__} {name} {list(shape)}": (partial(kind, shape[-2], 14, **{"kernel_size": 3} | given), shape)
    for kind, cases in ((nn.Conv1d, NXP_CONV), (nn.ConvTranspose1d, NXP_TRANSPOSED))
    for name, given in cases.items()
    for shape in ((3, 7, 23), (7, 23), (3, 7))
    if shape[-2] % given.get("groups", 1) == 0
}

ARM = {
    f"arm {name}": (conv(c_in, c_out, k, stride=s, padding=p, dilation=d, **more), (n, c_in, length))
    for name, n, (c_in, c_out, k, s, p, d, length), more in (
        ("k2 no bias", 1, (2, 3, 2, 1, 0, 1, 40), {"bias": False}),
        ("k3 L256", 1, (3, 10, 3, 1, 0, 1, 256), {}),
        ("k1 L128", 1, (2, 1, 1, 1, 0, 1, 128), {}),
        ("k2 s2", 1, (2, 1, 2, 2, 0, 1, 14), {}),
        ("k5 batch 3", 3, (2, 3, 5, 1, 0, 1, 128), {}),
        ("k3 s2 p1", 1, (3, 16, 3, 2, 1, 1, 224), {}),
        ("k7 s2 p1 d2", 1, (3, 3, 7, 2, 1, 2, 16), {}),
        ("k7 L15", 1, (3, 3, 7, 1, 0, 1, 15), {}),
        ("k5 s5, all used", 1, (3, 3, 5, 5, 0, 1, 14), {}),
        ("k5 s5, rest unused", 1, (3, 3, 5, 5, 0, 1, 9), {}),
        ("circular", 1, (3, 4, 3, 2, 1, 1, 12), {"padding_mode": "circular"}),
        ("reflect", 1, (3, 4, 3, 1, 1, 1, 12), {"padding_mode": "reflect"}),
        ("replicate", 1, (3, 4, 3, 1, 1, 1, 12), {"padding_mode": "replicate"}),
    )
}

XNNPACK = {
    f"xnnpack same k{k} d{d}": (conv(2, 4, k, padding="same", dilation=d), (1, 2, 16))
    for k, d in ((2, 1), (3, 1), (4, 1), (4, 2))
}

QUALCOMM = {
    f"qualcomm transposed k{k} s{s} p{p} d{d}": (
        transposed(1, 3, k, stride=s, padding=p, dilation=d),
        (1, 1, 16),
    )
    for k, s, p in ((3, 2, 1), (2, 1, 2))
    for d in (1, 2)
}

TENSORRT = {
    "tensorrt p1": (conv(3, 6, 1, padding=1), (1, 3, 32)),
    "tensorrt d2": (conv(3, 6, 1, dilation=2), (1, 3, 32)),
    "tensorrt g3": (conv(3, 6, 1, groups=3), (1, 3, 32)),
    "tensorrt s2": (conv(3, 6, 1, stride=2), (1, 3, 32)),
    "tensorrt s(2,)": (conv(3, 6, 1, stride=(2,)), (1, 3, 32)),
}


def coreml(stride: int, padding: str | int, dilation: int, bias: bool) -> nn.Module:
    """A strided "same" is one that torch refuses, and that converters of other frameworks' models pad by hand."""
    if padding != "same" or stride == 1:
        return nn.Conv1d(3, 4, 3, stride=stride, padding=padding, dilation=dilation, bias=bias)
    total = (8 // stride - 1) * stride + dilation * 2 + 1 - 8
    pads = (total // 2, total - total // 2)
    return PaddedFirst(pads, nn.Conv1d(3, 4, 3, stride=stride, dilation=dilation, bias=bias))


COREML = {
    f"coreml s{s} {p} d{d}{' bias' * bias}": (partial(coreml, s, p, d, bias), (2, 3, 8))
    for s in (1, 2)
    for p in ("valid", 1, "same")
    for d in (1, 2)
    for bias in (True, False)
}

TT_MLIR = {
    "tt-mlir padded at the end alone": (lambda: PaddedFirst((0, 1), nn.Conv1d(16, 16, 3)), (4, 16, 32)),
    "tt-mlir depthwise, padded at the end alone": (
        lambda: PaddedFirst((0, 1), nn.Conv1d(64, 64, 3, groups=64)),
        (4, 64, 32),
    ),
    "tt-mlir depthwise": (conv(64, 64, 3, groups=64), (4, 64, 32)),
}

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = (
    EXECUTORCH | NXP | ARM | XNNPACK | QUALCOMM | TENSORRT | COREML | TT_MLIR
)


@EVERY_WAY
@EVEN_SAME_PADS_A_COPY
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_a_layer_is_computed_in_2d_with_the_same_result(
    layer: Layer, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    conversion = converted_and_equal(nn.Sequential(layer()).eval(), torch.randn(shape), **options)
    assert len(conversion.plan.borders) == len(form_changes(conversion.module)) == 2


@EVERY_WAY
def test_a_half_precision_layer_stays_as_near_to_float64_as_it_was(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv1d(2, 1, 3, stride=2, padding=1)).half().eval()
    conversion = converted_and_equal(model, torch.randn(1, 2, 16).half(), **options)
    assert conversion.verification is not None
    assert conversion.verification.referee == "float64"
    assert conversion.module(torch.randn(1, 2, 16).half()).dtype == torch.float16


# --- small networks --------------------------------------------------------------------------------------------------


def arm_chain(*, bias: bool) -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 10, 5, bias=bias), nn.Conv1d(10, 15, 5, bias=bias))


def qualcomm_softmax(dim: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 2, 1, padding=1), nn.ReLU(), nn.LogSoftmax(dim))


def ascend_branches() -> nn.Module:
    stem = nn.Sequential(nn.Conv1d(3, 64, 1), nn.ReLU(), nn.ReLU())
    left, right = (nn.Sequential(nn.Conv1d(64, 128, 1), nn.ReLU()) for _ in range(2))
    return TwoBranches(stem, left, right, torch.add)


def nxp_with(activation: Layer, *, norm: bool) -> nn.Module:
    return nn.Sequential(nn.Conv1d(7, 14, 3, padding=1), *[nn.BatchNorm1d(14)] * norm, activation())


NETWORKS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "arm chain": (partial(arm_chain, bias=True), (1, 3, 256)),
    "arm chain without bias": (partial(arm_chain, bias=False), (1, 3, 256)),
    "xnnpack residual": (
        lambda: Residual(*(layer for _ in range(2) for layer in (nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2)))),
        (2, 2, 4),
    ),
    "qualcomm depthwise 2048": (
        lambda: nn.Sequential(nn.Conv1d(2048, 2048, 15, groups=2048), nn.BatchNorm1d(2048)),
        (1, 2048, 858),
    ),
    "qualcomm chain": (
        lambda: nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.Conv1d(3, 2, 3, padding=1)),
        (1, 1, 3),
    ),
    "qualcomm log_softmax over channels": (partial(qualcomm_softmax, 1), (1, 2, 28)),
    "qualcomm log_softmax over the length": (partial(qualcomm_softmax, -1), (1, 2, 28)),
    "ascend pointwise": (lambda: nn.Sequential(nn.Conv1d(3, 64, 1), nn.Conv1d(64, 128, 1)), (1, 3, 2500)),
    "ascend branches": (ascend_branches, (1, 3, 2500)),
    **{
        f"nxp {name}{' after norm' * norm}": (partial(nxp_with, layer, norm=norm), (3, 7, 23))
        for norm in (False, True)
        for name, layer in {
            "ReLU": nn.ReLU,
            "Sigmoid": nn.Sigmoid,
            "Tanh": nn.Tanh,
            "Hardtanh": partial(nn.Hardtanh, 0, 6),
        }.items()
    },
}


@BOTH_AXES
@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_one_region(network: Layer, shape: tuple[int, ...], unit_axis: int) -> None:
    conversion = converted_and_equal(trained(network()), torch.randn(shape), unit_axis=unit_axis)
    assert len(conversion.plan.borders) == len(form_changes(conversion.module)) == 2


@pytest.mark.parametrize(("network", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_equal_with_each_convolution_wrapped_alone(network: Layer, shape: tuple[int, ...]) -> None:
    conversion = converted_and_equal(trained(network()), torch.randn(shape), lift="ops")
    assert {one.rule for one in conversion.plan.lifted} == {"conv1d"}


@BOTH_AXES
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("layer", [nn.ReLU, nn.Sigmoid, nn.Tanh, partial(nn.Hardtanh, 0, 6)])
def test_norm_and_activation_run_in_2d_with_their_convolution(layer: Layer, norm: bool, unit_axis: int) -> None:
    plan = convsurgeon.plan(trained(nxp_with(layer, norm=norm)), torch.randn(3, 7, 23), unit_axis=unit_axis)
    assert [one.operator for one in plan.lifted] == ["Conv1d", *["BatchNorm1d"] * norm, type(layer()).__name__]
    assert plan.kept == ()


# --- what a convolution's weight may be ------------------------------------------------------------------------------


class Buffer(nn.Module):
    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(4, 2, 3), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.weight, padding=1)


class PlainAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(4, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.weight, padding=1)


class SharedByTwoCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.weight, padding=1) + F.conv1d(x, self.weight, padding=2, dilation=2)


class AlsoReturned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.conv1d(x, self.weight, padding=1), self.weight


class AlsoConvolved(nn.Module):
    """The weight of one convolution is the input of another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3))
        self.mixer = nn.Parameter(torch.randn(3, 2, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.conv1d(x, self.weight, padding=1), F.conv1d(self.weight, self.mixer)


class GivenAsArgument(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, weight, **self.settings)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 2, 8)


def weight_shape(options: dict[str, Any]) -> tuple[int, ...]:
    """That of a (4, 2, 3) weight in 2-D."""
    return (4, 2, 3, 1) if options.get("unit_axis") == -1 else (4, 2, 1, 3)


@EVERY_WAY
def test_a_persistent_buffer_moves_under_its_name_and_1d_checkpoints_still_load(
    x: torch.Tensor, options: dict[str, Any]
) -> None:
    model = Buffer(persistent=True)
    conversion = converted_and_equal(model, x, **options)
    assert shapes_of_state(conversion.module) == {"weight": weight_shape(options)}
    other = Buffer(persistent=True)
    conversion.module.load_state_dict(other.state_dict())
    assert_computes_the_same(conversion.module, other, x)


@EVERY_WAY
def test_a_buffer_that_is_not_saved_moves_and_is_not_saved(x: torch.Tensor, options: dict[str, Any]) -> None:
    conversion = converted_and_equal(Buffer(persistent=False), x, **options)
    assert {name: tuple(held.shape) for name, held in conversion.module.named_buffers()} == {
        "weight": weight_shape(options)
    }
    assert conversion.module.state_dict() == {}


@EVERY_WAY
def test_a_plain_tensor_moves_and_stays_out_of_the_state(x: torch.Tensor, options: dict[str, Any]) -> None:
    model = PlainAttribute()
    conversion = converted_and_equal(model, x, **options)
    assert conversion.module.state_dict() == {}
    assert conversion.module.weight.shape == weight_shape(options)
    assert model.weight.shape == (4, 2, 3)


@EVERY_WAY
def test_a_weight_of_two_calls_is_moved_once_and_stays_one(x: torch.Tensor, options: dict[str, Any]) -> None:
    conversion = converted_and_equal(SharedByTwoCalls(), x, **options)
    assert shapes_of_state(conversion.module) == {"weight": weight_shape(options)}
    assert len(conversion.plan.convolutions) == 2
    assert not any(border.constant for border in conversion.plan.borders)


@EVERY_WAY
def test_a_weight_that_is_also_returned_is_returned_in_1d(x: torch.Tensor, options: dict[str, Any]) -> None:
    model = AlsoReturned()
    conversion = converted_and_equal(model, x, **options)
    assert conversion.module(x)[1].shape == (4, 2, 3)
    assert [border.direction for border in conversion.plan.borders if not border.constant] == ["lift", "lower"]
    assert sum(border.constant for border in conversion.plan.borders) == 1


@EVERY_WAY
def test_a_weight_that_is_also_convolved_serves_both_in_2d(x: torch.Tensor, options: dict[str, Any]) -> None:
    conversion = converted_and_equal(AlsoConvolved(), x, **options)
    assert ranks_of_convolutions(conversion.module, x) == [(4, 4), (4, 4)]
    assert shapes_of_state(conversion.module)["weight"] == weight_shape(options)
    assert not any(border.value == "weight" for border in conversion.plan.borders)


@EVERY_WAY
@pytest.mark.parametrize(
    ("settings", "x_shape", "shape"),
    [
        pytest.param({"padding": 1}, (1, 2, 8), (4, 2, 3), id="executorch"),
        pytest.param({}, (1, 3, 32), (6, 3, 1), id="tensorrt"),
        pytest.param({"stride": 2, "padding": 1}, (2, 4, 9), (3, 4, 4), id="coreml"),
    ],
)
def test_a_weight_that_is_an_argument_is_given_in_1d(
    settings: dict[str, Any], x_shape: tuple[int, ...], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    model = GivenAsArgument(**settings)
    conversion = converted_and_equal(model, torch.randn(x_shape), torch.randn(shape), **options)
    assert [border.direction for border in conversion.plan.borders] == ["lift", "lift", "lower"]
    assert_computes_the_same(conversion.module, model, torch.randn(x_shape), torch.randn(shape))


class CalledTwice(nn.Module):
    """One layer in two places; the second sees what the first returned, and another length."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.convolution(x).relu())


@EVERY_WAY
def test_a_layer_that_is_called_twice_is_converted_once(options: dict[str, Any]) -> None:
    conversion = converted_and_equal(CalledTwice(), torch.randn(2, 3, 16), **options)
    assert type(conversion.module.convolution) is nn.Conv2d
    assert len(conversion.plan.convolutions) == 2
    assert len(form_changes(conversion.module)) == (4 if options.get("lift") == "ops" else 2)


# --- what holds of every conversion ----------------------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(conv(2, 4, 3, padding=1), id="conv"),
        pytest.param(transposed(2, 4, 3, stride=2, padding=1, output_padding=1), id="transposed"),
        pytest.param(
            lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1)), id="network"
        ),
    ],
)
def test_a_graph_captured_at_one_shape_runs_at_others(network: Layer, options: dict[str, Any]) -> None:
    model = trained(nn.Sequential(network()))
    conversion = converted_and_equal(model, torch.randn(2, 2, 8), **options)
    assert_computes_the_same(conversion.module, model, torch.randn(3, 2, 17))
    for batch in range(1, 5):
        for length in (4, 5, 16, 31, 32):
            assert_computes_the_same(conversion.module, model, torch.randn(batch, 2, length))


@pytest.mark.parametrize("captured", [1, 2, 5])
def test_a_batch_of_one_is_as_good_a_sample_as_any(captured: int) -> None:
    model = nn.Sequential(nn.Conv1d(3, 6, 1)).eval()
    conversion = converted_and_equal(model, torch.randn(captured, 3, 32))
    for batch in range(1, 6):
        assert_computes_the_same(conversion.module, model, torch.randn(batch, 3, 32))


class Conv2dWithShortLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, None, [1], [1], [1])


@EVERY_WAY
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Conv2dWithShortLists, id="function"),
        pytest.param(
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=[1], padding=[1], dilation=[1])),
            id="layer",
        ),
    ],
)
@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (2, 8, 8)], ids=["batched", "unbatched"])
def test_a_conv2d_with_lists_as_short_as_a_conv1d_s_is_left_as_it_is(
    model: Layer, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    original, image = model().eval(), torch.randn(shape)
    conversion = convsurgeon.convert(original, image, **options)
    assert conversion.plan.lifted == conversion.plan.borders == ()
    assert shapes_of_state(conversion.module) == shapes_of_state(original)
    assert [_as_written(node) for node in conversion.module.graph.nodes] == [
        _as_written(node) for node in fx.symbolic_trace(original).graph.nodes
    ]
    assert torch.equal(conversion.module(image), original(image))


def _as_written(node: fx.Node) -> tuple[Any, ...]:
    return node.op, node.target, str(node.args), str(node.kwargs)


class Everything(nn.Module):
    """A convolution in each spelling, and what may stand between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 4, 3, padding="same"), nn.BatchNorm1d(4), nn.ReLU())
        self.weight = nn.Parameter(torch.randn(4, 4, 3))
        self.up = nn.ConvTranspose1d(4, 2, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        return self.up(torch.cat([stem, F.conv1d(stem, self.weight, padding=1)], 2)).tanh()


CONVERTED_TWICE: dict[str, tuple[Layer, tuple[tuple[int, ...], ...]]] = {
    "everything": (Everything, ((2, 2, 8),)),
    "one layer": (conv(2, 4, 3), ((2, 2, 8),)),
    "transposed": (transposed(2, 4, 3), ((2, 2, 8),)),
    "called twice": (CalledTwice, ((2, 3, 16),)),
    "buffer": (partial(Buffer, persistent=True), ((1, 2, 8),)),
    "also returned": (AlsoReturned, ((1, 2, 8),)),
    "also convolved": (AlsoConvolved, ((1, 2, 8),)),
    "given as argument": (GivenAsArgument, ((1, 2, 8), (4, 2, 3))),
}


@EVERY_WAY
@pytest.mark.parametrize(("model", "shapes"), CONVERTED_TWICE.values(), ids=CONVERTED_TWICE)
def test_converting_twice_changes_nothing(
    model: Layer, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]
) -> None:
    inputs = [torch.randn(shape) for shape in shapes]
    once = converted_and_equal(trained(model()), *inputs, **options).module
    twice = convsurgeon.convert(once, tuple(inputs), **options)
    assert twice.plan.lifted == twice.plan.borders == twice.plan.moved == ()
    assert twice.module.code == once.code
    assert shapes_of_state(twice.module) == shapes_of_state(once)
    torch.testing.assert_close(twice.module(*inputs), once(*inputs), rtol=0, atol=0)


@EVERY_WAY
def test_metadata_of_every_node_survives(options: dict[str, Any]) -> None:
    graph = fx.symbolic_trace(trained(Everything()))
    for node in graph.graph.nodes:
        node.meta["custom"] = {"made by": node.name}
        node.stack_trace = f'  File "model.py", line 1, in {node.name}'
    conversion = converted_and_equal(graph, torch.randn(2, 2, 8), **options)
    converted = {node.name: node for node in conversion.module.graph.nodes}
    for node in graph.graph.nodes:
        survivor = converted[node.name].meta
        for key in ("custom", "stack_trace", "nn_module_stack"):
            assert survivor.get(key) == node.meta.get(key)


@EVERY_WAY
def test_no_node_in_2d_claims_a_shape_in_1d(options: dict[str, Any]) -> None:
    graph, x = fx.symbolic_trace(trained(Everything())), torch.randn(2, 2, 8)
    torch.fx.passes.shape_prop.ShapeProp(graph).propagate(x)
    conversion = converted_and_equal(graph, x, **options)
    claimed = {node.name: node.meta.get("tensor_meta") for node in conversion.module.graph.nodes}
    torch.fx.passes.shape_prop.ShapeProp(conversion.module).propagate(x)
    for node in conversion.module.graph.nodes:
        claim = claimed[node.name]
        assert claim is None or claim.shape == node.meta["tensor_meta"].shape


@EVERY_WAY
def test_a_traced_node_still_says_which_module_made_it(options: dict[str, Any]) -> None:
    conversion = converted_and_equal(trained(Everything()), torch.randn(2, 2, 8), **options)
    stacks = {
        node.name: [path for path, _ in node.meta["nn_module_stack"].values()]
        for node in conversion.module.graph.nodes
        if node.op == "call_module"
    }
    assert stacks == {
        "stem_0": ["stem", "stem.0"],
        "stem_1": ["stem", "stem.1"],
        "stem_2": ["stem", "stem.2"],
        "up": ["up"],
    }


# --- borders: two are the fewest, one in and one out -----------------------------------------------------------------


def one_region(model: nn.Module, unit_axis: int) -> convsurgeon.Conversion:
    """Convert a model of (2, 4, 16), in whose graph no more than one unsqueeze and one squeeze may stand."""
    conversion = converted_and_equal(model, torch.randn(2, 4, 16), unit_axis=unit_axis)
    assert len(conversion.plan.borders) == 2
    assert len(form_changes(conversion.module)) == 2
    assert conversion.plan.kept == ()
    return conversion


def same(channels: int = 4, out: int | None = None) -> nn.Conv1d:
    """A convolution that keeps the length."""
    return nn.Conv1d(channels, out or channels, 3, padding=1)


REGIONS: dict[str, Layer] = {
    "chain with ReLU": lambda: nn.Sequential(same(), nn.ReLU(), same(), nn.ReLU(), same()),
    "chain with LeakyReLU": lambda: nn.Sequential(same(), nn.LeakyReLU(0.1), same(), nn.LeakyReLU(0.1), same()),
    "residual": lambda: Residual(same(), nn.ReLU(), same()),
    "residuals in a row": lambda: nn.Sequential(*(Residual(nn.ReLU(), same(), nn.ReLU(), same()) for _ in range(3))),
    "residual in a residual": lambda: Residual(same(), Residual(same(), nn.ReLU()), same()),
    "concat over channels": lambda: TwoBranches(same(), same(), same(), lambda a, b: torch.cat([a, b], 1)),
    "concat over channels, from the right": lambda: TwoBranches(
        same(), same(), same(4, 6), lambda a, b: torch.cat((a, b), dim=-2)
    ),
    "concat over the length": lambda: TwoBranches(same(), same(), same(), lambda a, b: torch.cat([a, b], 2)),
    "concat over the length, from the right": lambda: TwoBranches(
        same(), same(), same(), lambda a, b: torch.cat([a, b], -1)
    ),
    "concat over the batch": lambda: TwoBranches(same(), same(), same(), lambda a, b: torch.cat([a, b])),
    "concat, then a convolution": lambda: nn.Sequential(
        TwoBranches(nn.ReLU(), same(), nn.Identity(), lambda a, b: torch.cat([a, b], 1)), same(8, 4)
    ),
    "gate": lambda: TwoBranches(same(), same(), same(), lambda a, b: a.tanh() * b.sigmoid()),
    "BatchNorm": lambda: nn.Sequential(same(), nn.BatchNorm1d(4), nn.ReLU(), same(), nn.BatchNorm1d(4), nn.ReLU()),
    "BatchNorm before": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), same()),
    "BatchNorm without parameters": lambda: nn.Sequential(same(), nn.BatchNorm1d(4, affine=False), same()),
    "BatchNorm without statistics": lambda: nn.Sequential(same(), nn.BatchNorm1d(4, track_running_stats=False), same()),
    "BatchNorm, residual and concat": lambda: TwoBranches(
        Residual(same(), nn.BatchNorm1d(4), nn.ReLU(), same(), nn.BatchNorm1d(4)),
        nn.Sequential(nn.ReLU(), same()),
        nn.Conv1d(4, 2, 1),
        lambda a, b: torch.cat([a, b], 1),
    ),
    "transposed": lambda: nn.Sequential(
        same(4, 8), nn.GELU(), nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1), nn.BatchNorm1d(4), nn.ReLU(), same()
    ),
}


@BOTH_AXES
@pytest.mark.parametrize("network", REGIONS.values(), ids=REGIONS)
def test_two_borders_remain(network: Layer, unit_axis: int) -> None:
    one_region(trained(network()), unit_axis)


@BOTH_AXES
@pytest.mark.parametrize("network", REGIONS.values(), ids=REGIONS)
def test_two_borders_remain_in_training_and_both_models_learn_the_same_statistics(
    network: Layer, unit_axis: int
) -> None:
    model = network().train()
    conversion = one_region(model, unit_axis)
    torch.testing.assert_close(dict(conversion.module.named_buffers()), dict(model.named_buffers()))


ACTIVATIONS: dict[str, Layer] = {
    "CELU": partial(nn.CELU, 0.7),
    "ELU": partial(nn.ELU, 0.7),
    "GELU": nn.GELU,
    "GELU tanh": partial(nn.GELU, approximate="tanh"),
    "Hardshrink": partial(nn.Hardshrink, 0.2),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardtanh": partial(nn.Hardtanh, -0.3, 0.4),
    "LeakyReLU": partial(nn.LeakyReLU, 0.2),
    "LogSigmoid": nn.LogSigmoid,
    "Mish": nn.Mish,
    "PReLU of one": nn.PReLU,
    "PReLU of each channel": partial(nn.PReLU, 4),
    "RReLU": nn.RReLU,
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": partial(nn.Softplus, 2.0, 3.0),
    "Softshrink": partial(nn.Softshrink, 0.2),
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
    "Tanhshrink": nn.Tanhshrink,
    "Threshold": partial(nn.Threshold, 0.1, -5.0),
}
IN_PLACE: dict[str, Layer] = {
    name: partial(ACTIVATIONS[name], inplace=True)
    for name in (
        *("CELU", "ELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "RReLU", "ReLU", "ReLU6"),
        *("SELU", "SiLU", "Threshold"),
    )
}
NOT_POINTWISE = {nn.GLU, nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax}


def between(activation: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """`activation` between two convolutions, after a norm: kept 1-D, it would cost two borders more."""
    model = trained(nn.Sequential(same(), nn.BatchNorm1d(4), Function(activation), same()))
    # most activations have their bends around 0 and do nothing far from it: values stand on both sides of it
    nn.init.normal_(model[1].bias)
    return model


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def test_every_pointwise_activation_of_torch_nn_is_among_ours() -> None:
    published = {getattr(activations, name) for name in activations.__all__}
    assert published - {type(layer()) for layer in ACTIVATIONS.values()} == NOT_POINTWISE


@BOTH_AXES
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("layer", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_two_borders_remain_around_an_activation_layer(layer: Layer, mode: str, unit_axis: int) -> None:
    conversion = one_region(between(layer()).train(mode == "train"), unit_axis)
    assert type(layer()).__name__ in [one.operator for one in conversion.plan.lifted]


@BOTH_AXES
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("layer", IN_PLACE.values(), ids=IN_PLACE)
def test_two_borders_remain_around_an_activation_that_writes_in_place(layer: Layer, mode: str, unit_axis: int) -> None:
    one_region(between(layer()).train(mode == "train"), unit_axis)


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "F.celu": lambda x: F.celu(x, 0.7),
    "F.celu_": lambda x: F.celu_(x, 0.7),
    "F.elu": lambda x: F.elu(x, alpha=0.7),
    "F.elu_": lambda x: F.elu_(x, 0.7),
    "F.elu in place": lambda x: F.elu(x, inplace=True),
    "F.gelu": F.gelu,
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "F.hardshrink": lambda x: F.hardshrink(x, 0.2),
    "F.hardsigmoid": F.hardsigmoid,
    "F.hardsigmoid in place": lambda x: F.hardsigmoid(x, inplace=True),
    "F.hardswish": F.hardswish,
    "F.hardswish in place": lambda x: F.hardswish(x, inplace=True),
    "F.hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
    "F.hardtanh_": lambda x: F.hardtanh_(x, min_val=-0.3, max_val=0.4),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "F.logsigmoid": F.logsigmoid,
    "F.mish": F.mish,
    "F.prelu of one": lambda x: F.prelu(x, torch.tensor([0.3])),
    "F.prelu of each channel": lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "torch.prelu of each channel": lambda x: torch.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "x.prelu of each channel": lambda x: x.prelu(torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "F.relu": F.relu,
    "F.relu_": F.relu_,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "F.relu6 in place": lambda x: F.relu6(x, inplace=True),
    "F.rrelu": lambda x: F.rrelu(x, 0.1, 0.3),
    "F.rrelu_": lambda x: F.rrelu_(x, 0.1, 0.3),
    "F.rrelu training": lambda x: F.rrelu(x, 0.1, 0.3, training=True),
    "torch.rrelu": lambda x: torch.rrelu(x, 0.1, 0.3),
    "F.selu": F.selu,
    "F.selu_": F.selu_,
    "torch.selu": torch.selu,
    "F.sigmoid": F.sigmoid,
    "torch.sigmoid": torch.sigmoid,
    "x.sigmoid": lambda x: x.sigmoid(),
    "x.sigmoid_": lambda x: x.sigmoid_(),
    "torch.special.expit": torch.special.expit,
    "F.silu": F.silu,
    "F.silu in place": lambda x: F.silu(x, inplace=True),
    "F.softplus": lambda x: F.softplus(x, 2.0, 3.0),
    "F.softshrink": lambda x: F.softshrink(x, 0.2),
    "F.softsign": F.softsign,
    "F.tanh": F.tanh,
    "torch.tanh": torch.tanh,
    "x.tanh": lambda x: x.tanh(),
    "x.tanh_": lambda x: x.tanh_(),
    "F.tanhshrink": F.tanhshrink,
    "F.threshold": lambda x: F.threshold(x, 0.1, -5.0),
    "F.threshold_": lambda x: F.threshold_(x, 0.1, -5.0),
    "torch.clamp": lambda x: torch.clamp(x, -0.3, 0.4),
    "x.clamp_min": lambda x: x.clamp_min(0.1),
    "swish by hand": lambda x: x * torch.sigmoid(1.702 * x),
    "snake by hand": lambda x: x + torch.sin(3.0 * x).pow(2) / 3.0,
    "softplus by hand": lambda x: x.exp().add(1).log(),
    "torch.where": lambda x: torch.where(x > 0, x, 0.2 * x),
}


@BOTH_AXES
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_two_borders_remain_around_an_activation_function(
    function: Callable[[torch.Tensor], torch.Tensor], unit_axis: int
) -> None:
    one_region(between(function), unit_axis)
