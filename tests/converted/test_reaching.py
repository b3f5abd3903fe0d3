from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from support import assert_same
from torch import fx, nn
from torch.nn.utils import parametrizations

import convsurgeon
from convsurgeon.converted.module import ConvertedModule

X = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(0))


class Nested(nn.Module):
    """Submodules called, one by a name that is no identifier, and a weight that is read from within one."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"first-one": nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU())})
        self.head = nn.Conv1d(4, 4, 1)
        self.register_buffer("shift", torch.ones(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stages["first-one"](x)
        return self.head(y) + y * self.head.bias[:, None] + self.shift


def direct(capture: Any = "auto") -> ConvertedModule:
    torch.manual_seed(0)
    module = convsurgeon.convert(Nested().eval(), X, capture=capture).module
    assert isinstance(module, ConvertedModule)
    module.reach_directly()
    return module


def test_submodules_are_reached_by_the_dictionaries_that_hold_them() -> None:
    assert "self._modules['stages']._modules['first-one']._modules['0'](" in direct().code
    assert "self._modules['head'].bias" in direct("export").code
    assert "self.shift" in direct().code


def test_it_computes_what_it_did_however_it_is_copied() -> None:
    torch.manual_seed(0)
    expected = Nested().eval()(X)
    for capture in ("trace", "export"):
        module = direct(capture)
        for one in (module, copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
            assert "_modules" in one.code
            torch.testing.assert_close(one(X), expected)
        module.recompile()
        assert "_modules" in module.code
        assert_same(torch.compile(module, backend="eager", fullgraph=True)(X), module(X))
        assert_same(fx.symbolic_trace(module)(X), module(X))


def test_a_weight_may_come_to_be_computed_and_a_module_to_be_another() -> None:
    module = direct("export")
    expected = module(X)
    parametrizations.weight_norm(module.head)
    torch.testing.assert_close(module(X), expected)
    module.head = copy.deepcopy(module.head)
    with torch.no_grad():
        module.head.bias.add_(1)
    assert not torch.allclose(module(X), expected)
