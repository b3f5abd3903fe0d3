"""The verifier can fail: planted errors are caught and located; rounding isn't; and it leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convsurgeon
from convsurgeon import ConvertedModule, Tolerance
from convsurgeon.capture import capture_model
from convsurgeon.samples import as_samples
from convsurgeon.verification import verify_samples


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.normal_()
        self.b = nn.Conv1d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1) + 1)
        self.drop = nn.Dropout(0.3)
        self.c = nn.Conv1d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = F.relu(self.norm(self.a(x)))
        z = self.drop(torch.tanh(self.b(y)) * self.scale)
        return {"logits": self.c(z), "hidden": z}


def swap_rows(module: ConvertedModule) -> None:
    weight = module.b.weight.data
    weight.copy_(weight[[1, 0, 2, 3]])


def drop_bias(module: ConvertedModule) -> None:
    module.c.bias = None


def wrong_pad(module: ConvertedModule) -> None:
    module.b.padding = (0, 2)
    module.b.kernel_size, module.b.dilation = (1, 3), (1, 2)


def changed_buffer(module: ConvertedModule) -> None:
    module.norm.running_mean[2] += 1e-3


def changed_scale(module: ConvertedModule) -> None:
    module.scale.data[0] *= 1.001


def other_eps(module: ConvertedModule) -> None:
    module.norm.eps = 1e-3


def lost_activation(module: ConvertedModule) -> None:
    node = next(node for node in module.graph.nodes if node.name == "tanh")
    node.target = torch.sin
    module.recompile()


PLANTED: list[tuple[Callable[[ConvertedModule], None], str]] = [
    (swap_rows, "b"),
    (drop_bias, "c"),
    (wrong_pad, "b"),
    (changed_buffer, "norm"),
    (changed_scale, "scale"),
    (other_eps, "norm"),
    (lost_activation, "tanh"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("plant", "node"), PLANTED)
def test_planted_errors_are_caught_and_located(
    plant: Callable[[ConvertedModule], None], node: str, dtype: torch.dtype
) -> None:
    model, x = Model().to(dtype).eval(), torch.randn(2, 3, 12, dtype=dtype)
    module = convsurgeon.convert(model, x, copy_weights=True).module
    plant(module)
    found = verify_samples(
        model, module, as_samples(x), None, gradients=False, train=False, capture=capture_model(model, as_samples(x)[0])
    )
    assert not found.passed
    assert found.divergence is not None
    assert found.divergence.node == node
    with pytest.raises(convsurgeon.EquivalenceError, match=rf"first at {node}: ") as error:
        found.require()
    assert error.value.verification is found
    assert not convsurgeon.verify(model, module, x).passed


def test_a_divergence_is_found_where_several_tensors_see_one_memory() -> None:
    model, x = Model().eval(), torch.randn(4, 3, 12)
    model.c.weight = nn.Parameter(model.b.weight.data[:2])
    module = convsurgeon.convert(model, x, copy_weights=True).module
    lost_activation(module)
    capture, samples = capture_model(model, as_samples(x)[0]), as_samples(x)
    found = verify_samples(model, module, samples, None, gradients=False, train=False, capture=capture)
    assert found.referee == "float64"
    assert found.divergence is not None
    assert found.divergence.node == "tanh"


def test_an_error_that_only_training_shows() -> None:
    model, x = Model().eval(), torch.randn(4, 3, 12)
    module = convsurgeon.convert(model, x, copy_weights=True).module
    module.norm.momentum = 0.2
    assert convsurgeon.verify(model, module, x).passed
    found = convsurgeon.verify(model, module, x, train=True)
    wrong = {one.what.removesuffix(" in float64") for one in found.comparisons if not one.passed}
    assert wrong == {"buffer norm.running_mean", "buffer norm.running_var"}


def test_an_error_that_only_the_random_stream_shows() -> None:
    model, x = Model().train(), torch.randn(4, 3, 12)
    module = convsurgeon.convert(model, x).module
    assert convsurgeon.verify(model, module, x).passed
    module.drop.p = 0.0
    found = convsurgeon.verify(model, module, x)
    assert "random stream" in {one.what for one in found.comparisons if not one.passed}


def test_an_error_that_only_gradients_show() -> None:
    model, x = Model().eval(), torch.randn(2, 3, 12)
    module = convsurgeon.convert(model, x).module
    node = next(node for node in module.graph.nodes if node.name == "tanh")
    with module.graph.inserting_after(node):
        cut = module.graph.call_method("detach", (node,))
    node.replace_all_uses_with(cut, lambda user: user is not cut)
    module.recompile()
    assert convsurgeon.verify(model, module, x).passed
    wrong = [one.what for one in convsurgeon.verify(model, module, x, gradients=True).comparisons if not one.passed]
    assert "gradient of a.weight" in wrong
    assert "gradient of input 0" in wrong


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("train", [False, True])
def test_a_faithful_conversion_passes_with_gradients(dtype: torch.dtype, train: bool) -> None:
    model, x = Model().to(dtype).eval(), torch.randn(2, 3, 12, dtype=dtype)
    conversion = convsurgeon.convert(model, x)
    found = convsurgeon.verify(model, conversion.module, x, gradients=True, train=train)
    assert found.passed, found
    assert found.referee == "float64"


def test_another_default_device_than_the_models_is_nothing_to_it() -> None:
    model, x = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()), torch.randn(2, 2, 12)
    module = convsurgeon.convert(model, x).module
    with torch.device("meta"):
        assert convsurgeon.verify(model, module, x, gradients=True)


def test_the_tolerance_is_obeyed_and_runs_no_referee() -> None:
    model, x = Model().eval(), torch.randn(2, 3, 12)
    module = convsurgeon.convert(model, x, copy_weights=True).module
    module.c.bias.data += 1e-3
    loose = convsurgeon.verify(model, module, x, tolerance=Tolerance(rtol=0.0, atol=2e-3))
    assert loose.passed
    assert loose.referee == "direct"
    assert not convsurgeon.verify(model, module, x, tolerance=Tolerance(rtol=0.0, atol=1e-4)).passed


def test_what_comes_out_is_compared_whole() -> None:
    class Renamed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            out = self.inner(x)
            return {"logits": out["logits"], "other": out["hidden"]}

    model, x = Model().eval(), torch.randn(2, 3, 12)
    found = convsurgeon.verify(model, Renamed(model), x)
    assert {one.note for one in found.comparisons if not one.passed} == {
        "absent from the candidate",
        "absent from the reference",
    }


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda y: y[:, :1], r"\[2, 1, 12\] float32 for \[2, 2, 12\] float32"),
        (lambda y: y.double(), "float64 for"),
        (lambda y: torch.where(y > y.mean(), torch.nan, y), "NaNs"),
    ],
)
def test_shape_dtype_and_holes(change: Callable[[torch.Tensor], torch.Tensor], note: str) -> None:
    class Changed(nn.Module):
        def __init__(self, inner: nn.Module, change: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
            super().__init__()
            self.inner, self.change = inner, change

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x)["logits"] * 3
            return self.change(y) if self.change else y

    model, x = Model().eval(), torch.randn(2, 3, 12)
    found = convsurgeon.verify(Changed(model, None), Changed(model, change), x)
    assert not found.passed
    with pytest.raises(convsurgeon.EquivalenceError, match=note):
        found.require()


def test_nans_and_infinities_in_the_same_places_are_equal() -> None:
    class Holes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 / torch.relu(self.conv(x)).round()

    assert convsurgeon.convert(Holes(), torch.linspace(-3, 3, 40)[None, None]).verification.passed


def test_a_model_that_can_not_run_in_float64_is_compared_directly() -> None:
    class Float32Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._assert(x.dtype == torch.float32, "only float32")
            return self.conv(x)

    found = convsurgeon.convert(Float32Only(), torch.randn(1, 2, 8)).verification
    assert found.passed
    assert found.referee == "direct"
    assert "can't run in float64 (AssertionError: only float32" in found.reason


def test_casts_inside_the_model_are_carried_in_float64() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, dtype=torch.float16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.half()).float()

    found = convsurgeon.convert(Casts(), torch.randn(1, 2, 8)).verification
    assert found.referee == "float64"
    assert found.worst is not None
    assert found.worst.original_error > 1e-6


def test_every_sample_is_verified() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    model = Long()
    samples = [torch.randn(1, 1, 8), (torch.randn(2, 1, 9),), {"x": torch.randn(1, 10)}]
    found = convsurgeon.convert(model, samples).verification
    assert found.samples == ("(float32[1, 1, 8])", "(float32[2, 1, 9])", "(x=float32[1, 10])")
    assert {one.sample for one in found.comparisons} == {0, 1, 2}


def test_it_leaves_no_trace() -> None:
    model, x = Model().train(), torch.randn(2, 3, 12)
    module = convsurgeon.convert(model, x).module
    states = [copy.deepcopy(one.state_dict()) for one in (model, module)]
    stream = torch.get_rng_state()
    convsurgeon.verify(model, module, x, gradients=True, train=True)
    for one, state in zip((model, module), states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), state.values(), strict=True))
        assert all(p.grad is None for p in one.parameters())
        assert one.training
    assert x.grad is None
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), stream)


def test_without_samples_nothing_can_be_verified() -> None:
    with pytest.raises(ValueError, match="nothing can be verified without a sample"):
        convsurgeon.verify(Model(), Model(), None)


def test_a_verification_is_true_if_it_passed() -> None:
    one, other = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3)
    x = torch.randn(1, 2, 9)
    assert convsurgeon.verify(one, one, x)
    assert not convsurgeon.verify(one, other, x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"candidate": None}, "candidate is a NoneType; accepted: a torch.nn.Module, as conversion.module"),
        ({"reference": 5}, "reference is a int"),
        ({"tolerance": 1e-3}, "tolerance is 0.001; accepted: a convsurgeon.Tolerance"),
    ],
)
def test_what_is_no_module_is_told_and_not_judged(given: Any, said: str) -> None:
    layer = nn.Conv1d(2, 2, 1)
    with pytest.raises(TypeError, match=said):
        convsurgeon.verify(**{"reference": layer, "candidate": layer, "sample_inputs": torch.randn(1, 2, 4), **given})
