"""Exact rewrites as part of a conversion: proven, told, and kept from checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_support import CAPTURES
from torch import nn

import convsurgeon


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv1d(1, 4, 40, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3, dilation=2)).eval()


@CAPTURES
def test_a_conversion_rewrites_and_proves_the_result(capture: Any) -> None:
    model, x = network(), torch.randn(2, 1, 300)
    names = ["fold_batch_norm", "fold_stride", "fold_dilation"]
    conversion = convsurgeon.convert(model, x, exact=names, capture=capture)
    assert conversion.verification is not None
    assert conversion.verification.passed
    assert sorted(one.rewrite for one in conversion.exact.rewritten) == sorted(names)
    assert "3 exact rewrites, 0 left" in str(conversion)
    told = json.loads(json.dumps(conversion.to_json()))["exact"]["rewritten"]
    assert {one["rewrite"] for one in told} == set(names)


def test_a_wrong_rewrite_does_not_get_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsurgeon.exact.writer.held_as", lambda held, value, like=None: _off(held, value))
    with pytest.raises(convsurgeon.EquivalenceError, match="first at 0"):
        convsurgeon.convert(network(), torch.randn(2, 1, 300), exact=["fold_stride"])


def _off(held: Any, value: torch.Tensor | None) -> Any:
    if held is None or value is None:
        return None if held is None else held.value
    return nn.Parameter(value * 1.01)


def test_baked_entries_are_marked_and_not_moved(tmp_path: Path) -> None:
    model, x = network(), torch.randn(2, 1, 300)
    conversion = convsurgeon.convert(model, x, exact=["fold_stride"])
    assert [entry.name for entry in conversion.weight_map.entries if entry.baked] == ["0.weight"]
    conversion.weight_map.save(tmp_path / "map.json")
    held = convsurgeon.WeightMap.load(tmp_path / "map.json")
    assert held == conversion.weight_map
    with pytest.raises(convsurgeon.CheckpointError, match=r"baked 1 of 9 entries \(0.weight\)"):
        held.to_2d(model.state_dict())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(convsurgeon.CheckpointError, match="convert that again"):
        convsurgeon.convert_checkpoint(tmp_path / "model.pt", tmp_path / "new.pt", tmp_path / "map.json")


def test_a_rewrite_that_bakes_nothing_leaves_checkpoints_usable() -> None:
    model, x = nn.Sequential(nn.ConvTranspose1d(2, 2, 4, 2, 1)), torch.randn(2, 2, 20)
    conversion = convsurgeon.convert(model, x, exact=["crop_padding"])
    assert conversion.exact.rewritten[0].baked == ()
    conversion.module.load_state_dict(conversion.weight_map.to_2d(model.state_dict()))
    conversion.module.load_state_dict(model.state_dict())


def test_islands_are_rewritten_each() -> None:
    class Python(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = network(), nn.Sequential(nn.Conv1d(4, 2, 8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.encoder(x)
            return self.decoder(x) if x.sum() > -1e9 else x

    conversion = convsurgeon.convert(Python().eval(), torch.randn(2, 1, 300), exact=["fold_stride"], capture="islands")
    assert [one.name for one in conversion.exact.rewritten] == ["encoder.0", "decoder.0"]
    assert conversion.exact.baked == ("encoder.0.weight", "decoder.0.weight")
    assert conversion.verification is not None
    assert conversion.verification.passed


def test_a_program_whose_weights_are_baked_is_exported_anew() -> None:
    x = torch.randn(2, 1, 300)
    conversion = convsurgeon.convert(torch.export.export(network(), (x,)), exact=["fold_stride"])
    with pytest.raises(AttributeError, match="exact rewrites or tuning changed"):
        _ = conversion.exported_program
    torch.export.export(conversion.module, (x,))


@pytest.mark.parametrize(
    ("exact", "error", "message"),
    [
        (["fold_strides"], ValueError, "exact names 'fold_strides'; known: convolution_as_product"),
        ("fold_stride", TypeError, r"give a list of names, \['fold_stride'\]"),
    ],
)
def test_wrong_arguments_are_told(exact: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convsurgeon.convert(network(), torch.randn(2, 1, 300), exact=exact)
    with pytest.raises(ValueError, match="no sample to tell shapes by"):
        convsurgeon.convert(network(), exact=["fold_stride"], verify=False)


def test_the_page_shows_a_rewritten_conversion(tmp_path: Path) -> None:
    conversion = convsurgeon.convert(network(), torch.randn(2, 1, 300), exact=["fold_stride", "fold_dilation"])
    conversion.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 1000
