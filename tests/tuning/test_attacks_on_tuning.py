"""What a reading with fresh eyes broke in tuning, each with the smallest model that shows it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from tuning.chance import clock, for_last

import convsurgeon
from convsurgeon.runs.repeated import repeated
from convsurgeon.tuning.choice import Choice, Machine, fingerprint
from convsurgeon.tuning.parts import Decision
from convsurgeon.tuning.proof import _worst
from convsurgeon.tuning.traits import traits_of
from convsurgeon.tuning.writing import Layouts
from convsurgeon.verification.outcome import Outcome


def graphs(conversion: convsurgeon.Conversion) -> dict[str, convsurgeon.ConvertedModule]:
    named = conversion.module.named_modules()
    return {path: one for path, one in named if isinstance(one, convsurgeon.ConvertedModule)}


def saved(conversion: convsurgeon.Conversion, decisions: dict[str, Decision], path: Path) -> Path:
    machine = Machine.here(conversion.module, conversion.samples[0])
    Choice(machine, fingerprint(graphs(conversion)), decisions).save(path)
    return path


class Scales(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 9, padding=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(0.5)
        return self.conv(x)  # type: ignore[no-any-return]


def test_a_sample_that_forward_writes_to_is_as_it_was() -> None:
    x = torch.randn(1, 4, 40)
    before, conversion = x.clone(), convsurgeon.convert(Scales(), x)
    with clock(for_last):
        convsurgeon.tune(conversion)
    assert torch.equal(x, before)
    assert torch.equal(conversion.samples[0].args[0], before)


def test_calls_that_are_made_again_compute_the_same() -> None:
    seen: list[torch.Tensor] = []
    model = Scales()
    call = repeated(lambda x: seen.append(model(x)), convsurgeon.Sample((torch.randn(1, 4, 40),)))
    for _ in range(3):
        call()
    for one in seen[1:]:
        torch.testing.assert_close(one, seen[0])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv1d(6, 4, 1), nn.Conv1d(6, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.small(x), self.large(x)], 1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.short, self.long = nn.Parameter(torch.randn(6, 6, 3)), nn.Parameter(torch.randn(6, 6, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.short).mean(-1) + F.conv1d(x, self.long).mean(-1)


@pytest.mark.parametrize(("model", "capture"), [(Branches, "export"), (Functional, "trace")])
def test_convolutions_with_other_weights_are_timed_apart(model: Callable[[], nn.Module], capture: Any) -> None:
    x = torch.randn(1, 6, 40)
    conversion = convsurgeon.convert(model(), x, capture=capture)
    module: Any = conversion.module
    traits = traits_of(module, module.graph, convsurgeon.Sample((x,)))
    assert len({one.key for node, one in traits.items() if "conv" in str(node.target)}) == 2
    with clock(for_last):
        tuning = convsurgeon.tune(conversion).tuning
    assert tuning is not None
    assert [len(one.nodes) for one in tuning.tried if "conv" in one.operator] == [1, 1]


def test_what_is_written_is_another_kind_than_what_is_not() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> Any:
            a, b = self.conv(x), self.conv(x + 1)
            return a.reshape(a.shape) + 1, b.reshape(b.shape).mul_(2), b

    x = torch.randn(1, 4, 40)
    module: Any = convsurgeon.convert(Copies(), x).module
    traits = traits_of(module, module.graph, convsurgeon.Sample((x,)))
    assert len({one.key for node, one in traits.items() if node.target == "reshape"}) == 2


def test_gradients_that_are_no_numbers_where_the_originals_are_none(tmp_path: Path) -> None:
    class Loudness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 8, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).square().mean(-1).sqrt()  # type: ignore[no-any-return]

    x = torch.cat([torch.randn(1, 2, 200), torch.zeros(1, 2, 200)])
    conversion = convsurgeon.convert(Loudness().eval(), x)
    tuned = convsurgeon.tune(conversion, choice=saved(conversion, {"": Decision()}, tmp_path / "choice.json"))
    assert tuned.tuning is not None
    assert tuned.tuning.taken


@pytest.mark.parametrize("broken", ["first", "second"])
def test_a_gradient_that_is_no_number_is_never_passed(broken: str) -> None:
    def outcome(**leaves: torch.Tensor) -> Outcome:
        named = {f"gradient of {name}": one for name, one in leaves.items()}
        return Outcome(named, None, frozenset(), torch.float32)  # type: ignore[arg-type]

    good = {"first": torch.ones(4), "second": torch.ones(4)}
    assert _worst(outcome(**good), outcome(**good), {}, (), 0.05).passed
    assert not _worst(outcome(**good), outcome(**{**good, broken: torch.full((4,), torch.nan)}), {}, (), 0.05).passed


def test_what_was_not_verified_is_not_told_to_be() -> None:
    conversion = convsurgeon.convert(Branches(), torch.randn(1, 6, 40), verify=False)
    with clock(for_last):
        tuned = convsurgeon.tune(conversion)
    assert tuned.tuning is not None
    assert tuned.tuning.taken
    assert tuned.verification is None


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_model_with_a_branch_of_its_own() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(8, 16, 5, padding=2), nn.Conv1d(16, 4, 5)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.conv(x)
            return self.out(torch.cond(y.sum() > 0, lambda one: one * 2, lambda one: one - 1, (y,)))

    model, x = Gate().eval(), torch.randn(1, 8, 200)
    conversion = convsurgeon.convert(model, x, capture="export")
    with clock(for_last):
        tuned = convsurgeon.tune(conversion)
    torch.testing.assert_close(tuned.module(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(convsurgeon.UnsupportedError, match="regions of its own"):
        convsurgeon.fit(conversion.module, "generic-4d", x)


class Lengths(nn.Module):
    """Calls one part or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(nn.Conv1d(2, 4, 9, stride=2), nn.ReLU())
        self.short = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.long(x) if x.shape[-1] > 100 else self.short(x)  # type: ignore[no-any-return]


