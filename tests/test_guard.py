"""Runs of clones leave nothing in the state of a thread; for what a model holds, each call has tests of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


@pytest.mark.parametrize("call", ["convert", "verify", "profile", "page", "export"])
def test_autocast_keeps_no_weight_of_a_clone(tmp_path: Path, call: str) -> None:
    seen: list[bool] = []

    def tell(*_: Any) -> None:
        seen.append(torch.is_autocast_cache_enabled())

    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)).eval()
    model[0].register_forward_hook(tell)
    with torch.autocast("cpu", torch.bfloat16):
        conversion = convsurgeon.convert(model, X)
        if call != "convert":
            seen.clear()
        if call == "verify":
            assert convsurgeon.verify(model, conversion.module, X, gradients=True)
        elif call == "profile":
            conversion.profile(rounds=3)
        elif call == "page":
            conversion.to_html(tmp_path / "page.html")
        elif call == "export":
            conversion.export(tmp_path / "model.pt2")
        assert torch.is_autocast_cache_enabled()
    assert seen
    assert not any(seen)


def test_autocasts_cache_is_on_again_where_a_run_fails() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="can't run"):
            convsurgeon.verify(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3), torch.randn(2, 5, 16))
        assert torch.is_autocast_cache_enabled()
