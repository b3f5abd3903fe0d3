"""Models whose ``train`` does more than setting modes: it is called on clones, and changes nothing of the user's."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Adapted(nn.Module):
    """A convolution with an adapter of low rank, which is merged into the weight for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.down, self.up = nn.Parameter(torch.randn(2, 12)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def delta(self) -> torch.Tensor:
        return (self.up @ self.down).view(self.conv.weight.shape)

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if self.merged is mode:
            self.conv.weight.data += -self.delta() if mode else self.delta()
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.merged:
            return self.conv(x)
        return self.conv._conv_forward(x, self.conv.weight + self.delta(), self.conv.bias)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("call", ["convert", "islands", "verify"])
def test_an_adapter_is_merged_into_no_weight_of_the_users(call: str, mode: bool) -> None:
    model = nn.Sequential(Adapted(), nn.Conv1d(4, 2, 1)).train(mode)
    before, merged = model[0].conv.weight.detach().clone(), model[0].merged
    if call == "verify":
        assert convsurgeon.verify(model, model, X, train=True)
    else:
        convsurgeon.convert(model, X, capture="auto" if call == "convert" else "islands")
    assert torch.equal(model[0].conv.weight, before)
    assert model[0].merged is merged
    assert model[0].training is mode


@pytest.mark.parametrize("capture", ["trace", "export"])
def test_a_graph_of_merged_adapters_is_not_trained(capture: Any) -> None:
    model = nn.Sequential(Adapted(), nn.Conv1d(4, 2, 1)).eval()
    module = convsurgeon.convert(model, X, capture=capture).module
    with pytest.raises(convsurgeon.UnsupportedError, match="captured in eval mode only"):
        module.train()
    module = convsurgeon.convert(model.train(), X, capture=capture).module
    torch.testing.assert_close(module.eval()(X), model.eval()(X))


def test_adapters_among_islands_are_merged_by_their_own_python() -> None:
    model = nn.Sequential(Adapted(), nn.Conv1d(4, 2, 1)).eval()
    module = convsurgeon.convert(model, X, copy_weights=True, capture="islands").module
    for one in (model, module):
        one.train()(X).sum().backward()
    assert model[0].up.grad is not None
    torch.testing.assert_close(module.get_parameter("0.up").grad, model[0].up.grad)


def test_a_frozen_part_beside_a_train_method_of_its_own() -> None:
    part = convsurgeon.convert(nn.Sequential(Adapted()).eval(), X).module
    model = nn.Sequential(part, Adapted()).eval()
    module = convsurgeon.convert(model, X).module
    with pytest.raises(convsurgeon.UnsupportedError, match="captured in eval mode only"):
        module.train()


def test_a_mode_kept_by_a_function_hung_on_a_module() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)).eval()

    def stays(mode: bool = True) -> nn.Module:
        return model

    model.train = stays
    module = convsurgeon.convert(model, X).module.train()
    assert not module.get_submodule("1").training
    assert not model.training


def test_a_train_method_that_only_raises_as_those_of_exported_programs() -> None:
    program = torch.export.export(nn.Sequential(nn.Conv1d(4, 4, 3)).eval(), (X,))
    assert convsurgeon.convert(program).plan.lifted
    assert convsurgeon.convert(nn.Sequential(program.module(), nn.Conv1d(4, 2, 1)), X).plan.lifted


class Frozen(nn.Module):
    def __init__(self, norm: type[nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 4, 3), norm(4)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Locked(Frozen):
    """Pickles nothing of what it doesn't know."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_convsurgeon")}


@pytest.mark.parametrize("kind", [Frozen, Locked])
@pytest.mark.parametrize("copied", [lambda one: one, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_part_is_trained_alone_as_its_own_class_does(kind: type[nn.Module], copied: Any) -> None:
    model = nn.Sequential(kind(), nn.Conv1d(4, 2, 1)).eval()
    module = copied(convsurgeon.convert(model, X, copy_weights=True).module)
    for one in (model, module):
        assert one.get_submodule("0").train().training
    assert not module.get_submodule("0.norm").training
    torch.testing.assert_close(module(X), model(X))


def test_what_is_converted_again_keeps_its_own_modes() -> None:
    model = nn.Sequential(Frozen(), nn.Conv1d(4, 2, 1))
    module = convsurgeon.convert(convsurgeon.convert(model, X).module, X).module
    assert not module.train().get_submodule("0.norm").training
    assert not module.get_submodule("0").train().get_submodule("norm").training


def test_a_model_that_never_trains_does_not_where_it_is_converted() -> None:
    class Never(Frozen):
        def train(self, mode: bool = True) -> Never:
            nn.Module.train(self, False)
            return self

    module = convsurgeon.convert(Never().eval(), X).module
    assert not any(one.training for one in module.train().modules())


def test_a_train_hung_on_a_part_does_not_set_the_modes_of_the_original() -> None:
    part = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    part.train = functools.partial(nn.Module.train, part)
    model = nn.Sequential(part, nn.Conv1d(4, 2, 1)).eval()
    module = convsurgeon.convert(model, X).module.train()
    assert module.get_submodule("0.1").training
    assert not part[1].training


def test_a_part_that_may_not_be_trained_alone_is_asked_to_by_nobody() -> None:
    class ForGood(Frozen):
        def train(self, mode: bool = True) -> ForGood:
            raise RuntimeError("it is frozen for good")

    class Above(nn.Sequential):
        def train(self, mode: bool = True) -> Above:
            self.training = mode
            self[1].train(mode)
            return self

    part = ForGood()
    for one in part.modules():
        one.training = False
    module = convsurgeon.convert(Above(part, nn.Conv1d(4, 2, 1)), X).module.train()
    assert {name for name, one in module.named_modules() if not one.training} == {"0", "0.conv", "0.norm"}
