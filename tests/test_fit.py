"""Whether an accelerator takes a model: what is read of each operator, in every spelling, and how it is judged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

import convsurgeon
from convsurgeon.fitting import MENDS, Fit, FittedOperator, fit
from convsurgeon.targets import QUANTITIES, Family, Target, load_target
from convsurgeon.targets.reading import read_target

HEAD = """\
name = "mine"
title = "Mine"
static_shapes = true
source = "here"
[sources.here]
document = "Test"
kind = "convention"
date = 2026-01-01
"""


def profile(family: str, quantity: str, bound: str, more: str = "") -> Target:
    """A profile of one limit."""
    limit = f'[[limits]]\noperators = ["{family}"]\nquantity = "{quantity}"\n{bound}\nsource = "here"\n{more}\n'
    return read_target(HEAD + limit, "mine.toml")


NOTHING = read_target(HEAD, "mine.toml")


def only(found: Fit, family: Family) -> FittedOperator:
    """The one operator of a family."""
    (one,) = [one for one in found.operators if one.family == family]
    return one


def spellings(model: nn.Module, *args: torch.Tensor) -> dict[str, Any]:
    """The same model as its own Python, a torch.fx graph, and an exported program before and after decomposition."""
    program = torch.export.export(model, args, strict=False)
    return {
        "module": model,
        "graph": fx.symbolic_trace(model),
        "program": program,
        "core ATen": program.run_decompositions(),
    }


class Layers(nn.Module):
    """What a model is made of, in modules and in functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, (1, 5), stride=(1, 2), padding=(0, 3), dilation=(1, 2), groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 12, (1, 3), groups=6)
        self.up = nn.ConvTranspose2d(12, 4, (1, 4), stride=(1, 2), padding=(0, 1), groups=2, output_padding=(0, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(torch.relu(self.norm(self.conv(x))))
        x = F.max_pool2d(self.up(x), (1, 3), stride=(1, 2), padding=(0, 1))
        x = F.interpolate(F.avg_pool2d(x, (1, 2)), scale_factor=(1.0, 2.0), mode="bilinear")
        return self.head(x.mean(-1).mean(-1))


X = torch.randn(2, 4, 1, 40)


@pytest.mark.parametrize("spelling", ["module", "graph", "program", "core ATen"])
def test_every_spelling_reads_alike(spelling: str) -> None:
    model = Layers().eval()
    found = fit(spellings(model, X)[spelling], NOTHING, X)
    assert found.fits
    assert {one.family for one in found.operators} >= {
        *("convolution", "depthwise_convolution", "transposed_convolution", "max_pool", "average_pool"),
        *("resize", "linear", "mean", "batch_norm"),
    }
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(X)
    assert 2 * sum(one.macs for one in found.operators) == flops.get_total_flops()
    assert sum(one.parameters for one in found.operators) == sum(
        one.numel() for one in (*model.parameters(), *(b for n, b in model.named_buffers() if "tracked" not in n))
    )
    conv = only(found, "convolution")
    with torch.no_grad():
        assert conv.shape == model.conv(X).shape
    assert conv.elements == math.prod(conv.shape)
    assert conv.nbytes == 4 * conv.elements
    assert conv.name in ("conv", "")


def values(module: nn.Module, family: Family, quantity: str, x: torch.Tensor) -> tuple[Any, ...]:
    """What is measured, by a limit that nothing keeps to."""
    word = quantity in ("kernel_shape", "mode", "dtype", "operator")
    found = fit(module, profile(family, quantity, 'one_of = ["?"]' if word else "one_of = [-99]"), x)
    (misfit,) = only(found, family).misfits
    return misfit.seen


CONV = nn.Conv2d(4, 6, (1, 5), stride=(1, 2), padding=(0, 3), dilation=(1, 2), groups=2)
UP = nn.ConvTranspose2d(4, 6, (1, 4), stride=(1, 3), padding=(0, 1), groups=2, output_padding=(0, 2))
MAX = nn.MaxPool2d((1, 3), stride=(1, 2), padding=(0, 1), ceil_mode=True)
AVERAGE = nn.AvgPool2d((1, 4), padding=(0, 1), count_include_pad=False, divisor_override=3)
RESIZE = nn.Upsample(scale_factor=(1, 3), mode="bilinear", align_corners=True)


@pytest.mark.parametrize(
    ("module", "family", "quantity", "expected"),
    [
        (CONV, "convolution", "kernel", (1, 5)),
        (CONV, "convolution", "kernel_h", (1,)),
        (CONV, "convolution", "kernel_w", (5,)),
        (CONV, "convolution", "kernel_area", (5,)),
        (CONV, "convolution", "kernel_shape", ("1x5",)),
        (CONV, "convolution", "stride", (1, 2)),
        (CONV, "convolution", "stride_minus_kernel", (0, -3)),
        (CONV, "convolution", "dilation_w", (2,)),
        (CONV, "convolution", "padding", (0, 3)),
        (CONV, "convolution", "padding_minus_kernel", (-1, -2)),
        (CONV, "convolution", "same", (0, 3.5)),
        (CONV, "convolution", "padding_minus_same", (0, -0.5)),
        (UP, "transposed_convolution", "same", (0, 0.5)),
        (CONV, "convolution", "input", (1, 40)),
        (CONV, "convolution", "output", (1, 19)),
        (CONV, "convolution", "input_area", (40,)),
        (CONV, "convolution", "unit_axes", (1,)),
        (CONV, "convolution", "groups", (2,)),
        (CONV, "convolution", "in_channels", (4,)),
        (CONV, "convolution", "out_channels", (6,)),
        (CONV, "convolution", "rank", (4,)),
        (CONV, "convolution", "batch", (2, 2)),
        (CONV, "convolution", "sizes", (4, 1, 40, 6, 1, 19)),
        (CONV, "convolution", "non_singleton", (3, 3)),
        (CONV, "convolution", "dtype", ("float32", "float32")),
        (CONV, "convolution", "operator", ("convolution",)),
        (UP, "transposed_convolution", "output_padding", (0, 2)),
        (UP, "transposed_convolution", "stride_w", (3,)),
        (UP, "transposed_convolution", "out_channels", (6,)),
        (MAX, "max_pool", "kernel", (1, 3)),
        (MAX, "max_pool", "stride", (1, 2)),
        (MAX, "max_pool", "padding_w", (1,)),
        (MAX, "max_pool", "ceil_mode", (1,)),
        (nn.MaxPool2d((1, 3)), "max_pool", "stride", (1, 3)),
        (AVERAGE, "average_pool", "count_include_pad", (0,)),
        (AVERAGE, "average_pool", "divisor", (3,)),
        (nn.AdaptiveAvgPool2d((1, 8)), "average_pool", "kernel", (1, 5)),
        (nn.AdaptiveMaxPool2d((1, 8)), "max_pool", "kernel_shape", ("1x5",)),
        (nn.AdaptiveAvgPool2d(1), "mean", "reduced_area", (40,)),
        (RESIZE, "resize", "scale", (1, 3.0512820512820515)),
        (RESIZE, "resize", "align_corners", (1,)),
        (RESIZE, "resize", "mode", ("linear",)),
        (nn.Upsample(scale_factor=(1, 3)), "resize", "scale_w", (3,)),
        (nn.Upsample(scale_factor=(1, 3)), "resize", "mode", ("nearest",)),
        (nn.Upsample(scale_factor=(1, 3), mode="nearest-exact"), "resize", "mode", ("nearest-exact",)),
        (nn.Linear(40, 7), "linear", "in_channels", (40,)),
        (nn.Linear(40, 7), "linear", "out_channels", (7,)),
        (nn.Linear(40, 7), "linear", "rank", (4, 4)),
        (nn.Softmax(-1), "other", "operator", ("_softmax",)),
    ],
)
def test_quantities(module: nn.Module, family: Family, quantity: str, expected: tuple[Any, ...]) -> None:
    assert quantity in QUANTITIES
    seen = values(module.eval(), family, quantity, X)
    assert seen == (pytest.approx(expected) if isinstance(expected[-1], float) else expected)


LINES = torch.randn(2, 4, 40)


@pytest.mark.parametrize(
    ("module", "family", "rank", "kernel"),
    [
        (nn.Conv1d(4, 4, 5), "convolution", (3,), (5,)),
        (nn.ConvTranspose1d(4, 4, 5), "transposed_convolution", (3,), (5,)),
        (nn.MaxPool1d(2), "max_pool", (3, 3), (2,)),
        (nn.AvgPool1d(2), "average_pool", (3, 3), (2,)),
        (nn.AdaptiveAvgPool1d(8), "average_pool", (3, 3), (5,)),
    ],
)
@pytest.mark.parametrize("spelling", ["module", "graph", "program"])
def test_1d_operators_are_1d_however_aten_computes_them(
    module: nn.Module, family: Family, rank: tuple[int, ...], kernel: tuple[int, ...], spelling: str
) -> None:
    model = spellings(nn.Sequential(module).eval(), LINES)[spelling]
    assert values(model, family, "rank", LINES) == rank
    assert values(model, family, "kernel", LINES) == kernel
    assert only(fit(model, "generic-4d", LINES), family).verdict == "does not fit"


def pool(kernel: int, **options: Any) -> nn.Module:
    return nn.MaxPool2d((1, kernel), **options)


def conv(kernel: int, channels: int = 4, **options: Any) -> nn.Module:
    pairs = {name: (0 if name == "padding" else 1, value) for name, value in options.items() if name != "groups"}
    groups = {name: value for name, value in options.items() if name == "groups"}
    return nn.Conv2d(4, channels, (1, kernel), **pairs, **groups)


def up(kernel: int, stride: int, **options: Any) -> nn.Module:
    return nn.ConvTranspose2d(4, 4, (1, kernel), stride=(1, stride), **options)


def average(kernel: int, padding: int, stride: int) -> nn.Module:
    return nn.AvgPool2d((1, kernel), (1, stride), (0, padding), count_include_pad=False)


def resize(factor: float, mode: str = "nearest") -> nn.Module:
    return nn.Upsample(scale_factor=(1, factor), mode=mode)


@pytest.mark.parametrize(
    ("target", "within", "beyond", "quantity"),
    [
        ("ethos-u55", conv(3, stride=3, dilation=2), conv(3, stride=4, dilation=2), "stride"),
        ("ethos-u55", conv(3, stride=4), conv(3, stride=4, padding=1), "stride"),
        ("ethos-u65", up(4, 2, padding=(0, 1)), up(5, 2, padding=(0, 1)), "padding_minus_same"),
        ("ethos-u55", conv(3, groups=4, stride=3), conv(3, groups=4, stride=4), "stride"),
        ("ethos-u65", up(4, 2), up(4, 3), "stride"),
        ("ethos-u55", resize(8), resize(3), "scale"),
        ("ethos-u55", nn.Upsample(scale_factor=2, mode="bilinear"), resize(2, "bilinear"), "scale"),
        ("ethos-u55", resize(2), resize(2, "nearest-exact"), "mode"),
        ("ethos-u85", resize(4, "bilinear"), resize(3, "bilinear"), "scale"),
        ("ethos-u85", average(7, 3, 1), average(9, 4, 1), "kernel"),
        ("ethos-u85", average(7, 3, 1), average(7, 2, 1), "padding_minus_same"),
        ("ethos-u85", nn.AvgPool2d((1, 9), padding=(0, 2)), average(3, 1, 2), "stride"),
        ("imx500", conv(12, groups=4), conv(13, groups=4), "kernel"),
        ("imx500", resize(2, "bilinear"), nn.UpsamplingBilinear2d(scale_factor=2), "align_corners"),
        ("imx500", nn.Conv2d(4, 4, 1), nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 4, 1)), "rank"),
        ("qnn-htp", up(4, 2), up(4, 2, dilation=(1, 2)), "dilation"),
        ("rk3588", conv(16), conv(17), "kernel"),
        ("rk3588", pool(7), pool(8), "kernel"),
        ("rk3588", up(4, 2), up(6, 3), "stride"),
        ("rk3588", conv(3, stride=7), conv(3, stride=8), "stride"),
        ("xnnpack", pool(3, stride=(1, 3)), pool(3, stride=(1, 4)), "stride_minus_kernel"),
        ("xnnpack", nn.AvgPool2d((1, 3)), nn.AvgPool2d((1, 3), padding=(0, 1)), "count_include_pad"),
        ("nvidia-dla", conv(32), conv(33), "kernel"),
        ("nvidia-dla", conv(5, padding=4), conv(5, padding=5), "padding_minus_kernel"),
        ("nvidia-dla", up(4, 2), up(4, 2, groups=2), "groups"),
        ("nvidia-dla", pool(8), pool(9), "kernel"),
        ("nvidia-dla", nn.Linear(40, 8192), nn.Linear(40, 8193), "sizes"),
        ("tidl", nn.Conv2d(4, 4, 1), conv(7, stride=2), "stride"),
        ("tidl", conv(3, groups=4), conv(5, groups=4), "kernel_shape"),
        ("mdla", conv(3, stride=8), conv(3, stride=5), "stride"),
        ("mdla", conv(3), conv(3, groups=2), "groups"),
        ("mdla", conv(8, groups=4, stride=4), conv(2, groups=4, stride=3), "stride_minus_kernel"),
        ("ane", nn.Conv2d(4, 4, 1), nn.ConstantPad2d((0, 16384), 0.0), "sizes"),
    ],
)
def test_each_side_of_a_limit(target: str, within: nn.Module, beyond: nn.Module, quantity: str) -> None:
    assert fit(within.eval(), target, X).fits
    broken = [misfit for one in fit(beyond.eval(), target, X).operators for misfit in one.misfits]
    assert quantity in {misfit.quantity for misfit in broken}
    assert all(misfit.source.document for misfit in broken)


