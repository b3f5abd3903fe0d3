"""Converting changes nothing in the original that can be seen, and the two models share nothing but storage."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensor
from torch.nn.utils import parametrizations, spectral_norm

import convsurgeon

Snapshot = dict[str, tuple[int, int, torch.Tensor, bool, torch.dtype]]


class Everything(nn.Module):
    """Every way in which a module can hold a tensor, and every way in which forward can write one."""

    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning, match="weight_norm"):
            self.normed = nn.utils.weight_norm(nn.Conv1d(3, 4, 3, padding=1))
        self.spectral = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.codes = nn.Parameter(torch.randn(4, 1), requires_grad=False)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))
        self.register_buffer("cache", torch.zeros(4, 1), persistent=False)
        self.plain = torch.randn(4, 1)
        self.listed = [torch.randn(1), {"deep": torch.randn(2)}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.norm(self.parametrized(self.normed(x))))
        self.steps.add_(1)
        self.cache.copy_(y.mean((0, 2))[:, None].detach())
        with torch.no_grad():
            self.codes.mul_(0.5)
        x.mul_(1)
        return self.spectral((y + self.plain + self.codes + F.dropout(y, training=self.training)).mean(-1))


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in every ``vars(module)``, however deep in plain containers."""

    def walk(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict):
            for key, one in value.items():
                yield from walk(f"{name}.{key}", one)
        elif isinstance(value, (list, tuple)):
            for i, one in enumerate(value):
                yield from walk(f"{name}.{i}", one)

    for path, one in module.named_modules():
        for attribute, value in vars(one).items():
            if attribute != "_modules":
                yield from walk(f"{path}.{attribute}", value)


def snapshot(module: nn.Module) -> Snapshot:
    return {
        name: (id(tensor), tensor._version, tensor.detach().clone(), tensor.requires_grad, tensor.dtype)
        for name, tensor in tensors(module)
    }


def assert_unchanged(module: nn.Module, before: Snapshot) -> None:
    after = snapshot(module)
    assert list(after) == list(before)
    for name, (identity, version, value, requires_grad, dtype) in before.items():
        assert after[name][0] == identity, name
        assert after[name][1] == version, name
        assert torch.equal(after[name][2], value), name
        assert after[name][3:] == (requires_grad, dtype), name
    assert not any(isinstance(tensor, FakeTensor) for _, tensor in tensors(module))


def layout(module: nn.Module) -> list[object]:
    """Modes, hooks and classes of every module."""
    return [
        (name, type(one), one.training, tuple(one._forward_hooks), tuple(one._forward_pre_hooks), sorted(vars(one)))
        for name, one in module.named_modules()
    ]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{}, {"lift": "ops"}, {"tolerance": convsurgeon.Tolerance(1e-3, 1e-3)}])
def test_nothing_of_the_original_changes(training: bool, options: dict[str, object]) -> None:
    model = Everything().train(training)
    model.norm.eval()
    sample = torch.randn(2, 3, 8)
    held, input_before = snapshot(model), sample.clone()
    shape = layout(model)
    stream, python_stream = torch.get_rng_state(), random.getstate()
    default = torch.get_default_dtype(), torch.is_grad_enabled()
    conversion = convsurgeon.convert(model, sample, **options)
    assert_unchanged(model, held)
    assert layout(model) == shape
    assert torch.equal(sample, input_before)
    assert torch.equal(torch.get_rng_state(), stream)
    assert random.getstate() == python_stream
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == default
    convsurgeon.verify(model, conversion.module, sample, train=True, gradients=False)
    assert_unchanged(model, held)
    assert torch.equal(torch.get_rng_state(), stream)
    assert {name: one.training for name, one in conversion.module.named_modules()} == {
        name: one.training for name, one in model.named_modules()
    }


def test_nothing_changes_when_the_conversion_fails() -> None:
    model = nn.Sequential(Everything()).train()
    held, stream = snapshot(model), torch.get_rng_state()
    with pytest.raises(ValueError, match="can't run on"):
        convsurgeon.convert(model, torch.randn(2, 7, 8))
    assert_unchanged(model, held)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.equal(torch.get_rng_state(), stream)  # the sample itself was drawn


