"""Whatever layouts and rewrites are chosen, the tuned module computes what the original does, at other sizes too."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_random_networks import Network, networks
from tuning.chance import by_chance, clock

import convsurgeon
from convsurgeon.samples import Sample
from convsurgeon.tuning.proof import proven


@pytest.mark.slow
@settings(max_examples=150)
@given(
    networks,
    st.sampled_from([-2, -1]),
    st.sampled_from(["1d", "2d"]),
    st.booleans(),
    st.sampled_from([1, 2]),
    st.integers(0, 10**6),
)
def test_a_random_network_is_equal_however_it_is_laid_out(
    steps: list[tuple[str, int, int]], unit_axis: int, io: str, transposed: bool, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = Network(steps).eval()
    x, other = torch.randn(batch, 3, 8), torch.randn(3, 3, 12)
    if transposed:
        x, other = (one.mT.contiguous().mT for one in (x, other))
    with contextlib.suppress(RuntimeError):
        model(x.clone())
        model(other.clone())
        conversion = convsurgeon.convert(model, x, unit_axis=unit_axis, io=io)
        with clock(by_chance(seed)), warnings.catch_warnings():
            warnings.simplefilter("error")  # what would compute something else is told of in a warning
            tuned = convsurgeon.tune(conversion)
        assert tuned.tuning is not None
        for sample in (x, other):
            found, gradients = proven(model, tuned.module, (Sample((sample,)),), None, tuned.exact.baked, again=False)
            found.require()
            assert gradients.passed, str(gradients)