def test_artpec_takes_one_at_a_time() -> None:
    square = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    assert fit(square, "artpec-9", X[:1]).fits
    assert {m.quantity for m in fit(square, "artpec-9", X).operators[0].misfits} == {"batch"}
    assert {m.quantity for m in fit(conv(4, stride=2), "artpec-9", X[:1]).operators[0].misfits} == {"kernel", "stride"}


def rewrites(model: nn.Module, target: str | Target) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.verdict, one.rewrites) for one in fit(model.eval(), target, X).operators]


def test_what_mends_a_limit() -> None:
    equal = profile("any", "stride", "equal = true")
    assert rewrites(conv(3, stride=2), equal) == [("fits after a rewrite", ("square",))]
    tall = nn.Sequential(nn.Upsample((2, 40)), nn.Conv2d(4, 4, 1, stride=(1, 2)))
    assert rewrites(tall, equal)[-1] == ("fits after a rewrite", ("fold_stride",))
    assert rewrites(conv(3, groups=2), "mdla") == [("fits after a rewrite", ("ungroup_split",))]
    assert rewrites(nn.Softmax(-1), profile("any", "sizes", "max = 1")) == [("does not fit", ())]
    assert rewrites(nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d((1, 2), (1, 4))), "xnnpack")[-1][1] == ()
    assert rewrites(conv(5, groups=4), "tidl") == [("does not fit", ())]
    both = conv(40, groups=2)
    assert rewrites(both, "mdla") == [("fits after a rewrite", ("ungroup_split", "split_kernel"))]


