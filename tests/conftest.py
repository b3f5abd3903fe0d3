"""Settings that every test shares."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch

collect_ignore_glob = ["accelerators/worker_*.py"]  # they run in environments of their own

torch.set_num_threads(1)  # these models are small: more threads only wait for each other

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    """Every test draws the same weights and inputs, alone or in any order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
