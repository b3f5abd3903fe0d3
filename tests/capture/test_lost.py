"""What a capture could lose without computing anything else on the sample: it is kept, or the capture doesn't count."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import assert_same, converted_and_equal
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import convsurgeon
from convsurgeon.capture import by_export
from convsurgeon.capture.exporting import ALL_WAYS

X = torch.randn(2, 4, 16)


class Reversed(torch.autograd.Function):
    """The identity, with the opposite gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return -gradients[0]


class Adversarial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(Reversed.apply(self.a(x)))


def test_a_backward_of_its_own_is_no_part_of_an_exported_graph() -> None:
    model = Adversarial()
    conversion = converted_and_equal(model, X)
    assert conversion.plan.capture.how == "islands"
    assert convsurgeon.verify(model, conversion.module, X, gradients=True, train=True).passed
    with pytest.raises(convsurgeon.CaptureError, match=r"in forward: .*\n.*Reversed is a torch.autograd.Function"):
        convsurgeon.convert(model, X, capture="export")


reverse = Reversed.apply


class AdversarialByAnotherName(Adversarial):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(reverse(self.a(x)))
        return y


def test_nor_is_one_that_forward_knows_by_another_name() -> None:
    model = AdversarialByAnotherName()
    conversion = converted_and_equal(model, X)
    assert conversion.plan.capture.how == "islands"
    assert convsurgeon.verify(model, conversion.module, X, gradients=True, train=True).passed
    for capture in ("trace", "export"):
        with pytest.raises(convsurgeon.CaptureError, match=r"Reversed is a torch.autograd.Function"):
            convsurgeon.convert(model, X, capture=capture)  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the verifying runs have no gradients
def test_a_checkpoint_that_reenters_keeps_its_gradients() -> None:
    class Net(Adversarial):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.b(checkpoint(self.a, self.b(x), use_reentrant=True))
            return y

    model = Net()
    module = convsurgeon.convert(model, X, copy_weights=True).module
    for one in (model, module):
        one(X).sum().backward()
    torch.testing.assert_close(module.get_parameter("a.bias").grad, model.a.bias.grad)


def test_one_tensor_given_twice_is_two_inputs() -> None:
    class Two(Adversarial):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x if x.shape[-1] > 100 else self.a(x) * self.b(y)

    model = Two()
    conversion = converted_and_equal(model, X, X)
    assert conversion.plan.capture.how == "export"
    assert convsurgeon.verify(model, conversion.module, (X, torch.randn(2, 4, 16))).passed


class Stream(nn.Module):
    """A causal convolution that keeps the end of what it saw, by assigning a buffer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.register_buffer("seen", torch.zeros(2, 4, 2))
        self.register_buffer("before", torch.ones(2, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([self.seen, x], -1)
        self.seen, self.before = whole[..., -2:], self.seen
        y: torch.Tensor = self.conv(whole)
        return y


def test_buffers_that_forward_assigns_are_written_by_the_exported_graph() -> None:
    model = nn.Sequential(Stream(), Stream()).eval()
    conversion = convsurgeon.convert(model, X, copy_weights=True)
    assert conversion.plan.capture.how == "export"
    for length in (16, 9, 5):
        x = torch.randn(2, 4, length)
        torch.testing.assert_close(conversion.module(x), model(x))
    for name in ("0.seen", "1.before"):
        found, expected = conversion.module.get_buffer(name), model.get_buffer(name)
        torch.testing.assert_close(found.view_as(expected), expected)


def test_a_buffer_that_grows_stays_with_the_models_own_python() -> None:
    class Growing(Stream):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = torch.cat([self.seen, x], -1)
            y: torch.Tensor = self.conv(self.seen)
            return y

    assert converted_and_equal(Growing(), X).plan.capture.how == "islands"
    with pytest.raises(convsurgeon.CaptureError, match="another shape or dtype in the place of the buffer 'seen'"):
        convsurgeon.convert(Growing(), X, capture="export")


class Bank(nn.Module):
    """Computes its weight from parameters, or from a buffer, that it knows by a list as well."""

    def __init__(self, of: Callable[[list[torch.Tensor]], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.of = nn.Conv1d(4, 4, 3), of
        self.register_buffer("kept", torch.randn(4, 4, 3))
        self.bank = [self.conv.weight, self.kept]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.of(self.bank))


def _without_gradient(bank: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return bank[0] * 2


FROM_A_BANK: dict[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {
    "computed": lambda bank: bank[0] + bank[1],
    "view": lambda bank: bank[0][:2],
    "without gradient": _without_gradient,
    "of a buffer": lambda bank: bank[1].flip(-1),
    "step by step": lambda bank: torch.zeros(4, 4, 3).copy_(bank[1]).mul(2),
}


@pytest.mark.parametrize("kind", FROM_A_BANK)
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_computed_from_weights_in_a_list_is_no_constant(kind: str, frozen: bool) -> None:
    model, other = Bank(FROM_A_BANK[kind]), Bank(FROM_A_BANK[kind])
    model.requires_grad_(not frozen)
    for capture in ("trace", "export"):
        with pytest.raises(convsurgeon.CaptureError, match="is computed from a parameter or buffer that forward finds"):
            convsurgeon.convert(model, X, capture=capture)  # type: ignore[call-overload]
    module = convsurgeon.convert(model, X, copy_weights=True).module
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(X), other(X))


def test_a_parameter_in_a_list_is_a_node_and_one_that_only_gives_its_dtype_is_none() -> None:
    class Reads(Bank):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv1d(x, self.bank[0]) + self.bank[1].new_ones(14) + torch.zeros_like(self.bank[0])[0, 0, 0]

    model, other = (Reads(FROM_A_BANK["view"]) for _ in range(2))
    conversion = converted_and_equal(model, X, capture="trace", copy_weights=True)
    conversion.module.load_state_dict(other.state_dict())
    torch.testing.assert_close(conversion.module(X), other(X))


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the strict way be the only one by which a model is exported."""
    monkeypatch.setattr(by_export, "ALL_WAYS", tuple(way for way in ALL_WAYS if way.strict))