def test_the_rewrites_that_are_named_exist() -> None:
    exact = pytest.importorskip("convsurgeon.exact")
    named = {mend.rewrite for mends in MENDS.values() for mend in mends}
    assert named - {"square"} <= set(exact.REWRITES)
    assert all(quantity.partition("_")[0] in QUANTITIES or quantity in QUANTITIES for quantity in MENDS)


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "batched product": (lambda: _Products(), torch.randn(2, 5, 6)),
    "linear of rank 3": (lambda: nn.Linear(6, 7), torch.randn(2, 5, 6)),
    "linear without bias": (lambda: nn.Linear(6, 7, bias=False), torch.randn(5, 6)),
    "1-D convolutions": (
        lambda: nn.Sequential(nn.Conv1d(6, 8, 3, groups=2, padding="same"), nn.ConvTranspose1d(8, 4, 5, 3, groups=4)),
        torch.randn(2, 6, 31),
    ),
    "unbatched": (lambda: nn.Conv1d(6, 8, 3), torch.randn(6, 31)),
    "3-D": (lambda: nn.Conv3d(2, 3, 2), torch.randn(1, 2, 4, 5, 6)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 8, 3)), torch.randn(2, 6, 31)),
}


class _Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,bkj->bik", x, x) @ x


@pytest.mark.parametrize("name", MODELS)
def test_multiply_accumulates(name: str) -> None:
    build, x = MODELS[name]
    model = build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(x)
    assert 2 * sum(one.macs for one in fit(model, NOTHING, x).operators) == flops.get_total_flops() > 0


