from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support import assert_same
from torch import nn
from tuning.chance import Seconds, by_chance, clock, for_last, for_rewrites

import convsurgeon
from convsurgeon.timing import Timing
from convsurgeon.tuning.choice import Choice, Machine, fingerprint
from convsurgeon.tuning.layouts import layout_of
from convsurgeon.tuning.parts import Decision
from convsurgeon.tuning.writing import Layouts


class Separable(nn.Module):
    """Depthwise and pointwise, dilated and strided, and back up again; behind it a view, which reads strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=4, dilation=4, groups=8)
        self.pointwise = nn.Conv1d(8, 8, 1)
        self.up = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        self.layer, self.linear, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = y + self.pointwise(self.depthwise(y))
        y = y + self.linear(self.layer(y.transpose(1, 2))).transpose(1, 2)
        y = self.up(y)
        y = y.view(y.size(0), 2, 4, -1).flatten(1, 2)
        return self.head(y.mean(-1))


_SECOND = Timing((1.0,) * 4)
X = torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def conversion() -> convsurgeon.Conversion:
    torch.manual_seed(0)
    return convsurgeon.convert(Separable().eval(), X)


@pytest.fixture
def tuned(conversion: convsurgeon.Conversion) -> convsurgeon.Conversion:
    with clock(for_last):
        return convsurgeon.tune(conversion)


def told(conversion: convsurgeon.Conversion) -> convsurgeon.Tuning:
    assert conversion.tuning is not None
    return conversion.tuning


def test_it_computes_in_channels_last_where_that_is_faster(tuned: convsurgeon.Conversion) -> None:
    layouts = []

    def note(layer: nn.Module, args: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        layouts.append((layout_of(args[0]), layout_of(made)))

    assert told(tuned).taken
    copied = copy.deepcopy(tuned.module)
    for layer in copied.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(note)
    copied(X)
    assert layouts == [("last", "last")] * 4


def test_the_conversion_stays_as_it_is_and_its_checkpoints_fit(conversion: convsurgeon.Conversion) -> None:
    before = copy.deepcopy(conversion.module.state_dict())
    code = conversion.module.code
    with clock(for_last):
        tuned = convsurgeon.tune(conversion)
    assert conversion.tuning is None
    assert conversion.module.code == code != tuned.module.code
    assert_same(conversion.module.state_dict(), before)
    torch.manual_seed(1)
    other = Separable().eval()
    tuned.module.load_state_dict(other.state_dict())  # of the 1-D model
    torch.testing.assert_close(tuned.module(X), other(X))
    assert tuned.weight_map == conversion.weight_map


@pytest.mark.parametrize("seed", range(6))
def test_the_original_is_what_it_is_compared_with(seed: int) -> None:
    torch.manual_seed(seed)
    model = Separable().eval()
    with clock(by_chance(seed)):
        conversion = convsurgeon.convert(model, [X, torch.randn(1, 2, 64)], tune=True)
    convsurgeon.verify(model, conversion.module, torch.randn(3, 2, 48)).require()
    assert conversion.verification


@pytest.mark.parametrize("seconds", [for_last, for_rewrites])
def test_it_is_pickled_exported_and_compiled(seconds: Seconds) -> None:
    torch.manual_seed(0)
    model = Separable().eval()
    with clock(seconds):
        module = convsurgeon.convert(model, X, tune=True).module
    expected = model(X)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(X), expected)
    torch.testing.assert_close(copy.deepcopy(module)(X), expected)
    torch.testing.assert_close(torch.export.export(module, (X,)).module()(X), expected)
    torch.testing.assert_close(torch.compile(module, backend="aot_eager")(X), expected)


@pytest.mark.parametrize("seconds", [for_last, for_rewrites])
def test_it_is_reported_on(conversion: convsurgeon.Conversion, tmp_path: Path, seconds: Seconds) -> None:
    with clock(seconds):
        tuned = convsurgeon.tune(conversion)
    tuned.to_html(tmp_path / "report.html")
    data = json.loads(json.dumps(tuned.to_json()))
    assert data["tuning"]["ratio"] == {"median": 2.0, "noise": 0.0}
    assert {one["operator"] for one in data["tuning"]["tried"]} >= {"Conv2d", "ConvTranspose2d", "BatchNorm2d"}
    assert "Conv2d" in str(tuned.profile(budget_s=0.1))
    assert str(told(tuned)).splitlines()[0].startswith("2.00 x as fast as converted: 2000.00 ms -> 1000.00 ms, on ")


@pytest.mark.parametrize("suffix", ["pt2", "safetensors"])
def test_it_is_written_as_a_file(tuned: convsurgeon.Conversion, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tuned.{suffix}"
    tuned.export(path)
    if suffix == "safetensors":
        assert_same(dict(sorted(load_file(path).items())), dict(sorted(tuned.module.state_dict().items())))
    else:
        torch.testing.assert_close(torch.export.load(path).module()(X), tuned.module(X))


@pytest.mark.parametrize("seconds", [for_last, for_rewrites])
def test_training_goes_on_as_it_would(seconds: Seconds) -> None:
    torch.manual_seed(0)
    model = Separable()
    with clock(seconds):
        module = convsurgeon.convert(model, X, copy_weights=True, tune=True).module
    losses = []
    for one in (model, module):
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = one(X).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_rewrites_that_pay_are_noted_and_baked(conversion: convsurgeon.Conversion) -> None:
    with clock(for_rewrites):
        tuned = convsurgeon.tune(conversion)
    done = {(one.rewrite, one.name) for one in tuned.exact.rewritten}
    assert done == {
        *(("fold_stride", "stem"), ("fold_dilation", "depthwise"), ("transposed_as_convolution", "up")),
        ("convolution_as_product", "pointwise"),
    }
    with pytest.raises(convsurgeon.CheckpointError, match="baked"):
        tuned.weight_map.to_2d({})
    assert "1 x fold_dilation" in str(tuned)


def test_what_reads_strides_gets_those_that_it_had() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y.view(y.size(0), -1) + torch.as_strided(y, (y.size(0), 4 * y.size(2)), (4 * y.size(2), 1))

    model = Viewing()
    with clock(for_last):
        conversion = convsurgeon.convert(model, X, tune=True)
    assert told(conversion).taken
    for length in (1, 7):
        x = torch.randn(3, 2, length)
        torch.testing.assert_close(conversion.module(x), model(x))


def test_nothing_changes_where_nothing_is_gained() -> None:
    conversion = convsurgeon.convert(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3)), X)
    with clock(lambda name: 1.0):
        tuned = convsurgeon.tune(conversion)
    assert tuned.module is conversion.module
    assert told(tuned).reason.startswith("the whole model is 1.000 x as fast, with a noise of 0.000: too little")
    assert "not changed: the whole model is 1.000 x as fast" in str(tuned)


def test_what_was_not_worth_it_is_not_done_by_a_saved_choice(
    conversion: convsurgeon.Conversion, tmp_path: Path
) -> None:
    with clock(for_last), pytest.MonkeyPatch.context() as patch:
        patch.setattr("convsurgeon.tuning.tuner.timed_in_turn", lambda calls, *_, **__: dict.fromkeys(calls, _SECOND))
        told(convsurgeon.tune(conversion)).save(tmp_path / "choice.json")
    again = convsurgeon.tune(conversion, choice=tmp_path / "choice.json")
    assert again.module is conversion.module
    assert told(again).reason == "nothing was changed where the choice was saved"


class Writes(nn.Module):
    """Writes to a buffer and to a parameter in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(8, 2, 3, padding=1)
        self.register_buffer("state", torch.zeros(2, 2, 40))
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x + self.state))
        self.state.copy_(y)
        self.scale.data.add_(1)
        return y * self.scale


