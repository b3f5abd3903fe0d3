"""Limits that a profile calls confirmed are: a compiler takes an operator on one side, and does as told on the other.

The operators are made from the limits, so that a limit that changes is held against the compiler anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from accelerators.environments import EXECUTORCH, LITERT, python_with, rows
from accelerators.limit_cases import cases_of

import convsurgeon
from convsurgeon.targets import Limit, load_target

pytestmark = [pytest.mark.slow, pytest.mark.toolchains, pytest.mark.xdist_group("limits")]
Row = dict[str, Any]


def _confirmed(*names: str) -> list[Any]:
    """The limits of these profiles that are to be seen here."""
    return [
        pytest.param(name, limit, id=f"{name}, {at}, {limit.quantity}")
        for name in names
        for at, limit in enumerate(load_target(name).limits)
        if limit.confirmed and limit.confirmed.section == "tests/accelerators/test_limits.py"
    ]


@pytest.fixture(scope="module")
def vela(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Row]]:
    python = python_with(*LITERT)
    return rows(python, "worker_limits_vela.py", str(tmp_path_factory.mktemp("vela")))


@pytest.fixture(scope="module")
def xnnpack() -> dict[str, dict[str, Row]]:
    return rows(python_with(*EXECUTORCH), "worker_limits_executorch.py")


def _around(row: Row) -> int:
    """Operators that only lay values out: one before and one after, where litert-torch goes to channels-last."""
    return sum(name in ("TRANSPOSE", "RESHAPE") for name in row["operators"])


VELA: dict[str, Callable[[Row], bool]] = {
    "": lambda row: not row["refused"] and not row["cpu"] and _around(row) <= 2,
    "runs on the CPU": lambda row: bool(row["cpu"]),
    "runs on the CPU, or vela fails where the padding isn't TFLite's SAME": lambda row: bool(row["cpu"]),
    "litert-torch refuses the model": lambda row: row["refused"],
    "litert-torch wraps it in reshapes": lambda row: not row["cpu"] and _around(row) == 4,
}
XNNPACK: dict[str, Callable[[Row], bool]] = {
    "": lambda row: not row["outside"] and "XNNStaticReshape" not in row["inside"],
    "isn't delegated": lambda row: bool(row["outside"]) and not row["inside"],
    "each is wrapped in unsqueeze and squeeze": lambda row: row["inside"].count("XNNStaticReshape") == 2,
    "stands between an unsqueeze and a squeeze that aren't delegated": lambda row: (
        row["outside"] == ["aten.unsqueeze_copy.default", "aten.squeeze_copy.dims"] and bool(row["inside"])
    ),
}
"""How what a profile tells shows in what the compilers print; "" is an operator that is taken as it is."""


def _hold(name: str, limit: Limit, found: dict[str, dict[str, Row]], tells: dict[str, Callable[[Row], bool]]) -> None:
    target = load_target(name)
    cases = cases_of(target, limit)
    assert {case.side for case in cases} == {"within", "beyond"}
    assert {case.family for case in cases} == set(limit.families)
    for case in cases:
        module, x = case.built()
        fits = convsurgeon.fit(module, target, x).fits
        row = found[name][str(case)]
        assert fits == tells[""](row), f"{case}: {row}"
        assert fits or tells[limit.effect](row), f"{case}: {row}"


@pytest.mark.xdist_group("vela")
@pytest.mark.parametrize(("name", "limit"), _confirmed("ethos-u55", "ethos-u65", "ethos-u85"))
def test_vela_keeps_to_the_limit(vela: dict[str, dict[str, Row]], name: str, limit: Limit) -> None:
    _hold(name, limit, vela, VELA)


@pytest.mark.xdist_group("executorch")
@pytest.mark.parametrize(("name", "limit"), _confirmed("xnnpack"))
def test_executorch_keeps_to_the_limit(xnnpack: dict[str, dict[str, Row]], name: str, limit: Limit) -> None:
    _hold(name, limit, xnnpack, XNNPACK)


def test_every_limit_of_these_compilers_is_confirmed() -> None:
    names = ("ethos-u55", "ethos-u65", "ethos-u85", "xnnpack")
    assert len(_confirmed(*names)) == sum(len(load_target(name).limits) for name in names)