def test_attention_multiplies_queries_by_keys_and_scores_by_values() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, y, y)

    (one,) = fit(Attention(), NOTHING, (torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8))).operators
    assert one.macs == 2 * 3 * 5 * 7 * (8 + 8)
    assert one.shape == (2, 3, 5, 8)
    assert one.elements == math.prod(one.shape)


def test_a_recurrent_layer_multiplies_by_both_weights_in_every_step() -> None:
    model = nn.LSTM(5, 3)
    found = fit(model, NOTHING, torch.randn(7, 2, 5))
    assert sum(one.macs for one in found.operators) == 7 * 2 * 4 * 3 * (5 + 3)


def test_weights_that_are_computed_are_no_operators() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
    assert [one.operator for one in fit(model, NOTHING, LINES).operators] == ["convolution"]


def test_a_buffer_that_is_written_is_a_value() -> None:
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("held", torch.zeros(2, 4, 80))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.held[..., :40] = x
            return torch.relu(self.held)

    model = Cache()
    found = fit(model, NOTHING, LINES)
    assert [one.operator for one in found.operators] == ["copy_", "relu"]
    assert not model.held.any()


def test_shared_weights_count_once() -> None:
    layer = nn.Conv1d(4, 4, 3, padding=1)
    assert [one.parameters for one in fit(nn.Sequential(layer, layer), NOTHING, LINES).operators] == [52, 0]