@pytest.mark.parametrize("budget_s", [0.3, 1e-9])
def test_what_forward_writes_stays_as_it_was(budget_s: float) -> None:
    model = Writes().eval()
    conversion = convsurgeon.convert(model, X)
    before = copy.deepcopy((model.state_dict(), conversion.module.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", convsurgeon.TuningWarning)
        convsurgeon.tune(conversion, budget_s=budget_s)
    assert_same((model.state_dict(), conversion.module.state_dict()), before)


def test_a_budget_that_is_too_small_is_told_and_changes_nothing(conversion: convsurgeon.Conversion) -> None:
    with pytest.warns(convsurgeon.TuningWarning, match="give more as budget_s") as seen:
        tuned = convsurgeon.tune(conversion, budget_s=1e-9)
    assert seen[0].filename == __file__
    assert tuned.module is conversion.module
    assert not told(tuned).taken


def test_where_time_is_short_convolutions_are_tried_in_either_layout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsurgeon.tuning.survey.Clock.is_short", True)
    conversion = convsurgeon.convert(nn.Conv1d(2, 4, 3, dilation=2), X)
    with clock(for_last):
        tuned = convsurgeon.tune(conversion)
    assert told(tuned).hurried == 1
    assert [set(one.seconds) for one in told(tuned).tried] == [{""}]
    assert set(told(tuned).tried[0].seconds[""]) == {"plain", "last"}
    assert "1 kind of convolutions not tried by exact rewrites, for want of time: give more as budget_s" in " ".join(
        str(tuned).split()
    )


def test_what_is_too_short_to_time_is_left() -> None:
    conversion = convsurgeon.convert(nn.Conv1d(1, 1, 1), torch.randn(1, 1, 2))
    with clock(for_last), pytest.MonkeyPatch.context() as patch:
        patch.setattr("convsurgeon.tuning.tuner._LEAST_S", 10.0)
        tuned = convsurgeon.tune(conversion)
    assert "too short to tell anything by" in told(tuned).reason


def test_what_would_compute_something_else_is_told_and_left(
    conversion: convsurgeon.Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: nn.Module, *_: object) -> int:
        with torch.no_grad():
            next(module.parameters()).data = next(module.parameters()).data + 1
        return 0

    monkeypatch.setattr("convsurgeon.tuning.parts.write_layouts", broken)
    with clock(for_last), pytest.warns(convsurgeon.TuningWarning, match="would compute something else: DIFFERENT"):
        tuned = convsurgeon.tune(conversion)
    assert tuned.module is conversion.module


def test_random_numbers_are_those_of_the_original() -> None:
    class Noisy(Separable):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.randn_like(x)) + F.dropout(self.stem(x), 0.5, True).mean()

    model = Noisy().eval()
    before = torch.get_rng_state()
    with clock(for_last), warnings.catch_warnings():
        warnings.simplefilter("error")
        conversion = convsurgeon.convert(model, X, tune=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert told(conversion).taken
    outputs = []
    for one in (model, conversion.module):
        torch.manual_seed(3)
        outputs.append(one(X))
    torch.testing.assert_close(*outputs)


def test_islands_are_tuned_in_place() -> None:
    class Branching(Separable):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if float(x.detach().sum()) > 1e9 else x * 2)

    model = Branching().eval()
    with clock(for_last):
        conversion = convsurgeon.convert(model, X, capture="islands", tune=True)
    assert told(conversion).taken
    torch.testing.assert_close(conversion.module(X * 3), model(X * 3))


def test_threads_are_put_back_and_progress_is_told(conversion: convsurgeon.Conversion) -> None:
    before, shares = torch.get_num_threads(), []
    with clock(for_last):
        tuned = convsurgeon.tune(conversion, threads=before + 1, progress=shares.append)
    assert torch.get_num_threads() == before
    assert told(tuned).choice.machine.threads == before + 1
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_s": 0}, "budget_s is 0; accepted: seconds, more than 0"),
        ({"threads": 0}, "threads is 0; accepted: 1 or more, or None"),
        ({"elsewhere": "here"}, "elsewhere is 'here'; accepted: 'measure', 'ignore'"),
    ],
)
def test_wrong_arguments_are_named(
    conversion: convsurgeon.Conversion, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convsurgeon.tune(conversion, **options)  # type: ignore[arg-type]


def test_without_a_sample_there_is_nothing_to_time() -> None:
    model = nn.Conv1d(1, 1, 1)
    with pytest.raises(ValueError, match="give sample_inputs"):
        convsurgeon.tune(convsurgeon.convert(model, verify=False))
    with pytest.raises(ValueError, match="no sample to measure on; give a sample"):
        convsurgeon.convert(model, verify=False, tune=True)


def test_it_is_timed_by_a_real_clock() -> None:
    model = nn.Sequential(*(nn.Conv1d(64, 64, 15, padding=7, groups=64) for _ in range(3))).eval()
    conversion = convsurgeon.convert(model, torch.randn(1, 64, 500))
    tuned = convsurgeon.tune(conversion, budget_s=3.0)
    found = told(tuned)
    assert found.tried[0].operator == "Conv2d"
    assert {layout for each in found.tried[0].seconds.values() for layout in each} == {"plain", "last"}
    assert found.taken == (tuned.module is not conversion.module)
    assert found.to_json()["spent_s"] > 0


def test_a_saved_choice_is_carried_out_without_measuring(
    tuned: convsurgeon.Conversion, conversion: convsurgeon.Conversion, tmp_path: Path
) -> None:
    told(tuned).save(tmp_path / "choice.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convsurgeon.tuning.tuner.decide", None)
        again = convsurgeon.tune(conversion, choice=tmp_path / "choice.json")
    assert again.module.code == tuned.module.code
    assert told(again).reason == "carried out as it was saved"
    assert torch.equal(again.module(X), tuned.module(X))


@pytest.mark.parametrize(("elsewhere", "taken"), [("measure", True), ("ignore", False)])
def test_a_choice_for_another_machine_is_told_of(
    conversion: convsurgeon.Conversion, tmp_path: Path, elsewhere: str, taken: bool
) -> None:
    path = tmp_path / "choice.json"
    with clock(for_last):
        told(convsurgeon.tune(conversion, threads=torch.get_num_threads() + 1)).save(path)
        with pytest.warns(convsurgeon.TuningWarning, match="holds choices for .* none for "):
            tuned = convsurgeon.tune(conversion, choice=path, elsewhere=elsewhere)  # type: ignore[arg-type]
    assert told(tuned).taken == taken


def test_a_choice_for_another_model_is_told_of(tuned: convsurgeon.Conversion, tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    told(tuned).save(path)
    other = convsurgeon.convert(nn.Conv1d(2, 8, 3), X)
    with clock(for_last), pytest.warns(convsurgeon.TuningWarning, match="holds choices for other models"):
        convsurgeon.tune(other, choice=path)


class Squeezed(nn.Module):
    """SqueezeBERT's feed-forward: grouped kernels of one tap on what was transposed, in a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.wide = nn.LayerNorm(8), nn.Conv1d(8, 16, 1, groups=4)
        self.narrow = nn.Conv1d(16, 8, 1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.transpose(1, 2)).transpose(1, 2)
        return self.narrow(F.gelu(self.wide(y))) + y


@pytest.mark.parametrize("capture", ["trace", "export"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_grouped_weights_behind_a_transpose(capture: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Squeezed().eval().to(dtype)
    x = torch.randn(1, 8, 12, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the kernel that misreads is for one
    try:
        with clock(for_last):
            tuned = convsurgeon.tune(convsurgeon.convert(model, x, capture=capture))
        assert told(tuned).taken, told(tuned).reason
        convsurgeon.verify(model, tuned.module, x, gradients=True).require()
    finally:
        torch.set_num_threads(threads)


def test_what_fits_an_accelerator_fits_it_when_it_is_tuned(tmp_path: Path) -> None:
    profile, saved = tmp_path / "mine.toml", tmp_path / "tuning.json"
    profile.write_text(
        'name = "mine"\ntitle = "Mine"\nstatic_shapes = false\nsource = "guide"\n'
        '[sources.guide]\ndocument = "A guide"\nkind = "documented"\ndate = 2026-01-01\n'
        '[[limits]]\noperators = ["convolution"]\nquantity = "out_channels"\nmax = 4\nsource = "guide"\n'
    )
    x = torch.randn(1, 4, 200)
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 4, 4, 2, 1)).eval()
    fitting = convsurgeon.convert(model, x, target=profile, strict=True)
    decision = Decision(Layouts({}, {}, {}), {"transposed_as_convolution": ("2",)})  # to eight channels
    machine = Machine.here(fitting.module, convsurgeon.Sample((x,)))
    Choice(machine, fingerprint({"": fitting.module}), {"": decision}).save(saved)  # type: ignore[dict-item]
    with pytest.warns(convsurgeon.TuningWarning, match="fewer operators would fit Mine"):
        kept = convsurgeon.tune(fitting, choice=saved)
    assert kept.module is fitting.module
    assert kept.fit == fitting.fit
    unaimed = convsurgeon.tune(convsurgeon.convert(model, x), choice=saved)
    assert told(unaimed).taken
    assert not convsurgeon.fit(unaimed.module, profile, x).fits
