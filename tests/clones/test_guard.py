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


class Chooses(nn.Module):
    """A model that has torch choose between two functions, which an operator of a higher order does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = torch.cond(y.sum() > 0, lambda one: one * 2, lambda one: one - 1, (y,))
        z: torch.Tensor = self.b(y)
        return z


def test_operators_that_take_functions_run_as_a_whole_and_go_on_running() -> None:
    model = Chooses().eval().requires_grad_(False)
    for given in (torch.export.export(model, (X,)), model):
        conversion = convsurgeon.convert(given, X)
        assert len(conversion.plan.lifted) == 2
        with torch.no_grad():
            torch.testing.assert_close(conversion.module(X), model(X))


def test_what_is_compiled_stays_compiled() -> None:
    compiled: list[int] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()).eval()
    model[1].forward = torch.compile(model[1].forward, backend=compiler)
    convsurgeon.verify(model, model, X).require()
    assert not compiled
    with torch.no_grad():
        model(X)
    assert compiled
