"""Runs graphs node by node in the place of the modules that they are captured from, and times each node."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from torch import fx, nn

from convsurgeon.runs.observe import GraphRun
from convsurgeon.samples import Sample
from convsurgeon.timing import Timing, finish

Key = tuple[str, str]
"""A node: the path of the submodule whose graph it is in, and its name."""


class Watch:
    """The seconds of each node, added up over a call of the whole model, which may call a submodule often."""

    def __init__(self) -> None:
        self._calls: list[dict[Key, float]] = []

    def watch(self, model: nn.Module, path: str, graph: fx.Graph) -> None:
        """Let the submodule at `path` run `graph` by its nodes when it is called."""
        module = model.get_submodule(path)

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = None
            for _, result in _TimedRun(module, graph, Sample(args, kwargs), path, self._calls[-1]).steps():  # noqa: B007
                pass  # no value is held longer than the graph needs it: what is let go is memory for the next
            return graph.process_outputs(result)

        module.__dict__["forward"] = forward

    def counting(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """`call`, which the seconds of its nodes are told apart by."""

        def counted() -> Any:
            self._calls.append({})
            return call()

        return counted

    def seconds(self, rounds: int) -> dict[Key, list[float]]:
        """The seconds of each node in the last so many calls."""
        last = self._calls[-rounds:]
        return {key: [call.get(key, 0.0) for call in last] for call in last for key in call}


class _TimedRun(GraphRun):
    """A run that notes how long each call of an operator takes, and nothing around it."""

    def __init__(self, root: nn.Module, graph: fx.Graph, sample: Sample, path: str, seconds: dict[Key, float]) -> None:
        super().__init__(root, graph, sample)
        self._path = path
        self._seconds = seconds

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._timed(super().call_function, target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._timed(super().call_method, target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._timed(super().call_module, target, args, kwargs)

    def _timed(self, run: Callable[..., Any], *given: Any) -> Any:
        assert self.at is not None
        value, taken = _timed(run, *given)
        key = self._path, self.at.name
        self._seconds[key] = self._seconds.get(key, 0.0) + taken
        return value


def _timed(run: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    finish()
    start = perf_counter()
    value = run(*given)
    finish()
    return value, perf_counter() - start


def blank() -> float:
    """The seconds that an operator takes which does nothing."""
    return Timing(tuple(_timed(lambda *_: None, 0, 0, 0)[1] for _ in range(1000))).median
