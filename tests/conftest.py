"""Settings that every test shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from accelerators.environments import make_all_apart

collect_ignore_glob = ["accelerators/worker_*.py"]  # they run in environments of their own

torch.set_num_threads(1)  # these models are small: more threads only wait for each other

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.hookimpl(trylast=True)  # behind what -m and -k leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs toolchains in environments of their own comes last, and these are begun first."""
    items.sort(key=lambda item: item.get_closest_marker("toolchains") is not None)
    last = items and items[-1].get_closest_marker("toolchains")
    alone = getattr(config, "workerinput", {"workerid": "gw0"})["workerid"] == "gw0"
    if last and alone and not config.option.collectonly:
        config.stash[_MAKING] = make_all_apart()


_MAKING = pytest.StashKey[Any]()


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    """Every test draws the same weights and inputs, alone or in any order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