def small() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(6, 2), nn.PReLU()).eval()


def test_casting_freezing_hooking_and_switching_one_leaves_the_other_alone() -> None:
    model = small()
    module = convsurgeon.convert(model, torch.randn(2, 3, 8)).module
    held, shape = snapshot(model), layout(model)
    module.half().train().requires_grad_(False)
    module.get_submodule("2").register_forward_hook(lambda *_: None)
    module.get_submodule("1").running_mean.add_(1)
    assert_unchanged(model, held)
    assert layout(model) == shape


def test_storage_is_shared_but_for_batch_norm_statistics() -> None:
    model = small()
    module = convsurgeon.convert(model, torch.randn(2, 3, 8)).module
    pairs = dict(model.state_dict(keep_vars=True)), dict(module.state_dict(keep_vars=True))
    for name, theirs in pairs[0].items():
        assert pairs[1][name] is not theirs
        shared = pairs[1][name].data_ptr() == theirs.data_ptr()
        assert shared is not any(word in name for word in ("running", "num_batches"))


class OwnNorm(nn.Module):
    """A batch norm of the user's own, with statistics that training alone writes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.mean, self.var, None, None, self.training, 0.1)


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("part", ["norm", "parametrized", "hooked"])
def test_buffers_that_training_alone_writes_are_apart(part: str, capture: Any) -> None:
    parts: dict[str, nn.Module] = {
        "norm": OwnNorm(),
        "parametrized": parametrizations.spectral_norm(nn.Conv1d(4, 4, 3)),
        "hooked": spectral_norm(nn.Conv1d(4, 4, 3)),
    }
    model, x = nn.Sequential(nn.Conv1d(3, 4, 3), parts[part]).eval(), torch.randn(2, 3, 16)
    if capture == "export" and part != "norm":
        model.train()  # the graph is of one mode
    module = convsurgeon.convert(model, x, capture=capture).module
    held = snapshot(model)
    module.train()(2 * x + 1)
    assert any(not torch.equal(b, dict(model.named_buffers())[name]) for name, b in module.named_buffers())
    assert_unchanged(model, held)


def test_copied_weights_share_nothing() -> None:
    model = small()
    module = convsurgeon.convert(model, torch.randn(2, 3, 8), copy_weights=True).module
    held = snapshot(model)
    for value in module.state_dict(keep_vars=True).values():
        value.data.zero_()
    assert_unchanged(model, held)


class Scripted(nn.Module):
    """Holds a part that torch.jit has scripted or traced, with scripted parts of its own."""

    def __init__(self, traced: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 4, 3)
        inner = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), nn.Conv1d(4, 4, 1))
        inner[2].requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a way that torch leaves, and of the batch's size
            scripted = torch.jit.trace(inner, torch.randn(2, 4, 6)) if traced else torch.jit.script(inner)
        self.scripted = scripted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scripted(self.first(x))


@pytest.mark.parametrize("copy_weights", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_scripted_parts_are_trained_apart(traced: bool, copy_weights: bool) -> None:
    model, x = Scripted(traced), torch.randn(2, 3, 8)
    module = convsurgeon.convert(model, x, copy_weights=copy_weights).module
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    module(x).sum().backward()
    ours, theirs = dict(module.named_parameters()), dict(model.named_parameters())
    for name, theirs_ in theirs.items():
        assert theirs_.grad is None
        assert (ours[name].is_leaf, ours[name].requires_grad) == (True, theirs_.requires_grad), name
        assert (ours[name].grad is not None) is theirs_.requires_grad
        assert (ours[name].data_ptr() == theirs_.data_ptr()) is not copy_weights
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, statistics[name])
    torch.optim.SGD(module.parameters(), 0.1).step()


def test_what_is_made_in_c_is_shared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()).eval()
    with (tmp_path / "log").open("w") as model.log:
        model.of_thread = threading.local()
        conversion = convsurgeon.convert(model, torch.randn(2, 3, 9))
        assert [one.becomes for one in conversion.plan.convolutions] == ["Conv2d"]