def test_a_choice_for_a_part_that_this_sample_does_not_call(tmp_path: Path) -> None:
    model, long, short = Lengths().eval(), torch.randn(1, 2, 400), torch.randn(1, 2, 50)
    conversion = convsurgeon.convert(model, [long, short], capture="islands")
    path = saved(conversion, {"long": Decision(), "short": Decision()}, tmp_path / "choice.json")
    with pytest.warns(convsurgeon.TuningWarning, match="long isn't called with this sample"):
        tuned = convsurgeon.tune(conversion, short, choice=path)
    torch.testing.assert_close(tuned.module(short), model(short))


DAMAGES: dict[str, Callable[[Any], Any]] = {
    "a path that the model hasn't": lambda empty: {"nowhere": empty},
    "a place that is a number": lambda empty: {"": {**empty, "rewrites": {"fold_dilation": [0]}}},
    "a layer that isn't there": lambda empty: {"": {**empty, "rewrites": {"fold_dilation": ["encoder.7"]}}},
    "a rewrite that tuning never does": lambda empty: {"": {**empty, "rewrites": {"fold_batch_norm": ["1"]}}},
    "a node that isn't there": lambda empty: {"": {**empty, "takes": {"conv_17": "last"}}},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_choice_is_refused(damage: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(8, 8, 3, dilation=2), nn.BatchNorm1d(8)).eval()
    conversion = convsurgeon.convert(model, torch.randn(1, 8, 40))
    path = saved(conversion, {"": Decision()}, tmp_path / "choice.json")
    content = json.loads(path.read_text())
    content["choices"][0]["parts"] = DAMAGES[damage](content["choices"][0]["parts"][""])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"choice\.json: a choice is damaged"):
        convsurgeon.tune(conversion, choice=path)


def test_a_choice_of_a_model_with_another_dilation_is_none(tmp_path: Path) -> None:
    x = torch.randn(1, 8, 400)
    one, other = (convsurgeon.convert(nn.Conv1d(8, 8, 3, dilation=step).eval(), x) for step in (1, 4))
    path = saved(one, {"": Decision()}, tmp_path / "choice.json")
    with pytest.warns(convsurgeon.TuningWarning, match="for other models"):
        convsurgeon.tune(other, choice=path, elsewhere="ignore")


def test_nothing_is_saved_where_nothing_was_decided(tmp_path: Path) -> None:
    conversion = convsurgeon.convert(Branches(), torch.randn(1, 6, 40))
    path = saved(conversion, {"": Decision()}, tmp_path / "choice.json")
    before = path.read_bytes()
    with pytest.warns(convsurgeon.TuningWarning, match="too little"):
        tuned = convsurgeon.tune(conversion, budget_s=1e-9)
    assert tuned.tuning is not None
    with pytest.raises(ValueError, match="nothing was decided"):
        tuned.tuning.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"budget_s": "30"}, ValueError, "budget_s is '30'"),
        ({"budget_s": None}, ValueError, "budget_s is None"),
        ({"choice": 5}, TypeError, "choice is 5"),
        ({"progress": 5}, TypeError, "progress is 5"),
        ({"sample_inputs": torch.randn(1, 5, 40)}, ValueError, "can't run on"),
    ],
)
def test_arguments_that_are_wrong_are_told_in_words(options: dict[str, Any], kind: type[Exception], said: str) -> None:
    conversion = convsurgeon.convert(Branches(), torch.randn(1, 6, 40))
    with pytest.raises(kind, match=said):
        convsurgeon.tune(conversion, **options)
    with pytest.raises(TypeError, match="conversion is a Branches"):
        convsurgeon.tune(Branches())  # type: ignore[arg-type]


def test_weights_on_the_meta_device_are_not_measured() -> None:
    with torch.device("meta"):
        model, x = Branches(), torch.randn(1, 6, 40)
    conversion = convsurgeon.convert(model, x, verify=False)
    with pytest.raises(convsurgeon.UnsupportedError, match="meta device"):
        convsurgeon.tune(conversion)


def test_a_model_too_slow_for_the_budget_is_left_soon() -> None:
    class Slow(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.3)
            return super().forward(x)

    conversion = convsurgeon.convert(Slow(), torch.randn(1, 6, 40), capture="islands")
    with pytest.warns(convsurgeon.TuningWarning, match=r"0\.2 s were too little"):
        tuned = convsurgeon.tune(conversion, budget_s=0.2)
    assert tuned.tuning is not None
    assert not tuned.tuning.tried


def test_a_module_with_filled_kernels_tells_that_it_is_not_to_be_trained(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, stride=2), nn.Tanh()).eval()
    conversion = convsurgeon.convert(model, torch.randn(2, 2, 41))
    decision = Decision(Layouts({}, {}, {}), {"fold_stride": ("0",)})
    tuned = convsurgeon.tune(conversion, choice=saved(conversion, {"": decision}, tmp_path / "choice.json"))
    with pytest.warns(UserWarning, match="tuned in evaluation mode"):
        tuned.module.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned.module.eval()
