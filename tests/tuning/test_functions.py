from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support import assert_same
from torch import nn
from torch._ops import OpOverload

import convsurgeon
from convsurgeon.converted.module import ConvertedModule, shared_copy
from convsurgeon.samples import Sample
from convsurgeon.tuning.functions import call_functions


class Various(nn.Module):
    """Operators that are functions, methods, indices and sizes, and one that the module's own state is written by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.gru = nn.Conv1d(4, 8, 3), nn.Linear(8, 8), nn.GRU(8, 8, batch_first=True)
        self.norm, self.embedding = nn.BatchNorm1d(8), nn.Embedding(5, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        y = F.gelu(self.norm(self.conv(x)))
        y = y[:, :, 1:-1] + self.embedding.weight[:, :, None].mean(0)
        y = self.linear(y.transpose(1, 2)).reshape(x.size(0), -1, 2, 4).permute(0, 2, 1, 3)
        y = F.scaled_dot_product_attention(y, y, y).flatten(1, 2)[..., ::2]
        y = F.pad(y, (3, 3)).clamp_(min=0.1).masked_fill(y.new_zeros(y.size(0), 1, 1).bool(), 1.0)
        z, _ = self.gru(y)
        values, indices = z.max(1)
        return torch.where(values > 0, values, -values) / 2.0, indices, z.cumsum(-1).softmax(1), *y.split(3, -1)


X = torch.randn(2, 4, 20, generator=torch.Generator().manual_seed(0))


def spelled(model: nn.Module, x: torch.Tensor) -> tuple[ConvertedModule, ConvertedModule]:
    """The conversion, and a copy of it that calls functions."""
    module = convsurgeon.convert(model, x, capture="export").module
    written = shared_copy(module)
    assert isinstance(module, ConvertedModule)
    assert isinstance(written, ConvertedModule)
    call_functions(written, Sample((x,)))
    return module, written


def overloads(module: ConvertedModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if isinstance(node.target, OpOverload)}


def test_they_compute_the_same() -> None:
    torch.manual_seed(0)
    module, written = spelled(Various().eval(), X)
    assert len(overloads(module)) > 25
    assert overloads(written) == {"aten.slice.Tensor", "aten.split.Tensor"}  # the first where it takes everything
    assert "slice(None, None, None), slice(1, -1, None))]" in written.code
    for x in (X, torch.randn(3, 4, 20)):
        assert_same(written(x), module(x))


class Rolling(nn.Module):
    """Keeps the end of what it was given, for as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.register_buffer("kept", torch.zeros(16, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.kept[: x.size(0)], x], -1)
        self.kept[: x.size(0)] = x[..., -2:]
        return self.conv(x)


def test_a_slice_from_the_start_is_an_index_whatever_it_leaves_out() -> None:
    module, written = spelled(Rolling().eval(), X)
    assert "aten.slice.Tensor" in overloads(module)
    assert "aten.slice.Tensor" not in overloads(written)
    for x in (X, torch.randn(2, 4, 20), torch.randn(3, 4, 31)):
        assert_same(written(x), module(x))


def test_asking_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = Various().eval()
    module = convsurgeon.convert(model, X, capture="export").module
    before, state = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    written = shared_copy(module)
    assert isinstance(written, ConvertedModule)
    assert call_functions(written, Sample((X,))) > 25
    assert_same(written.state_dict(), before)
    assert_same(module.state_dict(), before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_names_and_metadata_stay_and_so_does_a_graph_that_was_traced() -> None:
    module, written = spelled(Various().eval(), X)
    assert [node.name for node in module.graph.nodes] == [node.name for node in written.graph.nodes]
    assert [node.meta.keys() for node in module.graph.nodes] == [node.meta.keys() for node in written.graph.nodes]
    traced = shared_copy(convsurgeon.convert(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()), X).module)
    assert isinstance(traced, ConvertedModule)
    code = traced.code
    assert call_functions(traced, Sample((X,))) == 0
    assert traced.code == code


class Asks(nn.Module):
    """What takes another path by a number of a tensor's can't be asked without data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, torch.arange(4) % 2 == 0] * self.scale.clone()


def test_what_needs_data_stays() -> None:
    module, written = spelled(Asks().eval(), X)
    assert "aten.index.Tensor" in overloads(written)
    assert_same(written(X), module(X))


def test_a_method_of_two_meanings_isn_t_taken_for_the_other() -> None:
    """`Tensor.to` has no layout, and `torch.max` of an axis returns a named tuple: each is asked, not listed."""

    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.conv(x)
            return y.to(torch.float64), y.to(y.device), y.type(torch.float16), y.max(2)[0], y.max(), y.sum(), y.sum(2)

    module, written = spelled(Casts().eval(), X)
    assert "aten.max.dim" not in overloads(written)
    assert_same(written(X), module(X))


@pytest.mark.parametrize("gradients", [False, True])
def test_it_is_pickled_exported_and_compiled(gradients: bool) -> None:
    torch.manual_seed(0)
    module, written = spelled(Various().eval(), X)
    written.reach_directly()
    expected = module(X)
    with torch.set_grad_enabled(gradients):
        assert_same(pickle.loads(pickle.dumps(written))(X), expected)
        assert_same(copy.deepcopy(written)(X), expected)
        assert_same(torch.compile(written, backend="eager", fullgraph=True)(X), expected)
        torch.testing.assert_close(torch.export.export(written, (X,)).module()(X), expected)
        torch.testing.assert_close(torch.export.export(written, (X,), strict=True).module()(X), expected)
