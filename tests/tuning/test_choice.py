from __future__ import annotations

import json
from pathlib import Path

import pytest

from convsurgeon.tuning.choice import Choice, Machine, load_choice
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
