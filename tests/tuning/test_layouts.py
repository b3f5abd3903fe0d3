from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convsurgeon.tuning.layouts import LAYOUTS, has_layout, laid_out, layout_of, other
from convsurgeon.tuning.survey import weight_laid_out

shapes = st.lists(st.integers(1, 4), min_size=3, max_size=4).map(tuple)


@given(shapes, st.sampled_from(LAYOUTS))
def test_a_value_has_the_layout_that_it_is_brought_into(shape: tuple[int, ...], layout: str) -> None:
    value = torch.randn(shape)
    new = laid_out(value, layout)
    assert torch.equal(new, value)
    assert layout_of(new) in (None, layout)
    assert laid_out(new, layout) is new
    back = laid_out(new, other(layout))
    assert torch.equal(back, value)
    assert (back is new) == (layout_of(new) is None)


def test_layouts_are_those_of_torch() -> None:
    x = torch.randn(2, 3, 1, 5)
    assert layout_of(x.contiguous(memory_format=torch.channels_last)) == "last"
    assert layout_of(x) == layout_of(x[..., 1:4]) == layout_of(x.mT) == "plain"
    assert laid_out(x, "last").is_contiguous(memory_format=torch.channels_last)
    assert layout_of(torch.randn(2, 5, 3).mT) == layout_of(torch.randn(2, 5, 3).mT.unsqueeze(2)) == "last"
    assert layout_of(torch.randn(2, 1, 1, 5)) is layout_of(torch.randn(2, 3, 1, 1)) is None


def test_only_values_of_one_rank_have_a_layout() -> None:
    assert has_layout(torch.zeros(2, 3, 4), "1d")
    assert has_layout(torch.zeros(2, 3, 1, 4), "2d")
    for value, form in ((torch.zeros(3, 4), "1d"), (torch.zeros(3, 1, 4), "2d"), ([1], "1d"), (None, "2d")):
        assert not has_layout(value, form)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 3, 1, 5), (4, 1, 1, 5), (4, 3, 1, 1), (4, 3, 5, 1)])
def test_a_weight_in_channels_last_says_so_by_its_strides(shape: tuple[int, ...]) -> None:
    weight = torch.nn.Parameter(torch.randn(shape), requires_grad=False)
    new = weight_laid_out(weight, "last")
    assert isinstance(new, torch.nn.Parameter)
    assert not new.requires_grad
    assert torch.equal(new, weight)
    assert new.stride(1) == 1
    assert torch._prims_common.suggest_memory_format(new) is torch.channels_last
    assert new.data_ptr() != weight.data_ptr()
    assert weight_laid_out(weight, "plain") is weight
