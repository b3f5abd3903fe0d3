"""The models that are timed are what their table says; that they convert, the benchmark shows."""

from __future__ import annotations

import pytest
import torch
from models.full_size import FULL_SIZE, FullSize, is_depthwise_heavy

pytest.importorskip("transformers", reason="pip install .[models]")
pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]  # what the packages warn of is theirs


@pytest.mark.parametrize("architecture", [pytest.param(one, id=one.name) for one in FULL_SIZE])
def test_what_is_called_depthwise_heavy_is(architecture: FullSize) -> None:
    with torch.device("meta"):
        model = architecture.build()
    assert is_depthwise_heavy(model) == architecture.depthwise_heavy
