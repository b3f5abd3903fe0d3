"""What is computed in place, is so while its module's forward runs, however that ends, and never elsewhere."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from support import ranks_of_convolutions
from torch import nn

import convsurgeon

X = torch.randn(2, 4, 16)


class Interrupted(nn.Module):
    """Convolves by a function, and calls what may interrupt it in between."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3))
        self.raises: type[BaseException] | None = None
        self.inner: Interrupted | None = None

    def forward(self, x: torch.Tensor, times: int = 1) -> torch.Tensor:
        y = F.conv1d(x, self.weight, padding=1) if x.sum() < 1e9 else x
        if self.inner is not None:
            y = self.inner(y)
        if self.raises is not None:
            raise self.raises
        return y if times == 1 else self(y, times - 1)


def nested() -> Interrupted:
    model = Interrupted().eval()
    model.inner = Interrupted().eval()
    return model


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, ArithmeticError])
def test_nothing_stays_in_2d_when_a_call_is_interrupted(error: type[BaseException]) -> None:
    model = nested()
    module = convsurgeon.convert(model, X).module
    assert ranks_of_convolutions(module, X) == [(4, 4)] * 2
    module.inner.raises = error
    with pytest.raises(error):
        module(X)
    assert torch._C._len_torch_function_stack() == 0
    module.inner.raises = None
    assert ranks_of_convolutions(module, X) == [(4, 4)] * 2
    assert ranks_of_convolutions(model, X) == [(3, 3)] * 2


def test_calls_may_be_nested_and_in_other_threads() -> None:
    model = nested()
    module = convsurgeon.convert(model, X).module
    found = {}

    def call(times: int) -> None:
        found[times] = module(X, times), torch._C._len_torch_function_stack()

    threads = [threading.Thread(target=call, args=(times,)) for times in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for times, (result, left) in found.items():
        torch.testing.assert_close(result, model(X, times))
        assert left == 0
    assert torch._C._len_torch_function_stack() == 0


def test_a_module_computed_in_place_keeps_its_signature_and_class_in_every_copy() -> None:
    model = nested()
    module = convsurgeon.convert(model, X).module
    for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(one) is Interrupted
        assert inspect.signature(one.forward) == inspect.signature(model.forward)
        assert one.state_dict().keys() == model.state_dict().keys()
        one.weight.data = torch.zeros(4, 4, 3)
        assert not one(X).any()
    assert model(X).any()


def test_the_replicas_of_data_parallel_compute_with_weights_of_their_own() -> None:
    model = nested()
    module = convsurgeon.convert(model, X).module
    replicas = [one._replicate_for_data_parallel() for one in (module, module.inner)]
    for replica in replicas:
        replica.weight = torch.zeros(4, 4, 3)
    replicas[0].inner = None
    assert ranks_of_convolutions(replicas[0], X) == [(4, 4)]
    assert not replicas[0](X).any()
    torch.testing.assert_close(module(X), model(X))


class Doubled:
    """A forward of its own, as tools hang one on a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * type(self.module).forward(self.module, x)


def test_a_forward_that_hangs_on_the_module_is_kept() -> None:
    model = nested()
    model.forward = Doubled(model)
    conversion = convsurgeon.convert(model, X)
    assert ranks_of_convolutions(conversion.module, X) == [(4, 4)] * 2
    torch.testing.assert_close(conversion.module(X), model(X))
    conversion.profile(rounds=3)


class Plain(nn.Module):
    """Convolves by a function alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.weight)


def test_what_is_computed_in_place_can_be_exported() -> None:
    conversion = convsurgeon.convert(Plain().eval(), X, capture="islands")
    assert conversion.plan.in_place == ("",)
    called = [node.target for node in torch.export.export(conversion.module, (X,), strict=False).graph.nodes]
    assert torch.ops.aten.conv2d.default in called
