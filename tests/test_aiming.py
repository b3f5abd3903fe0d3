"""A conversion that is aimed at an accelerator is rewritten where its limits ask for it, and says how it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 1, 400)
TARGETS = pytest.mark.parametrize("target", convsurgeon.target_names())


def network() -> nn.Module:
    """A long strided kernel, a dilation, a transposed convolution, groups."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 8, 80, stride=4),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, dilation=4, padding="same"),
        nn.ConvTranspose1d(8, 4, 4, 2, 1),
        nn.Conv1d(4, 4, 9, groups=4, stride=2),
    ).eval()


def broken(fit: convsurgeon.Fit | None) -> int:
    assert fit is not None
    return sum(bool(one.misfits) for one in fit.operators)


@TARGETS
def test_every_accelerator_gets_what_fits_it_better_and_computes_the_same(target: str) -> None:
    model = network()
    conversion = convsurgeon.convert(model, X, target=target)
    assert conversion.verification is not None
    assert conversion.verification.passed
    plain = convsurgeon.fit(convsurgeon.convert(model, X).module, target, X)
    assert broken(conversion.fit) <= broken(plain)
    assert conversion.fit is not None
    assert conversion.fit.fits or target in ("artpec-9", "tidl")
    if plain.fits:
        assert not conversion.exact.rewritten
    other = torch.randn(1, 1, 523)
    torch.testing.assert_close(conversion.module(other), model(other), rtol=1e-4, atol=1e-5)


def test_a_length_that_is_open_is_asked_for() -> None:
    dims = {"input": {2: torch.export.Dim("length", min=8, max=400)}}
    program = torch.export.export(nn.Conv1d(1, 4, 3).eval(), (X[:1],), dynamic_shapes=dims)
    with pytest.raises(ValueError, match=r"takes static shapes(.|\n)*axis 2 of input(.|\n)*give a sample"):
        convsurgeon.convert(program, target="ethos-u55")
    assert convsurgeon.convert(program, X[:1], target="ethos-u55").fit
    assert convsurgeon.convert(program, target="generic-4d").fit


def profile(folder: Path, limits: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "Mine"\nstatic_shapes = true\nsource = "guide"\n'
        '[sources.guide]\ndocument = "A guide"\nkind = "documented"\ndate = 2026-01-01\n' + limits
    )
    return path


def limit(quantity: str, bound: str) -> str:
    return (
        '[[limits]]\noperators = ["convolution", "depthwise_convolution"]\nsource = "guide"\n'
        f'quantity = "{quantity}"\n{bound}\n'
    )


def test_a_limit_of_ones_own_is_kept(tmp_path: Path) -> None:
    path = profile(tmp_path, limit("kernel", "max = 7") + limit("dilation", "max = 1"))
    conversion = convsurgeon.convert(network(), X, target=path, strict=True)
    assert {one.rewrite for one in conversion.exact.rewritten} == {"split_kernel", "fold_dilation"}
    assert [one.name for one in conversion.exact.rewritten if one.rewrite == "fold_dilation"] == ["3"]
    assert "fits Mine" in str(conversion)
    assert json.loads(json.dumps(conversion.to_json()))["fit"]["fits"] is True
    assert {"0.weight", "3.weight"} <= {entry.name for entry in conversion.weight_map.entries if entry.baked}


def test_equal_strides_are_made_where_they_are_asked_for(tmp_path: Path) -> None:
    conversion = convsurgeon.convert(network(), X, target=profile(tmp_path, limit("stride", "equal = true")))
    assert conversion.plan.square
    assert not conversion.exact.rewritten
    assert conversion.fit is not None
    assert conversion.fit.fits