@pytest.mark.usefixtures("strict")
def test_what_a_strict_export_asks_of_the_inputs_is_asked_by_their_names() -> None:
    conversion = converted_and_equal(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()), X, capture="export")
    assert "input_1.shape[1] == 4" in conversion.plan.capture.admits
    with pytest.raises(ValueError, match=r"input_1.shape\[1\] == 4"):
        conversion.module(torch.randn(2, 5, 16))


@pytest.mark.usefixtures("strict")
def test_a_strict_export_loses_nothing_either() -> None:
    for model in (Adversarial(), AdversarialByAnotherName()):
        with pytest.raises(convsurgeon.CaptureError, match=r"is a torch.autograd.Function, whose backward"):
            convsurgeon.convert(model, X, capture="export")
    with pytest.raises(convsurgeon.CaptureError, match="computes something else"):
        convsurgeon.convert(Stream(), X, capture="export", verify=False)


def _pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv1d(4, 4, 3), "weight", 3)


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("of", [_pruned, lambda: weight_norm(nn.Conv1d(4, 4, 3))], ids=["pruned", "weight norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")  # it is what old models hold
def test_a_weight_that_a_hook_of_the_whole_computes_keeps_its_shape(of: Callable[[], nn.Module], capture: Any) -> None:
    model = of()
    conversion = converted_and_equal(model, X, capture=capture, copy_weights=True)
    for one in (model, conversion.module):
        for parameter in one.parameters():
            parameter.data.mul_(2)
    torch.testing.assert_close(conversion.module(X), model(X))
    assert convsurgeon.verify(model, conversion.module, X, gradients=True, train=True).passed


@pytest.mark.parametrize("capture", ["auto", "trace", "export", "islands"])
@pytest.mark.parametrize("called", [True, False])
def test_a_cache_of_computed_weights_is_the_callers(called: bool, capture: Any) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 4, 3)), nn.ReLU()).eval()
    cache: Any = parametrize
    with parametrize.cached():
        if called:
            model(X)
        held = [*cache._cache.items()]
        conversion = convsurgeon.convert(model, X, capture=capture, copy_weights=True)
        convsurgeon.plan(model, X, capture=capture)
        assert cache._cache_enabled == 1
        assert [(key, id(one)) for key, one in cache._cache.items()] == [(key, id(one)) for key, one in held]
    for one in (model, conversion.module):
        for parameter in one.parameters():
            parameter.data.mul_(2)
    torch.testing.assert_close(conversion.module(X), model(X))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")  # it is what old models hold
@pytest.mark.parametrize("of", [_pruned, lambda: spectral_norm(nn.Conv1d(4, 4, 3))], ids=["pruned", "spectral norm"])
def test_so_does_that_of_an_island(of: Callable[[], nn.Module]) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = of(), of()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            z: torch.Tensor = self.b(y if y.mean() > 0 else -y)
            return z

    model = Branching()
    conversion = converted_and_equal(model, X)
    assert conversion.plan.capture.how == "islands"
    assert convsurgeon.verify(model, conversion.module, X, gradients=True, train=True).passed


def _doubling(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, inputs, output: output * 2)


def _halving(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] / 2,), kwargs), with_kwargs=True)


@pytest.mark.parametrize("register", [_doubling, _halving])
def test_hooks_of_the_whole_run_once(register: Callable[[nn.Module], None]) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU())
    register(model)
    assert converted_and_equal(model, X).plan.capture.how == "islands"
    for capture in ("trace", "export"):
        with pytest.raises(
            convsurgeon.CaptureError, match="hooks of its own, with which it computes something else than forward"
        ):
            convsurgeon.convert(model, X, capture=capture)  # type: ignore[call-overload]