def test_totals_and_json() -> None:
    found = fit(Layers().eval(), "mdla", X)
    totals = found.totals
    assert list(totals) == ["fits", "fits after a rewrite", "does not fit"]
    assert sum(one.operators for one in totals.values()) == len(found.operators)
    assert sum(one.macs for one in totals.values()) == sum(one.macs for one in found.operators)
    data = json.loads(json.dumps(found.to_json()))
    assert data["target"]["name"] == "mdla"
    assert data["fits"] is False
    conv = next(one for one in data["operators"] if one["family"] == "convolution")
    assert conv["verdict"] == "fits after a rewrite"
    assert [one["quantity"] for one in conv["misfits"]] == ["groups", "stride"]
    assert conv["misfits"][0]["source"]["date"] == "2026-11-24"
    assert conv["rewrites"] == ["ungroup_split", "fold_stride"]


def test_what_is_printed() -> None:
    text = str(fit(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()), "generic-4d", LINES))
    assert "does not fit as it is: 1 of 2 operators" in text
    assert "1 x convolution: rank is 3; accepted: 4" in text
    assert "[convention: convsurgeon, profile generic-4d, 2026-11-24]" in text
    assert "convsurgeon.convert makes 1-D convolutions" in text
    assert "everything fits" in str(fit(nn.ReLU(), "generic-4d", LINES))
    wide = fit(nn.Sequential(*(Layers() for _ in range(1))).eval(), "mdla", X)
    assert all(len(line) <= 100 for line in str(wide).splitlines())


