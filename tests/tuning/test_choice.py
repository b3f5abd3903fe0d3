from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import convsurgeon
from convsurgeon.tuning.choice import Choice, Machine, fingerprint, load_choice
from convsurgeon.tuning.parts import Decision
from convsurgeon.tuning.writing import Layouts

MACHINE = Machine("a processor", "float32", 2, "2.13.0")
DECISION = Decision(
    Layouts({"conv": "last", "relu": "plain"}, {"conv": "last"}, {("view", "relu"): "plain"}, True),
    {"fold_dilation": ("blocks.0", "blocks.1")},
)


def test_a_choice_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    choice = Choice(MACHINE, "a model", {"": DECISION})
    choice.save(path)
    assert load_choice(path, MACHINE, "a model") == (choice, [])


def test_a_file_holds_one_choice_for_each_machine_and_model(tmp_path: Path) -> None:
    path, other = tmp_path / "choice.json", Machine("a processor", "bfloat16", 2, "2.13.0")
    for machine, decisions in ((MACHINE, {}), (other, {}), (MACHINE, {"": DECISION})):
        Choice(machine, "a model", decisions).save(path)
    assert load_choice(path, MACHINE, "a model")[0] == Choice(MACHINE, "a model", {"": DECISION})
    third = Machine("another", "float32", 1, "2.13.0")
    assert load_choice(path, third, "a model") == (None, [other, MACHINE])
    assert load_choice(path, MACHINE, "another model") == (None, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no choices"),
        ('{"format": "convsurgeon-tuning-2", "choices": []}', "holds no choices"),
    ],
)
def test_what_is_no_file_of_choices_is_refused_and_kept(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "choice.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_choice(path, MACHINE, "a model")
    with pytest.raises(ValueError, match=message):
        Choice(MACHINE, "a model", {}).save(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "damage", [{"takes": {"conv": "sideways"}}, {"rewrites": {"fold_everything": []}}, {"strict": [["one"]]}]
)
def test_a_damaged_choice_is_told_of(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "choice.json"
    Choice(MACHINE, "a model", {"": DECISION}).save(path)
    read = json.loads(path.read_text())
    read["choices"][0]["parts"][""].update(damage)
    path.write_text(json.dumps(read))
    with pytest.raises(ValueError, match=r"a choice is damaged .*; tune again"):
        load_choice(path, MACHINE, "a model")


def test_a_choice_that_was_made_in_eval_mode_adds_no_weights_in_training_mode(tmp_path: Path) -> None:
    model, x = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3, stride=2), torch.nn.Tanh()).eval(), torch.randn(2, 2, 41)
    made = convsurgeon.convert(model, x)
    decisions = {"": Decision(Layouts({}, {}, {}), {"fold_stride": ("0",)})}
    machine, name = Machine.here(made.module, made.samples[0]), fingerprint({"": made.module})
    Choice(machine, name, decisions).save(tmp_path / "choice.json")
    with pytest.warns(convsurgeon.TuningWarning, match="which training would tell apart"):
        tuned = convsurgeon.tune(convsurgeon.convert(model.train(), x), choice=tmp_path / "choice.json")
    assert sum(one.numel() for one in tuned.module.parameters()) == 28
