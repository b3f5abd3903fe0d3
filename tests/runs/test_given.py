"""What a model writes to its arguments is kept by the result, or the proof fails; the user's own sample stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import convsurgeon

CHUNKS = torch.randn(3, 2, 4, 8)


class Cache:
    def __init__(self) -> None:
        self.last: torch.Tensor | None = None


class Slotted:
    __slots__ = ("__dict__", "last")

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None


@dataclass(eq=False)
class State:
    last: torch.Tensor | None = None


class Streams(nn.Module):
    """Keeps the end of what it sees in a cache that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        if cache.last is not None:
            x = torch.cat([cache.last, x], -1)
        cache.last = x[..., -2:]
        return torch.relu(self.conv(x))


class StreamsByName(Streams):
    """Likewise, in a dict that holds zeros."""

    def forward(self, x: torch.Tensor, cache: dict[str, torch.Tensor]) -> torch.Tensor:
        x = torch.cat([cache["last"], x], -1)
        cache["last"] = x[..., -2:]
        return torch.relu(self.conv(x))


class Tells(Streams):
    """Adds what it computed to a list or a dict that it is given."""

    def forward(self, x: torch.Tensor, told: Any) -> torch.Tensor:
        y = self.conv(x)
        if isinstance(told, list):
            told.append(y)
        else:
            told["conv"] = y
        return torch.relu(y)


def zeros() -> dict[str, torch.Tensor]:
    return {"last": torch.zeros(2, 4, 2)}


@pytest.mark.parametrize(
    ("model", "make"),
    [
        (Streams(), Cache),
        (Streams(), Slotted),
        (Streams(), State),
        (StreamsByName(), zeros),
        (Tells(), list),
        (Tells(), dict),
    ],
)
def test_what_is_written_to_an_argument_is_in_it(model: nn.Module, make: Callable[[], Any]) -> None:
    given, one, other = make(), make(), make()
    module = convsurgeon.convert(model.eval(), (CHUNKS[0], given)).module
    for chunk in CHUNKS:
        torch.testing.assert_close(module(chunk, other), model(chunk, one))
    if isinstance(one, (dict, list)):
        torch.testing.assert_close(other, one)
        torch.testing.assert_close(given, make())
    else:
        torch.testing.assert_close(other.last, one.last)
        assert given.last is None


def test_an_exported_graph_that_forgets_a_dict_is_refused() -> None:
    with pytest.raises(convsurgeon.CaptureError, match=r"writes to a container .* given \(input 1\['last'\]\)"):
        convsurgeon.convert(StreamsByName().eval(), (CHUNKS[0], zeros()), capture="export")


class Forgets(Streams):
    """What `Streams` computes in the first call, and nothing is written."""

    def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize(("writes", "forgets"), [(Streams(), Forgets()), (Forgets(), Streams())])
def test_the_proof_sees_what_is_written(writes: nn.Module, forgets: nn.Module) -> None:
    writes.load_state_dict(forgets.state_dict())
    found = convsurgeon.verify(writes, forgets, (CHUNKS[0], Cache()))
    assert not found.passed
    assert "input 1.last, as written to" in [one.what for one in found.comparisons if not one.passed]
    assert convsurgeon.verify(writes, writes, (CHUNKS[0], Cache()), gradients=True, train=True).passed


def test_a_cache_that_holds_tensors_is_judged_in_float64_too() -> None:
    cache = Cache()
    cache.last = kept = torch.ones(2, 4, 2)
    found = convsurgeon.convert(Streams().eval(), (CHUNKS[0], cache)).verification
    assert found is not None
    assert found.referee == "float64"
    assert cache.last is kept
    assert torch.equal(kept, torch.ones(2, 4, 2))


def test_an_object_that_can_not_be_copied_is_passed_on() -> None:
    class Uncopied(Cache):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there is one of me")

    seen: list[Any] = []

    class Looks(Streams):
        def forward(self, x: torch.Tensor, cache: Any) -> torch.Tensor:
            seen.append(cache)
            return torch.relu(self.conv(x))

    cache = Uncopied()
    convsurgeon.convert(Looks().eval(), (CHUNKS[0], cache), capture="islands")
    assert {id(one) for one in seen} == {id(cache)}


def test_a_sample_that_is_no_sample_is_refused() -> None:
    with pytest.raises(TypeError, match=r"args is a Tensor; accepted: .*Sample\(\(x,\)\)"):
        convsurgeon.Sample(CHUNKS[0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="kwargs is a tuple; accepted: a dict"):
        convsurgeon.Sample((CHUNKS[0],), (1,))  # type: ignore[arg-type]
