"""Models that were written to break the conversion, each of which once did."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import threading
from collections import defaultdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

import convsurgeon

X = torch.randn(2, 3, 9)


class Two(nn.Module):
    """Two convolutions, and whatever else a test hangs on."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 3, 3, padding=1)
        self.b = nn.Conv1d(3, 3, 3)
        for name, part in parts.items():
            setattr(self, name, part)


def model(forward: Any, **parts: Any) -> nn.Module:
    """A `Two` with this forward, in evaluation mode."""
    return type("Model", (Two,), {"forward": forward})(**parts).eval()


def assert_same_on(net: nn.Module, sample: Any, *others: torch.Tensor, **options: Any) -> convsurgeon.Conversion:
    conversion = convsurgeon.convert(net, sample, **options)
    for other in others:
        torch.testing.assert_close(conversion.module(other.clone()), net(other.clone()))
    return conversion


def test_a_slice_that_covers_the_sample_is_still_a_slice() -> None:
    for take in (lambda y: y[:, :, 0:9], lambda y: y[..., :9]):
        net = model(lambda self, x, take=take: self.b(take(self.a(x)) * 2))
        for axis in (-2, -1):
            assert_same_on(net, (X,), X, torch.randn(2, 3, 20), unit_axis=axis)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_an_autograd_function_keeps_its_backward_or_is_refused() -> None:
    for forward in (
        lambda self, x: self.b(Straight.apply(self.a(x))),
        lambda self, x: self.b(checkpoint(self.a, x, use_reentrant=True)),
    ):
        with pytest.raises(convsurgeon.CaptureError, match=r"is a torch\.autograd\.Function, whose backward"):
            convsurgeon.convert(model(forward), X, capture="trace")


def test_memory_without_tensors_of_the_trace_is_seen_too() -> None:
    def counts(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        return self.a(x) * self.n

    def remembers(self: Any, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.full((1,), 2.0)
            return self.a(x)
        return self.a(x) * self.scale

    for net in (model(counts, n=0), model(remembers, scale=None)):
        with pytest.raises(convsurgeon.CaptureError, match="Model keeps what it computed before"):
            convsurgeon.convert(net, X, capture="trace")


def test_a_lazily_made_constant_is_no_memory() -> None:
    def caches(self: Any, x: torch.Tensor) -> torch.Tensor:
        if self.window is None:
            self.window = torch.linspace(0, 1, 3)[:, None]
        return self.a(x) * self.window

    net = model(caches, window=None)
    conversion = convsurgeon.convert(net, X)
    assert net.window is None
    torch.testing.assert_close(conversion.module(X), net(X))


def test_random_numbers_of_other_streams_are_seen() -> None:
    numpy = pytest.importorskip("numpy")
    stream = torch.Generator().manual_seed(0)
    before = stream.get_state()
    for net in (
        model(lambda self, x: self.a(x) * float(numpy.random.rand())),
        model(lambda self, x: self.a(x) * torch.rand(1, generator=self.g), g=stream),
    ):
        with pytest.raises(convsurgeon.CaptureError, match="draws random numbers"):
            convsurgeon.convert(net, X, capture="trace")
    assert torch.equal(stream.get_state(), before)


def test_an_in_place_squeeze_that_did_nothing_on_the_sample() -> None:
    def squeezes(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        y.squeeze_(0)
        return self.b(y * 2)

    assert_same_on(model(squeezes), X, X, X[:1])


def test_tensors_over_one_storage_stay_so_in_a_copy() -> None:
    class Aliased(Two):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("big", torch.zeros(4))
            self.register_buffer("part", self.big[:2])
            self.b.weight = nn.Parameter(self.a.weight.data)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.part.add_(1)
            return self.b(self.a(x)) * self.big.sum()

    net = Aliased().eval()
    module = convsurgeon.convert(net, X, copy_weights=True).module
    for _ in range(2):
        torch.testing.assert_close(module(X), net(X))
    assert module.a.weight.data_ptr() == module.b.weight.data_ptr() != net.a.weight.data_ptr()


def test_the_strides_of_another_input_are_restored_too() -> None:
    net = model(lambda self, x: self.a(x).view(x.size(0), -1))
    other = torch.randn(2, 9, 3).transpose(1, 2)
    assert_same_on(net, X, other)
    noisy = model(lambda self, x: self.a(torch.sigmoid(x)) + torch.randn_like(self.a(x)))
    module = convsurgeon.convert(noisy, X).module
    torch.manual_seed(0)
    expected = noisy(other)
    torch.manual_seed(0)
    torch.testing.assert_close(module(other), expected)


def test_hooks_of_a_module_of_the_users_keep_it_whole() -> None:
    seen: list[type] = []
    block = nn.Sequential(nn.Conv1d(3, 3, 1))
    net = nn.Sequential(block, nn.Conv1d(3, 3, 1))
    block.register_forward_hook(lambda module, args, out: seen.append(type(out)))
    conversion = convsurgeon.convert(net, X)
    assert [one.name for one in conversion.plan.lifted] == ["1"]
    assert fx.Proxy not in seen
    seen.clear()
    conversion.module(X)
    assert seen == [torch.Tensor]


def test_a_gradient_hook_on_a_weight_keeps_it_1d_and_working() -> None:
    net = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1))
    net[0].weight.register_hook(lambda gradient: gradient * 0)
    conversion = convsurgeon.convert(net, X)
    assert "gradient hook" in next(one for one in conversion.plan.kept if one.name == "0").reason
    conversion.module(X).sum().backward()
    assert not conversion.module.get_submodule("0").weight.grad.any()


def test_hooks_for_all_modules_are_not_written_into_the_graph() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2)
    try:
        plan = convsurgeon.plan(nn.Sequential(nn.Sequential(nn.Conv1d(3, 3, 1))), X)
    finally:
        handle.remove()
    assert [one.operator for one in plan.lifted] == ["Conv1d"]
    assert plan.kept == ()


