"""A profile tells every operator once, on both sides, whatever the graph became."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import Decays, DecaysBehindTorchsBack, assert_same, ranks_of_convolutions, states_of
from torch import nn

import convsurgeon
from convsurgeon import profiling
from convsurgeon.converted.origin import ORIGIN, Origin
from convsurgeon.profiling import Profile, watching

X = torch.randn(2, 4, 32)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """A region, and a recurrent layer that stays 1-D."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Block(), nn.LSTM(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.block(x))[0]


class Branching(nn.Module):
    """No graph as a whole; one of its blocks is called twice, and one convolution by its own Python."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.weight = Block(), nn.Parameter(torch.randn(4, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            return x
        return self.block(self.block(torch.conv1d(x, self.weight)))


def profile(model: nn.Module, **options: Any) -> Profile:
    return convsurgeon.convert(model.eval(), X, **options).profile(rounds=3)


def test_every_operator_is_told_once_with_what_it_is() -> None:
    found = profile(Net())
    assert [(one.kind, one.operator, one.name) for one in found.costs] == [
        ("border", "unsqueeze", "x"),
        ("convolution", "Conv1d -> Conv2d", "block.conv"),
        ("region", "BatchNorm1d -> BatchNorm2d", "block.norm"),
        ("region", "relu", "block"),
        ("border", "squeeze", "block"),
        ("1-D", "LSTM", "last"),
        ("1-D", "getitem", "getitem"),
    ]
    borders = [one for one in found.costs if one.kind == "border"]
    assert all(one.original_s == 0 < one.converted_s and one.ratio is None for one in borders)
    assert all(one.original_s > 0 < one.converted_s and one.ratio for one in found.costs if one not in borders)
    assert [one.kind for one in found.totals] == ["convolution", "region", "border", "1-D"]
    assert [one.operator for one in found.totals] == ["1", "2", "2", "2"]
    assert found.rounds == 3


def test_it_is_printed_and_turned_into_json() -> None:
    found = profile(Net())
    text, data = str(found), json.loads(json.dumps(found.to_json()))
    for told in ("block.conv", "kept 1-D", "2 in all", "whole call", f"threads: {torch.get_num_threads()}"):
        assert told in text
    assert data["costs"][1]["ratio"].keys() == {"median", "noise"}
    assert data["whole"]["original_s"] > 0


def test_of_many_operators_those_are_shown_that_take_longest() -> None:
    found = profile(nn.Sequential(*(nn.Conv1d(4, 4, 1) for _ in range(40))))
    assert len(found.costs) == 42
    assert "and 18 more" in " ".join(str(found).split())
    alike = replace(found, costs=(replace(found.costs[0], original_s=1e-6, converted_s=1e-6),) * 42)
    assert "and 18 more" in " ".join(str(alike).split())


def test_with_inputs_and_outputs_in_2d_there_are_no_borders() -> None:
    found = profile(Block(), io="2d")
    assert [one.kind for one in found.costs] == ["convolution", "region", "region"]


def test_what_exact_rewrites_made_one_is_told_as_one() -> None:
    found = profile(Block(), exact=["fold_batch_norm"])
    folded, relu = [one for one in found.costs if one.kind != "border"]
    assert (folded.kind, folded.operator, folded.name) == ("convolution", "Conv1d + BatchNorm1d", "conv")
    assert relu.operator == "relu"


def test_changes_of_layout_are_told_apart() -> None:
    conversion = convsurgeon.convert(Block().eval(), X)
    module: Any = conversion.module
    (conv,) = module.graph.find_nodes(op="call_module", target="conv")
    with module.graph.inserting_after(conv):
        copy_ = module.graph.call_method("contiguous", (conv,), {"memory_format": torch.channels_last})
    copy_.meta[ORIGIN] = Origin(conv.name, "layout", "2d")
    conv.replace_all_uses_with(copy_, delete_user_cb=lambda user: user is not copy_)
    module.recompile()
    (layout,) = [one for one in conversion.profile(rounds=3).costs if one.kind == "layout"]
    assert (layout.name, layout.original_s) == ("conv", 0.0)


def test_islands_are_told_by_their_names_over_all_calls_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(watching, "perf_counter", lambda: float(next(ticks)))
    found = profile(Branching(), capture="islands")
    assert {one.name for one in found.costs if one.kind != "border"} == {"block.conv", "block.norm", "block"}
    others = {one.operator: one.converted_s for one in found.costs if one.converted_s != 2.0}
    assert others == {"squeeze": 4.0}  # with the slice before it
    assert found.by_node.original_s == 6.0


def test_the_original_runs_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = []

    def ran(calls: dict[int, Callable[[], Any]], *args: Any, **options: Any) -> Any:
        ranks.extend(set(ranks_of_convolutions(call)) for call in calls.values())  # type: ignore[arg-type]
        return timed_in_turn(calls, *args, **options)

    timed_in_turn = profiling.timed_in_turn
    monkeypatch.setattr(profiling, "timed_in_turn", ran)
    profile(Branching(), capture="islands")
    profile(Net())
    assert ranks == [{(3, 3)}, {(4, 4)}] * 4


def test_nothing_is_changed_by_it() -> None:
    conversion = convsurgeon.convert(Net(), X)
    before, state = copy.deepcopy(conversion.module.state_dict()), torch.get_rng_state()
    conversion.profile(rounds=3)
    assert conversion.module.training
    assert_same(conversion.module.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [Decays, DecaysBehindTorchsBack])
@pytest.mark.parametrize("options", [{}, {"copy_weights": True}, {"capture": "islands"}])
def test_weights_that_forward_writes_are_not_the_models(kind: type[Decays], options: dict[str, Any]) -> None:
    model = kind().eval()
    conversion = convsurgeon.convert(model, X, **options)
    before = states_of(conversion, model)
    conversion.profile(rounds=3)
    assert_same(states_of(conversion, model), before)


def test_the_weights_are_copied_once_for_all_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[nn.Module]] = []

    def cloned(module: nn.Module, policy: Any) -> nn.Module:
        clone = clone_module(module, policy)
        if isinstance(clone, nn.ModuleList):
            seen.append(list(clone))
        return clone

    clone_module = profiling.clone_module
    monkeypatch.setattr(profiling, "clone_module", cloned)
    profile(Net())
    (models,) = seen
    assert len({model.get_parameter("block.conv.weight").data_ptr() for model in models}) == 1


def test_the_first_profile_of_a_process_draws_nothing() -> None:
    script = """
import random, torch, convsurgeon
conversion = convsurgeon.convert(torch.nn.Conv1d(4, 4, 3), torch.randn(2, 4, 32))
before = random.getstate()
str(conversion.profile(rounds=3))
assert random.getstate() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_model_that_keeps_a_mode_is_timed_in_it() -> None:
    conversion = convsurgeon.convert(torch.export.export(Block().eval(), (X,)))
    assert conversion.profile(rounds=3).whole.converted_s > 0


def test_other_samples_are_timed_and_none_is_an_error() -> None:
    conversion = convsurgeon.convert(Block().eval(), verify=False)
    with pytest.raises(ValueError, match="no sample to time"):
        conversion.profile()
    assert conversion.profile(X, rounds=3).whole.original_s > 0


def test_what_is_too_short_to_be_timed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (watching, time):
        monkeypatch.setattr(module, "perf_counter", lambda: 0.0)
    found = profile(Block())
    assert found.whole.ratio is None
    assert not found.is_certain
    assert "too short" in str(found)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_three_rounds_are_made_at_least(rounds: int) -> None:
    conversion = convsurgeon.convert(nn.Sequential(nn.Conv1d(4, 4, 3)).eval(), X)
    assert conversion.profile(rounds=rounds).rounds == 3
