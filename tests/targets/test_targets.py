"""Profiles of accelerators: those that are shipped, those of one's own, and what is said of a wrong one."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from convsurgeon import targets
from convsurgeon.targets import FAMILIES, Bound, Condition, Limit, Source, Target, load_target, target_names
from convsurgeon.targets.reading import read_target

GOOD = """\
name = "mine"
title = "My NPU"
static_shapes = true
ranks = [1, 2, 4]
source = "guide"
section = "2.1"

[sources.guide]
document = "Guide 1.2"
kind = "documented"
date = 2026-01-31

[[limits]]
operators = ["convolution"]
quantity = "stride"
max = 3
when = { dilation = { min = 2 } }
source = "guide"

[[limits]]
operators = ["any"]
quantity = "dtype"
one_of = ["float16"]
source = "guide"
section = "3"
effect = "is refused"
confirmed = "guide"
"""

SHIPPED = (
    *("ane", "artpec-8", "artpec-9", "ethos-u55", "ethos-u65", "ethos-u85", "generic-4d", "imx500", "mdla"),
    *("nvidia-dla", "qnn-htp", "rk3588", "tidl", "xnnpack"),
)


def test_what_is_shipped() -> None:
    assert target_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_limit_that_is_shipped_has_a_source_and_a_date(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.title
    assert target.limits
    layout = () if target.channels_last is None else (target.channels_last,)
    for source in (target.source, *layout, *(limit.source for limit in (*target.limits, *target.preferences))):
        assert source.document
        assert datetime.date(2020, 1, 1) < source.date < datetime.date(2100, 1, 1)
        assert str(source.date) in str(source)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    source = Source("Guide 1.2", "documented", datetime.date(2026, 1, 31))
    expected = Limit(("convolution",), "stride", Bound(most=3), source, (Condition("dilation", Bound(least=2)),))
    found = load_target(tmp_path / "mine.toml")
    assert found == load_target(str(tmp_path / "mine.toml")) == load_target(found)
    assert found.limits[0] == expected
    assert found.limits[1].families == FAMILIES
    assert found.limits[1].source.section == "3"
    assert (found.limits[0].confirmed, found.limits[1].confirmed) == (None, source)
    assert found.source.section == "2.1"
    assert [limit.quantity for limit in found.limits_of("linear")] == ["rank", "dtype"]


def test_preferences_and_layout_are_read_and_checked_as_limits_are() -> None:
    more = '[[preferences]]\noperators = ["max_pool"]\nquantity = "stride"\nmax = 2\nsource = "guide"\n'
    layout = '[channels_last]\nsource = "guide"\nsection = "2.2"\n'
    found = read_target(GOOD + more + layout, "mine.toml")
    assert [str(one.bound) for one in found.preferences_of("max_pool")] == ["at most 2"]
    assert not found.preferences_of("convolution")
    assert found.channels_last is not None
    assert found.channels_last.section == "2.2"
    assert read_target(GOOD, "mine.toml").channels_last is None
    line = len(GOOD.splitlines()) + 4
    with pytest.raises(ValueError, match=rf"mine.toml:{line}: \[preferences\] has 'maximum'"):
        read_target(GOOD + more.replace("max =", "maximum ="), "mine.toml")
    with pytest.raises(ValueError, match="channels_last is True; accepted: a table"):
        read_target("channels_last = true\n" + GOOD, "mine.toml")


def test_the_example_of_the_documentation_is_a_profile() -> None:
    example = (targets.__doc__ or "").partition("```toml\n")[2].partition("```")[0]
    assert read_target(example, "example").limits[0].accepted == "at most 3, where dilation is at least 2"


WRONG = {
    "another key": ("max = 3", "maximum = 3", 16, "[limits] has 'maximum'; accepted: operators, quantity, min"),
    "a key too many": ("max = 3", "max = 3\nsteps = 2", 17, "'steps'"),
    "a key too many at the top": ("section = ", "chapter = ", 6, "'chapter'"),
    "a key too many in a source": ("date = 2026", "page = 3\ndate = 2026", 11, "'page'"),
    "no title": ('title = "My NPU"\n', "", 1, "the profile has no title"),
    "no quantity": ('quantity = "stride"\n', "", 13, "[limits] has no quantity"),
    "no date": ("date = 2026-01-31\n", "", 8, "[sources.guide] has no date"),
    "a date in words": ("2026-01-31", '"in January"', 11, "date is 'in January'; accepted: a date"),
    "a time for a date": ("2026-01-31", "2026-01-31T10:00:00", 11, "accepted: a date"),
    "a number for a bool": ("static_shapes = true", "static_shapes = 1", 3, "static_shapes is 1; accepted: true or"),
    "a bool for a number": ("max = 3", "max = true", 16, "max is True; accepted: a number"),
    "an unknown quantity": ('"stride"', '"strides"', 15, "quantity is 'strides'; accepted: kernel, stride"),
    "an unknown family": ('["convolution"]', '["conv"]', 14, "names 'conv'; accepted: any, convolution"),
    "an unknown source": ('effect = "is', 'source = "x"\neffect = "is', None, "overwrite"),
    "an unknown confirmation": ('confirmed = "guide"', 'confirmed = "yes"', 27, "confirmed is 'yes'; accepted: guide"),
    "an unknown kind": ('"documented"', '"heard"', 10, "kind is 'heard'; accepted: documented, inferred"),
    "an unknown condition": ("{ dilation =", "{ dilatation =", 17, "is about 'dilatation'"),
    "a condition that says nothing": ("{ min = 2 }", "{ }", 17, "bounded by nothing"),
    "an equal condition": ("{ min = 2 }", "{ equal = true }", 17, "bounded by equal"),
    "a bound of a word": ('one_of = ["float16"]', "max = 3", 22, "'dtype', bounded by max; accepted: one_of"),
    "bounds the wrong way round": ("max = 3", "min = 4\nmax = 3", 16, "min is 4, above max, 3"),
    "two kinds of bounds": ("max = 3", "max = 3\none_of = [1]", 15, "bounded by max and one_of"),
    "no TOML": ("max = 3", "max 3", 16, "line 16"),
}


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_profile_is_told_with_its_line(old: str, new: str, line: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.toml:") as told:
        read_target(GOOD.replace(old, new, 1), "mine.toml")
    if line is None:  # a key that stands twice is TOML's own complaint
        assert "at line" in str(told.value)
        return
    assert said in str(told.value)
    assert f"mine.toml:{line}: " in str(told.value) or f"line {line}" in str(told.value)


def test_an_unknown_source() -> None:
    with pytest.raises(ValueError, match=r"^x:18: source is 'page'; accepted: guide$"):
        read_target(GOOD.replace('source = "guide"\n\n[[limits]]', 'source = "page"\n\n[[limits]]'), "x")


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"target is 'ethos'; known: ane, .*xnnpack, or the path of a TOML file"):
        load_target("ethos")
    with pytest.raises(TypeError, match="target is a int; accepted: a name"):
        load_target(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        load_target("absent.toml")


def test_a_file_that_is_no_text_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine\.toml: .*a profile is a TOML file"):
        load_target(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("bound", "taken", "refused", "said"),
    [
        (Bound(least=2), (2, 9), (1, 9), "at least 2"),
        (Bound(most=2), (0, 2), (2, 3), "at most 2"),
        (Bound(least=1, most=3), (1, 3), (0, 3), "1 to 3"),
        (Bound(least=2, most=2), (2, 2), (2, 1), "2"),
        (Bound(one_of=(1, 2, 4)), (4, 1), (1, 3), "1 or 2 or 4"),
        (Bound(equal=True), (7, 7), (7, 1), "equal on every axis"),
    ],
)
def test_bounds(bound: Bound, taken: tuple[int, ...], refused: tuple[int, ...], said: str) -> None:
    assert bound.takes_all(taken)
    assert bound.takes_all(())
    assert not bound.takes_all(refused)
    assert str(bound) == said


def test_a_limit_applies_where_all_its_conditions_hold() -> None:
    source = Source("x", "measured", datetime.date(2026, 1, 1))
    when = (Condition("stride", Bound(least=4)), Condition("groups", Bound(most=1)))
    limit = Limit(("convolution",), "dilation", Bound(most=1), source, when)
    seen = {"dilation": (1, 2), "stride": (1, 4), "groups": (1,)}
    assert limit.broken_by(lambda name: seen.get(name, ())) == (1, 2)
    for name, values in {"dilation": (1, 1), "stride": (3, 3), "groups": (2,)}.items():
        other = {**seen, name: values}
        assert limit.broken_by(lambda name, other=other: other.get(name, ())) == ()
    assert limit.broken_by(lambda name: ()) == ()
    assert isinstance(load_target("generic-4d"), Target)