class FrozenNorm(Two):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.norm(self.a(x)))


def test_a_train_method_of_the_models_own() -> None:
    net = FrozenNorm().eval()
    module = convsurgeon.convert(net, X).module
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        copied.train()
        assert copied.b.training
        assert not copied.norm.training


def test_a_frozen_mode_stays_frozen_when_converted_again() -> None:
    net = model(lambda self, x: self.a(x) * 2 if self.training else self.a(x))
    once = convsurgeon.convert(net, X).module
    for outer in (once, nn.Sequential(once)):
        again = convsurgeon.convert(outer, X).module
        with pytest.raises(convsurgeon.UnsupportedError, match="eval mode only"):
            again.train()


def test_a_flag_follows_the_module_that_gave_it() -> None:
    class Drops(nn.Module):
        def forward(self, x: torch.Tensor, training: bool) -> torch.Tensor:
            return F.dropout(x, 0.5, training)

    net = model(lambda self, x: self.drops(self.a(x), self.training), drops=Drops())
    module = convsurgeon.convert(net, X).module
    for one in (net, module):
        one.train()
        one.drops.eval()
    torch.manual_seed(0)
    expected = net(X)
    torch.manual_seed(0)
    torch.testing.assert_close(module(X), expected)


def test_an_error_hidden_by_the_scale_of_the_rest() -> None:
    net = model(lambda self, x: torch.cat([self.a(x)[..., 1:-1] * 1e6, self.b(x)], 1))
    other = copy.deepcopy(net)
    other.b.weight.data.neg_()
    found = convsurgeon.verify(net, other, X)
    assert [one.what for one in found.comparisons if not one.passed] == ["output in float64"]