def test_hooks_of_the_whole_that_only_look_go_along() -> None:
    class Branching(Adversarial):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.b(self.a(x)) if x.shape[-1] < 100 else x
            return y

    seen = []
    model = Branching()
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    conversion = converted_and_equal(model, X)
    assert conversion.plan.capture.how == "export"
    seen.clear()
    conversion.module(X)
    assert seen == [(2, 4, 12)]


class Holds(nn.Module):
    """Holds its weight in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.weights = [self.conv.weight]


class Reads(Holds):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.conv1d(x, self.weights[0])


def test_a_weight_that_is_read_from_a_list_is_no_constant_of_an_exported_graph() -> None:
    with pytest.raises(convsurgeon.CaptureError, match="forward finds otherwise than as an attribute"):
        convsurgeon.convert(Reads(), X, capture="export")
    model, other = Reads(), Reads()
    module = convsurgeon.convert(model, X, copy_weights=True).module
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(X), other(X))


class Shrinks(Holds):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weights[0].data.mul_(0.9)
        y: torch.Tensor = self.conv(x)
        return y


class ShrinksAll(Holds):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.parameters():
            weight.data.mul_(0.9)
        y: torch.Tensor = self.conv(x)
        return y


class ShrinksLater(Holds):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        self.weights[0].data.mul_(0.9)
        return y


@pytest.mark.parametrize("model", [Shrinks(), ShrinksAll(), ShrinksLater()])
def test_a_trace_that_runs_into_a_parameter_writes_none_and_does_not_count(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(convsurgeon.CaptureError, match=r"forward writes to a parameter that it holds beside"):
        convsurgeon.convert(model, X, capture="trace")
    module = convsurgeon.convert(model, X, copy_weights=True).module
    assert_same(model.state_dict(), before)
    for _ in range(2):
        torch.testing.assert_close(module(X), model(X))


class Penalised(nn.Module):
    """Returns what it computes from a kernel, beside its result."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x), self.conv.weight.abs().sum()


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv1d(4, 4, 3), "weight", amount=0.5)


@pytest.mark.parametrize("made", [pruned, lambda: spectral_norm(nn.Conv1d(4, 4, 3))])
def test_what_is_computed_from_what_a_hook_computes_is_no_constant(made: Callable[[], nn.Module]) -> None:
    model = Penalised(made()).eval()
    module = convsurgeon.convert(model, X, copy_weights=True).module
    with torch.no_grad():
        model.get_parameter("conv.weight_orig").mul_(2)
    module.load_state_dict(model.state_dict())
    for one in (model, module):
        one(X)  # the hook of the first call computes what the second one's penalty reads
    assert_same(module(X)[1].detach(), model(X)[1].detach())


class Tied(Penalised):
    def forward(self, x: torch.Tensor) -> Any:
        return F.conv_transpose1d(torch.relu(self.conv(x)), self.conv.weight)


@pytest.mark.parametrize("made", [pruned, lambda: spectral_norm(nn.Conv1d(4, 4, 3))])
def test_a_computed_kernel_that_is_read_by_another_call(made: Callable[[], nn.Module]) -> None:
    model = Tied(made()).eval()
    model(X)
    module = convsurgeon.convert(model, X, copy_weights=True).module
    torch.testing.assert_close(module(X), model(X))
    with torch.no_grad():
        model.get_parameter("conv.weight_orig").mul_(2).add_(0.1)
    module.load_state_dict(model.state_dict())
    torch.testing.assert_close(module(X), model(X))


def test_a_closure_over_the_model_reads_its_buffers() -> None:
    class Normalised(Penalised):
        def __init__(self) -> None:
            super().__init__(nn.Conv1d(4, 4, 3))
            self.register_buffer("mean", torch.zeros(1, 4, 1))
            self.normalise = lambda x: (x - self.mean) * 2

        def forward(self, x: torch.Tensor) -> Any:
            return self.conv(self.normalise(x))

    model = Normalised()
    with pytest.raises(convsurgeon.CaptureError, match="in a list or by a hook"):
        convsurgeon.convert(model, X, capture="trace")


def test_a_hook_for_the_gradient_of_a_value_is_kept() -> None:
    class Scaled(Penalised):
        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x)
            if y.requires_grad:
                y.register_hook(lambda gradient: gradient * 3)
            return torch.relu(y)

    model = Scaled(nn.Conv1d(4, 4, 3))
    conversion = convsurgeon.convert(model, X)
    assert convsurgeon.verify(model, conversion.module, X, gradients=True).passed


def test_a_method_that_hangs_on_a_layer_is_called() -> None:
    def causal(self: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.conv1d(F.pad(x, (self.kernel_size[0] - 1, 0)), weight, bias)

    model: Any = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3))
    model[0]._conv_forward = types.MethodType(causal, model[0])
    module = converted_and_equal(model, X).module
    torch.testing.assert_close(module(X[..., 1:]), model(X[..., 1:]))
