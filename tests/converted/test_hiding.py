"""Arguments with names by which generated code means something else."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Hiding(nn.Module):
    """Has code that writes a device, an infinity and a slice, and calls by ``torch``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.home = nn.Conv1d(4, 4, 3), torch.device("cpu")

    def compute(self, x: torch.Tensor, scale: Any) -> torch.Tensor:
        y = self.conv(x.to(self.home).clamp(max=float("inf")))[:, 1:3]
        return y.softmax(1) if scale is None else y.softmax(1) * scale


class Device(Hiding):
    def forward(self, x: torch.Tensor, device: Any = None) -> torch.Tensor:
        return self.compute(x, device)


class Torch(Hiding):
    def forward(self, x: torch.Tensor, torch: Any = None) -> Any:
        return self.compute(x, torch)


class Infinity(Hiding):
    def forward(self, x: torch.Tensor, *, inf: Any = None) -> torch.Tensor:
        return self.compute(x, inf)


class Slice(Hiding):
    def forward(self, x: torch.Tensor, slice: Any = None) -> torch.Tensor:
        return self.compute(x, slice)


@pytest.mark.parametrize("kind", [Device, Torch, Infinity, Slice])
@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("given", [None, 2 * torch.ones(1)], ids=["left out", "given"])
def test_an_argument_hides_no_name_of_the_code(kind: Any, capture: Any, given: torch.Tensor | None) -> None:
    name = {Device: "device", Torch: "torch", Infinity: "inf", Slice: "slice"}[kind]
    model = kind().eval()
    call = {"x": X} if given is None else {"x": X, name: given}
    module = convsurgeon.convert(model, call, capture=capture).module
    for one in (module, pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(one(**call), model(**call))
    module.reach_directly()
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(**call), model(**call))


def test_code_that_does_not_use_the_name_is_left_as_it_is() -> None:
    class Plain(nn.Sequential):
        def forward(self, input: torch.Tensor) -> Any:
            return super().forward(input)

    module = convsurgeon.convert(Plain(nn.Conv1d(4, 4, 3)), X).module
    assert "import" not in module.code


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({"in": nn.Conv1d(4, 4, 3), "global": nn.Conv1d(4, 2, 3)})
        self.scales = nn.ParameterDict({"lambda": nn.Parameter(torch.rand(4, 1))})

    def forward(self, x: torch.Tensor) -> Any:
        return self.convs["global"](torch.relu(self.convs["in"](x)) * self.scales["lambda"])


def test_parts_may_be_called_as_keywords_of_python_are() -> None:
    model = Keywords().eval()
    module = convsurgeon.convert(model, X, capture="trace").module
    assert isinstance(module, convsurgeon.ConvertedModule)
    for one in (module, pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(one(X), model(X))
    module.reach_directly()
    torch.testing.assert_close(module(X), model(X))
