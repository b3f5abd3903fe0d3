"""What torch.export would bake in, freeze or drop is kept, or refused with its reason."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import converted_and_equal, ranks_of_convolutions
from torch import nn

import convsurgeon

X = torch.randn(1, 4, 16)


class Everything(nn.Module):
    """What exported graphs are made of: layers, functions, sizes, a region without gradient, nested results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding="same")
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.up = nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1))
        self.mix = nn.Linear(8, 8)
        self.unused = nn.Conv1d(2, 2, 1)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor, mask: Any = None, *, out: str = "a") -> dict[str, Any]:
        self.steps += 1
        y = F.dropout(self.norm(self.conv(x)), 0.2, self.training)
        y = self.mix(self.drop(y).transpose(1, 2)).transpose(1, 2)
        with torch.no_grad():
            z = self.conv(x).mean(-1)
        n, c, length = y.shape
        y = y.reshape(n, c // 2, 2, length).flatten(1, 2)
        return {"y": self.up(y), "z": (z, [y])}


def test_names_modes_and_structure_are_the_models() -> None:
    model = Everything().eval()
    conversion = converted_and_equal(model, X, capture="export")
    assert conversion.plan.capture.how == "export"
    assert conversion.plan.capture.mode is None
    assert [one.name for one in conversion.plan.convolutions] == ["conv", "conv", "up"]
    assert (
        len(conversion.plan.borders) == 4
    )  # in, two outputs, the computed weight; the mean over the length needs none
    assert list(conversion.module.state_dict()) == list(model.state_dict())
    moved = {entry.name for entry in conversion.weight_map.entries if entry.moves}
    assert moved == {"conv.weight"}
    conversion.module.load_state_dict(Everything().state_dict())
    for shape in ((3, 4, 16), (1, 4, 9)):
        for mode in (True, False):
            one, other = copy.deepcopy(model).train(mode), copy.deepcopy(conversion.module).train(mode)
            other.load_state_dict(model.state_dict())
            assert converge(one, other, torch.randn(shape))


def converge(one: nn.Module, other: nn.Module, *inputs: torch.Tensor) -> bool:
    """Both compute the same from the same random state, results and buffers."""
    state = torch.get_rng_state()
    expected = one(*inputs)
    torch.set_rng_state(state)
    torch.testing.assert_close(other(*inputs), expected)
    torch.testing.assert_close(dict(other.named_buffers()), dict(one.named_buffers()))
    return True


def test_the_weights_are_new_objects_and_the_model_is_untouched() -> None:
    model = Everything().train()
    before = {name: (id(t), t._version) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    module = convsurgeon.convert(model, X, capture="export").module
    after = {name: (id(t), t._version) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    assert before == after
    assert not {id(p) for p in module.parameters()} & {id(p) for p in model.parameters()}


def test_what_was_not_captured_is_refused() -> None:
    module = convsurgeon.convert(Everything().eval(), X, capture="export").module
    with pytest.raises(ValueError, match="argument 'mask' was None when the model was captured"):
        module(X, torch.ones(1))
    with pytest.raises(ValueError, match="argument 'out' was 'a'"):
        module(X, out="b")
    with pytest.raises(ValueError, match=r"captured for inputs with x.shape\[1\] == 4"):
        module(torch.randn(1, 5, 16))


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor, *more: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.conv(x + sum(more)) * (2 if options.get("double") else 1)


def test_further_arguments_are_refused_rather_than_ignored() -> None:
    module = convsurgeon.convert(Options().eval(), X, capture="export").module
    with pytest.raises(ValueError, match=r"argument 'options' was \{\} when"):
        module(X, double=True)
    with pytest.raises(ValueError, match=r"argument 'more' was \(\) when"):
        module(X, X)


def test_an_export_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="capture is 'export', which takes a run of the model"):
        convsurgeon.convert(Options().eval(), capture="export", verify=False)


Pair = namedtuple("Pair", "one two")


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, first: torch.Tensor, *rest: torch.Tensor, both: dict[str, Any], **more: Any) -> Pair:
        x = self.conv(first) + self.conv(rest[0]) * both["scale"] + both["pair"][0]
        return Pair(x, more["last"] + x)


def test_inputs_and_outputs_may_be_containers() -> None:
    model = Containers().eval()
    sample = convsurgeon.Sample((X, X + 1), {"both": {"scale": 2.0, "pair": [X, 3]}, "last": X})
    conversion = convsurgeon.convert(model, sample, capture="export")
    module = pickle.loads(pickle.dumps(copy.deepcopy(conversion.module)))
    x = torch.randn(2, 4, 7)
    arguments = {"both": {"scale": 2.0, "pair": [x, 3]}, "last": x}
    result = module(x, x + 2, **arguments)
    assert type(result) is Pair
    torch.testing.assert_close(result, model(x, x + 2, **arguments))
    assert set(ranks_of_convolutions(module, x, x + 2, **arguments)) == {(4, 4)}
    with pytest.raises(ValueError, match=r"argument 'both' was 2\.0"):
        module(x, x, both={"scale": 3.0, "pair": [x, 3]}, last=x)
    with pytest.raises(ValueError, match="argument 'both' has another structure"):
        module(x, x, both={"scale": 2.0, "pair": [x]}, last=x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > 10 and not x.shape[-1] % 2:
            x = x * 2
        return self.conv(x)


def test_a_branch_on_a_length_becomes_a_check() -> None:
    model = Branches().eval()
    conversion = convsurgeon.convert(model, X)
    assert conversion.plan.capture.how == "export"
    assert "can't be traced" in conversion.plan.capture.before[0]
    assert "x.shape[2] % 2 == 0" in conversion.plan.capture.admits
    torch.testing.assert_close(conversion.module(X[..., :12]), model(X[..., :12]))
    for length in (8, 13):
        with pytest.raises(ValueError, match="captured for inputs with"):
            conversion.module(X[..., :length])


class NoiseInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x + torch.rand_like(x) if self.training else x)


def test_a_program_of_one_mode_says_so() -> None:
    conversion = convsurgeon.convert(NoiseInTraining().eval(), X, capture="export")
    assert conversion.plan.capture.mode == "eval"
    assert "train mode takes another path" in " ".join(str(conversion).split())
    with pytest.raises(convsurgeon.UnsupportedError, match="captured in eval mode only"):
        conversion.module.train()


class Counts(nn.Module):
    """A counter under the name that normalisation gives its own, which counts otherwise."""

    def __init__(self, step: int, always: bool) -> None:
        super().__init__()
        self.conv, self.step, self.always = nn.Conv1d(4, 4, 3), step, always
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x) * self.num_batches_tracked
        if self.training or self.always:
            self.num_batches_tracked.add_(self.step)
        return y


