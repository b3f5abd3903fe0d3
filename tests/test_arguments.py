"""Wrong arguments and models that can't be converted: each an error that says where, what, and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon


def model() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU())


X = torch.randn(2, 3, 8)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lift": "all"}, ValueError, "lift is 'all'; accepted: 'regions', 'ops'"),
        ({"io": "3d"}, ValueError, "io is '3d'; accepted: '1d'"),
        ({"unit_axis": 2}, ValueError, "unit_axis is 2; accepted: -2, -1"),
        ({"capture": "magic"}, ValueError, "capture is 'magic'; accepted: 'auto', 'trace'"),
        ({"copy_weights": "yes"}, ValueError, "copy_weights is 'yes'; accepted: False, True"),
        ({"tolerance": 1e-3}, TypeError, r"tolerance is a float; accepted: convsurgeon.Tolerance\(rtol, atol\)"),
        ({"include": "conv"}, TypeError, r"include is 'conv'; accepted: a sequence of globs"),
        (
            {"exclude": ["decodr.*"]},
            ValueError,
            r"exclude has 'decodr\.\*', which matches no module; the model has 0, 1",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_accepted(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        convsurgeon.convert(model(), X, **options)


@pytest.mark.parametrize(
    ("sample", "error", "words"),
    [
        ("x", TypeError, "sample_inputs is a str; accepted: a tensor, a tuple"),
        ([X, 3], TypeError, r"sample_inputs\[1\] is a int"),
        ([], ValueError, "sample_inputs is an empty list"),
        (None, ValueError, "sample_inputs is None, so nothing can be verified.*verify=False"),
        ((X, X), ValueError, "sample_inputs don't fit Sequential.forward"),
        ({"y": X}, ValueError, "sample_inputs don't fit Sequential.forward"),
        (torch.randn(2, 5, 8), ValueError, r"Sequential can't run on \(float32\[2, 5, 8\]\)(.|\n)*to have 3 channels"),
        ([X, torch.randn(2, 5, 8)], ValueError, r"Sequential can't run on \(float32\[2, 5, 8\]\)"),
    ],
)
def test_samples_that_do_not_fit(sample: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        convsurgeon.convert(model(), sample)


def test_tolerances_are_checked() -> None:
    with pytest.raises(ValueError, match="rtol is -1; accepted: a number of at least 0"):
        convsurgeon.Tolerance(-1, 0)


def test_what_is_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"model is a function; accepted: a torch\.nn\.Module"):
        convsurgeon.convert(lambda x: x, X)


def test_an_uninitialized_lazy_module() -> None:
    lazy = nn.Sequential(nn.LazyConv1d(4, 3))
    with pytest.raises(ValueError, match=r"uninitialized parameters \(0\.weight, 0\.bias\); call it once"):
        convsurgeon.convert(lazy, X)
    lazy(X)
    assert len(convsurgeon.convert(lazy, X).plan.convolutions) == 1


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            x = -x
        return self.conv(x)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last is not None:
            x = x + self.last
        self.last = self.conv(x)
        return self.last


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + torch.randn(3, 1)


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu"):
            return self.conv(x)


class FreezesABranch(nn.Module):
    """Traces without an error into something else: a proxy is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + x if type(y) is torch.Tensor else y


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Branches(), r"Branches can't be traced(.|\n)*test_arguments\.py:\d+, in forward: if x\.mean\(\) > 0:"),
        (Remembers(), "Remembers keeps 'last' from one call to the next"),
        (Draws(), "Draws.forward draws random numbers that depend on no input"),
        (Casts(), r"runs under torch\.autocast"),
        (
            FreezesABranch(),
            "the traced graph of FreezesABranch was captured without an error, and computes something else",
        ),
    ],
)
def test_a_model_that_can_not_be_captured(broken: nn.Module, words: str) -> None:
    sample = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    stream = torch.get_rng_state()
    with pytest.raises(convsurgeon.CaptureError, match=words):
        convsurgeon.convert(broken.eval(), sample, capture="trace")
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_model_without_convolutions_comes_back_as_it_was() -> None:
    plain = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LSTM(4, 2))
    conversion = convsurgeon.convert(plain, X)
    assert not conversion.plan.lifted
    assert not conversion.plan.borders
    assert "nothing: the model has no 1-D convolution" in str(conversion)
    torch.testing.assert_close(conversion.module(X), plain(X))


def test_without_samples_each_convolution_is_wrapped_alone() -> None:
    stack = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3)).eval()
    conversion = convsurgeon.convert(stack, verify=False)
    assert conversion.plan.lift == "ops"
    assert conversion.verification is None
    assert len(conversion.plan.borders) == 4
    torch.testing.assert_close(conversion.module(X), stack(X))


def test_include_and_exclude_choose_by_any_name_and_all_inside() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Sequential(nn.Conv1d(3, 3, 1)))
            self.decoder = nn.Sequential(nn.Conv1d(3, 3, 1))
            self.also = self.decoder

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.also(self.encoder(x))

    def lifted(**options: Any) -> list[str]:
        return [one.name for one in convsurgeon.convert(Two(), X, **options).plan.lifted]

    assert lifted() == ["encoder.0", "encoder.1.0", "decoder.0"]
    assert lifted(exclude=["encoder"]) == ["decoder.0"]
    assert lifted(exclude=["also.*"]) == ["encoder.0", "encoder.1.0"]
    assert lifted(include=["*.0"], exclude=["encoder.1"]) == ["encoder.0", "decoder.0"]
    plan = convsurgeon.plan(Two(), X, exclude=["decoder"])
    assert "excluded by exclude=['decoder']" in plan.kept[0].reason
    assert plan.kept[0].source.partition(":")[0].endswith("test_arguments.py")