def test_and_for_what_a_rewrite_that_was_asked_for_makes(tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.b(self.a(x).mean(-1, keepdim=True))
            return y

    equal = limit("stride", "equal = true").replace('"convolution", "depthwise_convolution"', '"average_pool"')
    conversion = convsurgeon.convert(
        Pooled().eval(), X, target=profile(tmp_path, equal), exact=["fix_pool"], strict=True
    )
    assert conversion.plan.square


def test_what_no_rewrite_mends_stays_and_is_told(tmp_path: Path) -> None:
    path = profile(tmp_path, limit("out_channels", "max = 4"))
    conversion = convsurgeon.convert(network(), X, target=path)
    assert broken(conversion.fit) == 2
    assert "does not fit Mine: 2 of" in str(conversion)
    with pytest.raises(convsurgeon.UnsupportedError, match="strict=True asks that every operator fits"):
        convsurgeon.convert(network(), X, target=path, strict=True)


def test_a_rewrite_that_breaks_more_limits_than_it_mends_is_not_done(tmp_path: Path) -> None:
    path = profile(tmp_path, limit("kernel", "one_of = [1, 3, 5]") + limit("out_channels", "max = 4"))
    model = nn.Sequential(nn.Conv1d(1, 8, 9), nn.Conv1d(8, 4, 9)).eval()
    conversion = convsurgeon.convert(model, X, target=path)
    assert broken(conversion.fit) <= 2
    assert all(one.name != "0" for one in conversion.exact.rewritten)


def test_a_result_of_4d_ends_is_aimed_too() -> None:
    model = network()
    conversion = convsurgeon.convert(model, X, target="mdla", io="2d")
    assert conversion.exact.rewritten
    assert broken(conversion.fit) == broken(convsurgeon.convert(model, X, target="mdla").fit)
    assert isinstance(conversion.module, convsurgeon.ConvertedModule)
    torch.testing.assert_close(conversion.module.call_1d(X), model(X), rtol=1e-4, atol=1e-5)


def test_islands_are_aimed_too(tmp_path: Path) -> None:
    class Python(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(x) if float(x.sum()) > -1e9 else x

    path = profile(tmp_path, limit("kernel", "max = 7"))
    conversion = convsurgeon.convert(Python().eval(), X, target=path, capture="islands")
    assert sorted({one.name for one in conversion.exact.rewritten}) == ["encoder.0", "encoder.5"]
    assert conversion.fit is not None
    assert conversion.fit.fits


CHANNELS_LAST = '[channels_last]\nsource = "guide"\n'


def preference(families: str, quantity: str, bound: str) -> str:
    return f'[[preferences]]\noperators = [{families}]\nsource = "guide"\nquantity = "{quantity}"\n{bound}\n'


def test_what_costs_more_than_it_has_to_is_rewritten_and_fits_before_and_after(tmp_path: Path) -> None:
    asked = preference('"max_pool"', "stride", "max = 3") + preference('"convolution"', "stride", "max = 3")
    model = nn.Sequential(nn.Conv1d(1, 8, 8, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 8, 3))
    model = model.eval()
    plain = convsurgeon.fit(convsurgeon.convert(model, X).module, profile(tmp_path, CHANNELS_LAST + asked), X)
    assert plain.fits
    assert [one.operator for one in plain.operators if one.costly] == ["convolution", "max_pool2d_with_indices"]
    assert "costs more than it has to" in str(plain)
    assert "mended by split_pool_stride" in str(plain)
    assert [one["costly"][0]["quantity"] for one in plain.to_json()["operators"] if one["costly"]] == ["stride"] * 2
    conversion = convsurgeon.convert(model, X, target=profile(tmp_path, CHANNELS_LAST + asked), strict=True)
    assert [one.rewrite for one in conversion.exact.rewritten] == ["fold_into_channels", "split_pool_stride"]
    assert conversion.fit is not None
    assert not any(one.costly for one in conversion.fit.operators)
    conversion = convsurgeon.convert(model, X, target=profile(tmp_path, asked))
    assert [one.rewrite for one in conversion.exact.rewritten] == ["fold_stride", "split_pool_stride"]


def test_no_preference_is_worth_a_limit(tmp_path: Path) -> None:
    asked = preference('"convolution"', "in_channels", "min = 5") + limit("out_channels", "max = 16")
    path = profile(tmp_path, CHANNELS_LAST + asked)
    assert not convsurgeon.convert(nn.Conv1d(1, 16, 9).eval(), X, target=path).exact.rewritten
    assert convsurgeon.convert(nn.Conv1d(1, 2, 9).eval(), X, target=path).exact.rewritten


def test_the_rewrite_that_mends_most_comes_first(tmp_path: Path) -> None:
    limits = limit("padding", "max = 0\nwhen = { stride = { min = 4 } }") + limit("stride", "max = 3")
    conversion = convsurgeon.convert(nn.Conv1d(1, 4, 9, 4, 2).eval(), X, target=profile(tmp_path, limits))
    assert [one.rewrite for one in conversion.exact.rewritten] == ["fold_stride"]


def test_a_rewrite_goes_by_its_own_number_where_it_mends_another_quantity(tmp_path: Path) -> None:
    path = profile(tmp_path, limit("stride", "max = 1\nwhen = { kernel = { min = 17 } }"))
    conversion = convsurgeon.convert(nn.Sequential(nn.Conv1d(1, 2, 20, 2, dilation=2)).eval(), X, target=path)
    assert [one.became for one in conversion.exact.rewritten] == ["2 x getitem + Conv2d 1x16 + Conv2d 1x4 + add"]


def test_wrong_targets() -> None:
    with pytest.raises(ValueError, match=r"ethos-u55"):
        convsurgeon.convert(network(), X, target="ethos-u56")
    with pytest.raises(ValueError, match="a target is given, and there is no sample"):
        convsurgeon.convert(network(), verify=False, target="tidl")


class Branches(nn.Module):
    """No graph as a whole, with a convolution that is a graph by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if float(x.sum()) > -1e9 else x


class Bracketed(nn.Module):
    """A name in which a glob would see a set of characters."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"conv[0]": nn.Conv1d(1, 4, 9)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts["conv[0]"](x).relu()


@pytest.mark.parametrize("model", [Branches(), Bracketed()])
def test_islands_of_one_convolution_and_names_with_brackets_are_aimed_too(model: nn.Module, tmp_path: Path) -> None:
    path = profile(tmp_path, limit("kernel", "max = 7"))
    conversion = convsurgeon.convert(model.eval(), X, target=path)
    assert conversion.fit is not None
    assert conversion.fit.fits
    assert conversion.exact.rewritten[0].name in ("conv", "parts.conv[0]")