def test_the_grad_mode_survives_an_error_in_a_region_without_gradient() -> None:
    def partly(self: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.a(x)
        return self.b(y)

    module = convsurgeon.convert(model(partly), X).module
    for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(RuntimeError, match="channels"):
            one(torch.randn(2, 5, 9))
        assert torch.is_grad_enabled()


def test_a_module_that_was_compiled_in_place() -> None:
    net = nn.Sequential(nn.Conv1d(3, 3, 3), nn.BatchNorm1d(3)).train()
    net.compile(backend="eager")
    convsurgeon.convert(net, X)
    assert net[1].num_batches_tracked.item() == 0


def test_what_can_not_be_copied_is_cloned_by_parts() -> None:
    class Cache:
        def __init__(self) -> None:
            self.lock, self.t = threading.Lock(), torch.zeros(1)

    def fills(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.cache.t.fill_(5.0)
        return self.a(x)

    net = model(fills, cache=Cache())
    convsurgeon.convert(net, X)
    assert net.cache.t.item() == 0


def test_a_dataclass_in_the_sample_is_not_written_to() -> None:
    @dataclasses.dataclass
    class Batch:
        x: torch.Tensor

    batch = Batch(X.clone())
    net = model(lambda self, batch: self.a(batch.x.mul_(2)))
    convsurgeon.convert(net, (batch,))
    assert torch.equal(batch.x, X)


class Registered(nn.Module):
    """State that a class saves and loads in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)
        self.extra = {"version": 2}

    def get_extra_state(self) -> dict[str, int]:
        return self.extra

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.extra = state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}old.weight" in state_dict:
            state_dict[f"{prefix}conv.weight"] = state_dict.pop(f"{prefix}old.weight")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_a_class_saves_and_loads_as_before() -> None:
    net = nn.Sequential(Registered())
    module = convsurgeon.convert(net, X).module
    for one in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert list(one.state_dict()) == list(net.state_dict())
        old = net.state_dict()
        old["0.old.weight"] = old.pop("0.conv.weight")
        one.load_state_dict(old, strict=True)
        torch.testing.assert_close(one(X), net(X))


@pytest.mark.parametrize("name", ["graph", "code", "meta", "_graph", "_code"])
def test_a_name_that_graph_modules_need(name: str) -> None:
    net = nn.Sequential()
    net.add_module(name, nn.Conv1d(3, 3, 1))
    with pytest.raises(convsurgeon.UnsupportedError, match=rf"Sequential\.{name} has a name that"):
        convsurgeon.convert(net, X)


@pytest.mark.parametrize("name", ["original", "_original"])
def test_any_other_name(name: str) -> None:
    inner = nn.Sequential()
    inner.add_module(name, nn.Conv1d(3, 3, 1))
    assert_same_on(nn.Sequential(inner), X, X)


def test_buffers_that_running_writes_are_the_results_own() -> None:
    def averages(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.ema.mul_(0.9).add_(x.mean())
        return self.a(x) * self.ema

    net = model(averages)
    net.register_buffer("ema", torch.ones(1))
    module = convsurgeon.convert(net, X).module
    module(X)
    assert net.ema.item() == 1


def test_entries_whose_names_end_alike() -> None:
    net = nn.Sequential()
    net.add_module("a", nn.Sequential())
    net.a.add_module("b", nn.Conv1d(3, 3, 3, padding=1))
    net.add_module("b", nn.Conv1d(3, 3, 3))
    for options in ({}, {"exclude": ["a"]}):
        conversion = convsurgeon.convert(net, X, **options)
        moved = conversion.weight_map.to_2d(net.state_dict())
        assert {k: v.shape for k, v in moved.items()} == {k: v.shape for k, v in conversion.module.state_dict().items()}
    both = {f"{which}.{k}": v for which in ("model", "ema") for k, v in net.state_dict().items()}
    moved = conversion.weight_map.to_2d(defaultdict(int, both))
    assert moved["model.b.weight"].dim() == moved["ema.b.weight"].dim() == 4
    assert type(moved) is defaultdict


def test_optimizer_states_in_a_list_and_in_groups_without_names() -> None:
    net = Two()
    conversion = convsurgeon.convert(nn.Sequential(net.a, net.b), X)
    stacked = nn.Sequential(net.a, net.b)
    optimizer = torch.optim.Adam(stacked.parameters())
    stacked(X).sum().backward()
    optimizer.step()
    moved = conversion.weight_map.to_2d({"optimizer_states": [optimizer.state_dict()]})
    assert moved["optimizer_states"][0]["state"][0]["exp_avg"].dim() == 4
    groups = [{"params": [net.a.weight, net.b.weight]}, {"params": [net.a.bias, net.b.bias]}]
    grouped = torch.optim.Adam(groups)
    grouped.step()
    moved = conversion.weight_map.to_2d(grouped.state_dict())
    assert [moved["state"][at]["exp_avg"].dim() for at in range(4)] == [4, 4, 1, 1]
    swapped = torch.optim.Adam([net.b.bias, net.a.weight, net.a.bias, net.b.weight])
    swapped.step()
    with pytest.raises(convsurgeon.CheckpointError, match="in another order"):
        conversion.weight_map.to_2d(swapped.state_dict())


@pytest.mark.parametrize("default", [(1, 1), [0, 0], {"left": 1}, float("nan"), object(), torch.relu, torch.ones(1)])
def test_any_default_is_held(default: Any) -> None:
    def takes(self: Any, x: torch.Tensor, option: Any = default) -> torch.Tensor:
        assert option is default
        return self.a(x)

    module = convsurgeon.convert(model(takes), X).module
    module(X)
    with pytest.raises(ValueError, match="argument 'option' was"):
        module(X, "another")


def test_a_required_keyword_after_one_with_a_default() -> None:
    def takes(self: Any, x: torch.Tensor, *, y: float = 2.0, z: torch.Tensor) -> torch.Tensor:
        return self.a(x) * y + z

    net = model(takes)
    sample = convsurgeon.Sample((X,), {"y": 3.0, "z": torch.ones(1)})
    module = convsurgeon.convert(net, sample).module
    torch.testing.assert_close(module(X, y=3.0, z=torch.ones(1)), net(X, y=3.0, z=torch.ones(1)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_modules() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    net = nn.Sequential(nn.Conv1d(3, 3, 1), scripted, nn.Conv1d(3, 3, 1))
    assert len(assert_same_on(net, X, X).plan.convolutions) == 2
    with pytest.raises(convsurgeon.CaptureError, match="is a scripted module"):
        convsurgeon.convert(scripted, X)


def test_one_module_under_two_names_of_a_graph() -> None:
    root = nn.Module()
    root.conv, root.norm = nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)
    root.also = root.norm
    graph = fx.Graph()
    x = graph.placeholder("x")
    inside = graph.call_module("norm", (graph.call_module("conv", (x,)),))
    outside = graph.call_module("also", (graph.call_function(torch.cumsum, (x, -1)),))
    graph.output((inside, outside))
    net = fx.GraphModule(root, graph).eval()
    net.also = net.norm
    assert_same_on(net, X, X)


def test_cat_into_a_given_tensor_stays() -> None:
    def writes(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        torch.cat([y, y], 1, out=self.room)
        return y + self.room[:, :3]

    net = model(writes, room=torch.empty(2, 6, 9)).requires_grad_(False)
    kept = convsurgeon.plan(net, X).kept
    assert "out=" in next(one for one in kept if one.operator == "cat").reason


def test_inference_mode_and_autocast_around_the_call() -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Conv1d(3, 3, 3), nn.ReLU())
        conversion = convsurgeon.convert(net, torch.randn(2, 3, 9))
        torch.testing.assert_close(conversion.module(X), net(X))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convsurgeon.convert(nn.Sequential(nn.Conv1d(3, 3, 3)), X).verification.passed


def test_weights_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv1d(3, 4, 3))
    sample = torch.randn(2, 3, 9, device="meta")
    with pytest.raises(convsurgeon.UnsupportedError, match="say verify=False"):
        convsurgeon.convert(net, sample)
    assert convsurgeon.convert(net, sample, verify=False).module.get_submodule("0").weight.shape == (4, 3, 1, 3)


def test_nan_among_the_outputs() -> None:
    assert_same_on(model(lambda self, x: self.a(x)), X, X)
    found = convsurgeon.convert(model(lambda self, x: (self.a(x), float("nan"))), X).verification
    assert found.passed


def test_slots_and_partials() -> None:
    class Slotted(nn.Module):
        __slots__ = ("k",)

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.k = nn.Conv1d(3, 3, 1), 3
            self.act = functools.partial(F.leaky_relu, negative_slope=0.2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.conv(x)) * self.k

    assert_same_on(Slotted(), X, X)


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("layer", ["a", "norm"])
def test_what_a_layer_takes_as_it_is_and_others_read(unit_axis: Any, layer: str) -> None:
    """By channels behind a transposition, where a bias (C,) would have the form (C, 1) with the unit axis last."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.a(x)).transpose(1, 2) - getattr(self, layer).bias
        return self.b(torch.relu(y).transpose(1, 2))  # type: ignore[no-any-return]

    net = model(forward, norm=nn.BatchNorm1d(3))
    conversion = assert_same_on(net, X, torch.randn(1, 3, 31), unit_axis=unit_axis)
    assert conversion.module.state_dict()[f"{layer}.bias"].shape == (3,)


@pytest.mark.parametrize("inside", [False, True])
def test_a_moved_tensor_that_is_set_in_the_originals_shape_goes_to_2d(inside: bool) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 3, 3), nn.Conv1d(3, 2, 3)
            self.gamma = nn.Parameter(torch.ones(3, 1))
            self.register_buffer("mean", torch.zeros(3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.conv(x - self.get_buffer("mean")) * self.gamma))

    net = (nn.Sequential(Scaled(), nn.Conv1d(2, 2, 1)) if inside else Scaled()).eval()
    module = convsurgeon.convert(net, X, copy_weights=True).module
    for one in (net, module):
        place: Any = one.get_submodule("0") if inside else one
        place.gamma = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))
        place.mean = torch.tensor([[0.1], [0.2], [0.3]])
    torch.testing.assert_close(module(X), net(X))
    module(X).sum().backward()
    assert all(one.grad is not None for one in module.parameters())
