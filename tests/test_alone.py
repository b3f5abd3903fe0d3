"""Conversions in several threads wait for each other, and leave the process as it was."""

from __future__ import annotations

import inspect
import pickle
import sys
import threading
import time
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon
from convsurgeon.alone import alone
from convsurgeon.exact import rewrite_exactly

X = torch.randn(2, 3, 8)


class Slow(nn.Module):
    """Lets other threads run in the middle of its forward, while it is traced as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return self.conv(x)


class Chooses(Slow):
    """Python that can't be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if x.sum() < 1e9 else x


def of_the_process() -> list[Any]:
    return [
        torch.get_default_dtype(),
        nn.Module.__dict__["__call__"],
        nn.Module.__dict__["__getattr__"],
        torch.autograd.Function.__dict__["apply"],
        "apply" in vars(torch.autograd.function._SingleLevelFunction),
        sys.stdout,
        sys.stderr,
        list(warnings.filters),
        torch._C._len_torch_function_stack(),
    ]


def test_conversions_in_threads_wait_for_each_other_and_leave_the_process_as_it_was() -> None:
    before, errors = of_the_process(), []

    def work(model: nn.Module) -> None:
        try:
            for _ in range(3):
                conversion = convsurgeon.convert(model.eval(), X)
                assert len(conversion.plan.convolutions) == 1
                convsurgeon.plan(model, X)
                convsurgeon.fit(conversion.module, "ethos-u55", X)
        except BaseException as error:  # the test tells of it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in (Chooses(), Slow())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert of_the_process() == before


@pytest.mark.parametrize("entry", [convsurgeon.convert, convsurgeon.plan, convsurgeon.fit, rewrite_exactly])
def test_an_entry_that_waits_is_what_it_was_to_who_asks(entry: Any) -> None:
    assert pickle.loads(pickle.dumps(entry)) is entry
    assert entry.__doc__
    assert "args" not in inspect.signature(entry).parameters


def test_one_thread_may_enter_again_and_an_interruption_lets_the_next_in() -> None:
    entered = []

    @alone
    def nested(depth: int) -> None:
        entered.append(depth)
        if depth == 0:
            raise KeyboardInterrupt
        nested(depth - 1)

    with pytest.raises(KeyboardInterrupt):
        nested(2)
    other = threading.Thread(target=alone(entered.append), args=(9,), daemon=True)
    other.start()
    other.join(timeout=10)
    assert entered == [2, 1, 0, 9]