@pytest.mark.parametrize(("step", "always"), [(1, False), (1, True), (2, False)])
def test_what_counts_otherwise_than_normalisation_keeps_its_mode(step: int, always: bool) -> None:
    model = Counts(step, always).eval()
    conversion = convsurgeon.convert(model, X, capture="export")
    assert conversion.plan.capture.mode == (None if (step, always) == (1, False) else "eval")
    module = conversion.module
    for _ in range(3):
        torch.testing.assert_close(module(X), model(X))
    if conversion.plan.capture.mode is None:
        torch.testing.assert_close(module.train()(X), model.train()(X))


class CountsAndRemembers(nn.Module):
    """A counter, and a GRU, whose forward sets an attribute: what is compared is the second call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(4, 8, 3), nn.GRU(8, 8, batch_first=True)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.gru(self.conv(x).mT)[0]


def test_what_is_called_twice_to_be_compared_counts_two_calls() -> None:
    model = CountsAndRemembers().eval()
    module = convsurgeon.convert(model, X, capture="export").module
    assert module.calls == model.calls == 0
    torch.testing.assert_close(module(X), model(X))
    assert module.calls == 1


class BehindTorchsBack(nn.Module):
    """What it reads by ``.data`` torch.export doesn't see, and it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv1d(4, 4, 3), nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scale.data.mul_(2)
        return self.conv(x) * self.scale if len(x.shape) == 3 and x.shape[0] else x


def test_numbers_that_an_export_lost_are_told() -> None:
    with pytest.raises(convsurgeon.CaptureError, match="can't be exported"):
        convsurgeon.convert(BehindTorchsBack().eval(), X, capture="export")
    assert convsurgeon.plan(BehindTorchsBack().eval(), X).capture.how == "islands"


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 1e9 else self.conv(x * 2)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x) * self.calls


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ByValue, r"ByValue can't be exported by torch.export\n  at .*test_export.py"),
        (Remembers, "the exported graph of Remembers .* computes something else"),
    ],
)
def test_what_can_not_be_exported_tells_where(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(convsurgeon.CaptureError, match=message):
        convsurgeon.convert(kind().eval(), X, capture="export")
    conversion = convsurgeon.convert(kind().eval(), X)
    assert conversion.plan.capture.how == "islands"
    assert len(conversion.plan.capture.before) == 2


def test_a_model_with_a_recurrent_layer_can_be_saved() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(4, 4, 3), nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.lstm(self.conv(x).transpose(1, 2))[0]
            return y

    model = Recurrent().eval()
    module = converted_and_equal(model, X, capture="export").module
    for one in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        torch.testing.assert_close(one(X), model(X))
        assert list(one.state_dict()) == list(model.state_dict())