def test_converting_makes_it_fit() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)).eval()
    before = fit(model, "generic-4d", LINES)
    module = convsurgeon.convert(model, LINES).module
    after = fit(module, "generic-4d", LINES)
    assert (before.fits, after.fits) == (False, True)
    assert sum(one.macs for one in before.operators) == sum(one.macs for one in after.operators)
    with pytest.raises(convsurgeon.UnsupportedError, match=r"rank is 3; accepted: 4(.|\n)*strict=True"):
        fit(model, "generic-4d", LINES, strict=True)
    assert fit(module, "generic-4d", LINES, strict=True) == after


def test_islands_are_told_by_their_modules() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv1d(4, 4, 3), nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x) if x.sum() > -1e9 else x)

    module = convsurgeon.convert(Branches().eval(), LINES, capture="islands").module
    found = fit(module, "generic-4d", LINES)
    assert found.fits
    assert {one.name for one in found.operators if one.family == "convolution"} == {"one", "two.0"}


def test_nothing_of_the_users_changes() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True)).train()
    x, state = LINES.clone(), {name: one.clone() for name, one in model.state_dict().items()}
    random, hooks = torch.get_rng_state(), [len(one._forward_hooks) for one in model.modules()]
    for one in (model, fx.symbolic_trace(model)):
        fit(one, "generic-4d", x)
        assert all(torch.equal(value, one.state_dict()[name]) for name, value in state.items())
    assert torch.equal(x, LINES)
    assert torch.equal(random, torch.get_rng_state())
    assert hooks == [len(one._forward_hooks) for one in model.modules()]
    assert all(one.grad is None for one in model.parameters())


def test_a_program_with_an_open_length_asks_for_it() -> None:
    length = torch.export.Dim("length", min=8, max=400)
    program = torch.export.export(nn.Conv2d(4, 4, (1, 3)).eval(), (X,), dynamic_shapes={"input": {3: length}})
    with pytest.raises(ValueError, match=r"takes static shapes(.|\n)*axis 3 of input(.|\n)*give a sample"):
        fit(program, "ethos-u55")
    assert only(fit(program, "ethos-u55", X[..., :9]), "convolution").shape == (2, 4, 1, 7)
    assert only(fit(program, "generic-4d"), "convolution").shape == (2, 4, 1, 38)
    closed = torch.export.export(nn.Conv2d(4, 4, (1, 3)).eval(), (X,))
    assert fit(closed, "ethos-u55").fits


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="module is a int; accepted: a torch"):
        fit(3, "generic-4d", X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to run the model with"):
        fit(nn.ReLU(), "generic-4d")
    with pytest.raises(ValueError, match=r"Conv1d can't run on \(float32\[2, 4, 1, 40\]\)"):
        fit(nn.Conv1d(3, 3, 3), "generic-4d", X)
    (tmp_path / "mine.toml").write_text(HEAD + "max = 3\n")
    with pytest.raises(ValueError, match=r"mine\.toml:9: "):
        fit(nn.ReLU(), tmp_path / "mine.toml", X)


def test_a_target_that_is_loaded_is_taken() -> None:
    assert fit(nn.ReLU(), load_target("xnnpack"), X).target.name == "xnnpack"


def test_a_module_in_2d_is_fit_with_a_sample_of_the_original() -> None:
    model, x = nn.Sequential(nn.Conv1d(1, 16, 9), nn.ReLU(), nn.Conv1d(16, 4, 3)).eval(), torch.randn(1, 1, 400)
    module = convsurgeon.convert(model, x, io="2d").module
    found, expected = (convsurgeon.fit(module, "generic-4d", one) for one in (x, x.unsqueeze(-2)))
    assert [one.shape for one in found.operators] == [one.shape for one in expected.operators]
