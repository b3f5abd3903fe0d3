"""Islands: the model stays its own Python, and what convolves in it is 2-D, down to what its forward calls itself."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import ranks_of_convolutions
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import convsurgeon

X = torch.randn(2, 4, 16)


class Block(nn.Module):
    """Traceable: two convolutions and a norm, with a method and a property of its own."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv1d(channels, channels, 3, padding=1), nn.BatchNorm1d(channels)
        self.two = nn.Conv1d(channels, channels, 1)
        self.reach = 3

    @property
    def width(self) -> int:
        return self.reach * 2

    def lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths + self.width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.two(torch.relu(self.norm(self.one(x))))


class Branching(nn.Module):
    """A forward that no trace can follow, around what can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.out = nn.Conv1d(4, 2, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> Any:
        self.calls += 1
        for block in self.blocks:
            x = block(x)
            if x.mean() > 1e9:
                return x
        x = self.out(x)
        return x if lengths is None else (x, self.blocks[0].lengths(lengths))

    def twice(self, x: torch.Tensor) -> Any:
        return self(x)[:, :1].repeat(1, 4, 1) + self(x)[:, 1:]


def assert_converted(model: nn.Module, *inputs: Any, **options: Any) -> convsurgeon.Conversion:
    """Convert by islands; nothing runs in 1-D any more, and the results are close."""
    conversion = convsurgeon.convert(model, inputs, **options)
    assert conversion.plan.capture.how == "islands"
    with torch.no_grad():
        torch.testing.assert_close(conversion.module(*inputs), model(*inputs))
    assert set(ranks_of_convolutions(conversion.module, *inputs)) == {(4, 4)}
    return conversion


def test_the_largest_submodules_become_graphs_and_the_model_stays_its_own_class() -> None:
    model = Branching().eval()
    conversion = assert_converted(model, X)
    assert conversion.plan.capture.islands == ("blocks.0", "blocks.1", "out")
    assert "if x.mean() > 1e9" in " ".join(str(conversion).split())
    module = conversion.module
    assert type(module) is Branching
    assert isinstance(module.blocks[0], torch.fx.GraphModule)
    assert [one.name for one in conversion.plan.convolutions] == [
        *("blocks.0.one", "blocks.0.two", "blocks.1.one", "blocks.1.two", "out")
    ]
    torch.testing.assert_close(module.twice(X), model.twice(X))
    torch.testing.assert_close(module(X, torch.tensor([3]))[1], model(X, torch.tensor([3]))[1])
    for x in (torch.randn(1, 4, 9), torch.randn(3, 4, 30)):
        torch.testing.assert_close(module(x), model(x))


def test_names_checkpoints_copies_and_pickles_survive() -> None:
    model = Branching().eval()
    conversion = assert_converted(model, X, copy_weights=True)
    assert list(conversion.module.state_dict()) == list(model.state_dict())
    moved = {entry.name for entry in conversion.weight_map.entries if entry.moves}
    assert moved == {name for name, weight in model.state_dict().items() if weight.dim() == 3}
    other = Branching().eval()
    for module in (
        conversion.module,
        copy.deepcopy(conversion.module),
        pickle.loads(pickle.dumps(conversion.module)),
    ):
        module.load_state_dict(other.state_dict())
        torch.testing.assert_close(module(X), other(X))
        torch.testing.assert_close(conversion.weight_map.to_1d(module.state_dict())["out.weight"], other.out.weight)


def test_training_follows_the_original() -> None:
    model = Branching().train()
    conversion = convsurgeon.convert(model, X)
    found = convsurgeon.verify(model, conversion.module, X, gradients=True, train=True)
    assert found.passed, found
    conversion.module.eval()
    torch.testing.assert_close(conversion.module(X), copy.deepcopy(model).eval()(X))


class Reads(nn.Module):
    """Uses a weight, and asks for the geometry, of a convolution below it: here in the run, there in another branch."""

    def __init__(self, taken: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, groups=4, padding=2, bias=False)
        self.step = 0 if taken else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)[..., : x.shape[-1]] if len(x.unique()) else x
        for _ in range(self.step):
            return y
        return y + (x[..., -self.conv.kernel_size[0] :] * self.conv.weight.squeeze(1)).sum(-1, keepdim=True)


@pytest.mark.parametrize("taken", [True, False])
def test_a_weight_that_is_read_from_outside_keeps_its_shape(taken: bool) -> None:
    model = Reads(taken)
    conversion = assert_converted(model, X)
    assert conversion.module.conv.weight.shape == (4, 1, 3)
    assert conversion.plan.moved == ()
    model.step = conversion.module.step = 0
    torch.testing.assert_close(conversion.module(X), model(X))


class Padded(nn.Module):
    """Pads by the geometry of a convolution two levels below, as streaming codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(OrderedDict(conv=nn.Conv1d(4, 4, 5, dilation=2), act=nn.ELU()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reach = (self.conv.conv.kernel_size[0] - 1) * self.conv.conv.dilation[0]
        assert x.abs().sum() >= 0
        return self.conv(F.pad(x, (reach, 0)))


def test_the_geometry_that_is_read_from_outside_is_the_originals() -> None:
    conversion = assert_converted(Padded(), X)
    assert conversion.module.conv.conv.weight.shape == (4, 4, 1, 5)
    assert conversion.module.conv.conv.kernel_size == (5,)


class Functional(nn.Module):
    """A convolution that no module computes, in Python that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3))
        self.inner = Branching()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] == 7:
            raise ArithmeticError("seven")
        y = F.conv1d(x, self.weight, padding="same") if x.sum() < 1e9 else x
        return self.inner(F.conv_transpose1d(y, self.weight, stride=2, output_padding=1))


def test_what_python_calls_itself_is_computed_in_place() -> None:
    model = Functional().eval()
    conversion = assert_converted(model, X)
    assert conversion.plan.in_place == ("",)
    assert conversion.plan.capture.islands == ("inner.blocks.0", "inner.blocks.1", "inner.out")
    assert "the model itself" in str(conversion.plan)
    for module in (conversion.module, copy.deepcopy(conversion.module), pickle.loads(pickle.dumps(conversion.module))):
        with pytest.raises(ArithmeticError, match="seven"):
            module(torch.randn(1, 4, 7))
        assert ranks_of_convolutions(module, X) == [(4, 4)] * 7
        assert ranks_of_convolutions(model, X) == [(3, 3)] * 7
    assert not _get_current_dispatch_mode_stack()
    assert convsurgeon.verify(model, conversion.module, X, gradients=True).passed


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_what_is_computed_in_place_can_be_compiled(backend: str) -> None:
    model = Functional().eval()
    conversion = assert_converted(model, X)
    assert conversion.plan.in_place == ("",)
    compiled = torch.compile(conversion.module, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), model(X))
        torch.testing.assert_close(compiled(X[..., :9]), model(X[..., :9]))
    torch._dynamo.reset()


class Streaming(nn.Module):
    """Keeps the end of what it was given, in a buffer that its first call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.ready = nn.Conv1d(4, 4, 3), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            self.register_buffer("end", x.new_zeros(*x.shape[:2], 2))
            self.ready = True
        x = torch.cat([self.end, x], -1)
        self.end.copy_(x[..., -2:])
        return self.conv(x)


def test_a_model_that_makes_its_state_in_its_first_call_is_one_graph_after_it() -> None:
    model = Streaming().eval()
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.in_place or conversion.plan.capture.islands
    plan = " ".join(str(conversion.plan).split())
    assert "Streaming makes buffers in its first call (end), and computes something else from then on" in plan
    assert "call it once, and convert it then" in plan
    assert not model.ready
    with torch.no_grad():
        model(X)
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.how == "trace"
    assert not conversion.plan.in_place
    for x in (X, X + 1):
        torch.testing.assert_close(conversion.module(x), model(x))


def test_excluded_modules_stay_1d_among_islands() -> None:
    conversion = convsurgeon.convert(Functional().eval(), X, exclude=["inner.blocks.1"])
    ranks = ranks_of_convolutions(conversion.module, X)
    assert ranks.count((3, 3)) == 0 or conversion.plan.in_place == ("",)
    kept = [one.name for one in conversion.plan.kept if one.operator == "Conv1d"]
    assert kept == ["inner.blocks.1.one", "inner.blocks.1.two"]
    conversion = convsurgeon.convert(Branching().eval(), X, exclude=["blocks.1"])
    assert ranks_of_convolutions(conversion.module, X).count((3, 3)) == 2


class Output(OrderedDict):  # type: ignore[type-arg]
    """A dict that can be indexed by place, as model outputs often can."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Wraps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(y=self.conv(x))


class Unwraps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wraps = Wraps()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wraps(x)[0] * (2 if x.sum() < 1e9 else 3)


def test_what_returns_more_than_a_plain_dict_is_no_island() -> None:
    assert assert_converted(Unwraps(), X).plan.capture.islands == ("wraps.conv",)


class Differs(nn.Module):
    """One block called with and without a flag, and one whose convolution is also called alone."""

    def __init__(self) -> None:
        super().__init__()
        self.flagged, self.shared = Flagged(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.flagged(x) + self.flagged(x, twice=True)
        return self.shared(y) + self.shared.two(y) * (1 if x.sum() < 1e9 else 2)


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, twice: bool = False) -> torch.Tensor:
        return self.conv(self.conv(x)) if twice else self.conv(x)


def test_what_is_called_in_several_ways_is_left_to_its_parts() -> None:
    conversion = assert_converted(Differs().eval(), X)
    assert conversion.plan.capture.islands == ("flagged.conv", "shared.one", "shared.two")


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x) if x.sum() < 1e9 else self.unused(x)


def test_what_no_sample_reaches_is_named() -> None:
    conversion = assert_converted(Unreached(), X)
    assert [(one.name, one.reason) for one in conversion.plan.kept] == [("unused", "no sample reaches it")]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with pytest.warns(FutureWarning, match="weight_norm"):
            self.hooked = nn.utils.weight_norm(nn.Conv1d(4, 4, 3))
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Conv1d(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spectral(self.parametrized(self.hooked(x))) if x.sum() < 1e9 else x


def test_weight_norms_stay_alive_in_islands() -> None:
    model = Normed().eval()
    module = assert_converted(model, X, copy_weights=True).module
    assert list(module.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        module.hooked.weight_g.mul_(2)
        model.hooked.weight_g.mul_(2)
    torch.testing.assert_close(module(X), model(X))


def test_islands_can_be_asked_for() -> None:
    model = nn.Sequential(Block(), nn.ReLU(), nn.Conv1d(4, 4, 1)).eval()
    conversion = assert_converted(model, X, capture="islands")
    assert type(conversion.module) is nn.Sequential
    assert conversion.plan.capture.islands == ("0", "2")
    assert convsurgeon.plan(model, X, capture="islands").capture.islands == ("0", "2")


class Shares(nn.Module):
    """A block one of whose convolutions is also the model's, one whose weight is, and an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.tied = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1)
        self.block, self.other = Block(), Block()
        self.block.one = self.own
        self.other.two.weight = self.tied.weight
        self.other.reach = 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.other(self.block(self.tied(x)))
        return self.own(y) * (1 if x.sum() < 1e9 else 2)


def test_what_is_shared_with_the_rest_of_the_model_stays_shared() -> None:
    model = Shares().eval()
    module = assert_converted(model, X, copy_weights=True).module
    assert module.block.one is module.own
    assert module.other.two.weight is module.tied.weight
    assert module.other.reach == 5
    assert module.other.width == 10
    with torch.no_grad():
        for one in (model, module):
            one.tied.weight.mul_(2)
            one.own.weight.mul_(2)
    torch.testing.assert_close(module(X), model(X))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"io": "2d"}, convsurgeon.UnsupportedError, "Branching keeps its own Python"),
        ({"capture": "islands", "verify": False}, ValueError, "there is no sample_inputs"),
    ],
)
def test_what_islands_can_not_do_is_said(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        convsurgeon.convert(Branching().eval(), None if "verify" in options else X, **options)


def test_the_page_shows_every_island(tmp_path: Any) -> None:
    conversion = assert_converted(Branching().eval(), X)
    conversion.to_html(tmp_path / "page.html")
    assert "blocks.1.two" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_original_and_the_streams_stay_as_they_were() -> None:
    model = Branching().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream, x = torch.get_rng_state(), X.clone()
    assert_converted(model, X)
    conversion_calls = model.calls
    assert conversion_calls == 1  # the one of this test
    assert torch.equal(stream, torch.get_rng_state())
    assert torch.equal(x, X)
    for name, value in convsurgeon.convert(model, X).module.state_dict().items():
        assert value.numel() == before[name].numel()
    assert "forward" not in vars(model.blocks[0])


def test_running_the_result_leaves_the_buffers_of_the_model_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3)
            self.register_buffer("mean", torch.zeros(4, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            self.mean.mul_(0.9).add_(y.detach().mean((0, 2))[:, None])
            return y - self.mean if y.mean() < 100 else y

    model = Counting()
    conversion = convsurgeon.convert(model, torch.randn(2, 4, 16))
    assert conversion.plan.capture.how == "islands"
    conversion.module(torch.randn(2, 4, 16))
    assert not model.mean.any()
    assert conversion.module.get_buffer("mean").any()
    assert conversion.module.get_parameter("conv.bias").data_ptr() == model.conv.bias.data_ptr()


def test_a_weight_that_is_asked_for_its_shape_keeps_it() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(4, 4, 3)
            self.delta = nn.Parameter(torch.randn(4, 12))

        def inner(self) -> nn.Module:
            return self.layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner()(x)
            return y + F.conv1d(x, self.delta.reshape(self.inner().weight.shape)) if y.mean() < 100 else y

    model = Adapted()
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.how == "islands"
    assert conversion.module.get_parameter("layer.weight").shape == (4, 4, 3)
    torch.testing.assert_close(conversion.module(X), model(X))
    assert set(ranks_of_convolutions(conversion.module, X)) == {(4, 4)}


class Infers(nn.Module):
    """A model whose exporters put another method in the place of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.posterior = nn.Conv1d(4, 4, 3), nn.Conv1d(8, 4, 3)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.infer(x) + self.posterior(target)

    def infer(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return torch.tanh(self.encoder(x)) * scale


@pytest.mark.parametrize("part", [True, False])
def test_another_forward_that_hangs_on_the_model_runs_with_its_own_arguments(part: bool) -> None:
    model, x = Infers().eval(), torch.randn(2, 4, 16)
    model.forward = model.infer
    whole = nn.Sequential(model, nn.Conv1d(4, 2, 1)) if part else model
    conversion = convsurgeon.convert(whole, x, copy_weights=True)
    assert {one.name.rpartition(".")[2] for one in conversion.plan.lifted} >= {"encoder"}
    other = copy.deepcopy(whole)
    nn.init.normal_(other.get_parameter("0.encoder.weight" if part else "encoder.weight"))
    conversion.module.load_state_dict(other.state_dict())
    torch.testing.assert_close(conversion.module(x), other(x))
    with pytest.raises(convsurgeon.CaptureError, match="another forward hangs on Infers"):
        convsurgeon.convert(model, x, capture="trace")
    with pytest.raises(ValueError, match="can't run on"):
        convsurgeon.convert(model, (x, 1.0, 2))
