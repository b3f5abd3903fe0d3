"""An export that takes too long ends, at whatever moment that is, and nothing of the limit is left behind."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import convsurgeon
from convsurgeon.capture import by_export
from convsurgeon.capture.exporting import OPEN_WAYS
from convsurgeon.capture.limit import OutOfTime, time_limit


def _forever() -> None:
    graph = fx.Graph()
    while True:
        graph.placeholder("x")


def _end_by_itself() -> None:
    with pytest.raises(OutOfTime), time_limit(0.02):
        _forever()


def test_code_that_handles_it_ends_at_the_next_point() -> None:
    with time_limit(0.02):
        for _ in range(3):
            with pytest.raises(OutOfTime):
                _forever()


def test_only_the_thread_that_set_it_is_limited() -> None:
    nodes: list[fx.Node] = []
    with time_limit(-1):
        thread = threading.Thread(target=lambda: nodes.append(fx.Graph().placeholder("x")))
        thread.start()
        thread.join()
    assert len(nodes) == 1


def test_limits_of_threads_that_end_in_another_order_are_over() -> None:
    points = fx.Graph.create_node, ShapeEnv.evaluate_expr
    mine, entered, left = time_limit(0), threading.Event(), threading.Event()

    def other() -> None:
        with time_limit(60):
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=other)
    try:
        with mine:
            thread.start()
            entered.wait(60)
        left.set()
        thread.join()
        fx.Graph().placeholder("x")
    finally:
        fx.Graph.create_node, ShapeEnv.evaluate_expr = points  # type: ignore[method-assign]


def test_nothing_is_left_of_a_limit() -> None:
    before = vars(fx.Graph)["create_node"], vars(ShapeEnv)["evaluate_expr"]
    _end_by_itself()
    assert (vars(fx.Graph)["create_node"], vars(ShapeEnv)["evaluate_expr"]) == before
    fx.Graph().placeholder("x")


def test_a_profiler_runs_after_a_limit() -> None:
    seen: list[Any] = []
    _end_by_itself()
    before = sys.getprofile()
    sys.setprofile(lambda *event: seen.append(event))
    try:
        (lambda: abs(-1))()
    finally:
        sys.setprofile(before)
    assert len(seen) >= 4


@pytest.mark.parametrize("way", OPEN_WAYS, ids=lambda way: way.name)
def test_an_export_is_refused_whenever_its_time_is_over(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(10)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 4, 16)

    def exported(limit_s: float) -> float:
        monkeypatch.setattr(by_export, "ALL_WAYS", (replace(way, limit_s=limit_s),))
        start = time.perf_counter()
        convsurgeon.plan(model, x, capture="export")
        return time.perf_counter() - start

    exported(60)  # what torch imports at first takes its time
    whole = min(exported(60) for _ in range(3)) / 2  # it exports in both modes; the machine may be busy
    for part in range(6):
        with pytest.raises(convsurgeon.CaptureError, match="OutOfTime: it took too long"):
            exported(whole * part / 24)
