"""The page: complete in itself, every node in its lane, with its error; and written whole or not at all."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from support import Decays, DecaysBehindTorchsBack, assert_same, states_of
from torch import nn

import convsurgeon
from convsurgeon.converted.origin import ORIGIN

VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """What a browser would see: rows of the graph by id, with their classes and words; tags that don't fit fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: dict[str, tuple[list[str], str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert not any(name in given for name in ("src", "srcset")), "nothing is fetched"
        assert (given.get("href") or "#").startswith("#")
        if "r" in (given.get("class") or "").split():
            self.rows[str(given["id"])] = (str(given["class"]).split(), "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and "script" not in self.open:
            name = list(self.rows)[-1]
            classes, text = self.rows[name]
            self.rows[name] = classes, f"{text}{data}"


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(5, 2, 1)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.inp(x)).transpose(1, 2)
        return self.out(self.lstm(y)[0].transpose(1, 2))


def page_of(conversion: convsurgeon.Conversion, folder: Path) -> tuple[Page, str]:
    conversion.to_html(folder / "page.html")
    text = (folder / "page.html").read_text(encoding="utf-8")
    return Page(text), text


def test_every_node_stands_in_its_lane_with_its_error(tmp_path: Path) -> None:
    conversion = convsurgeon.convert(Mixed(), torch.randn(2, 2, 12))
    page, text = page_of(conversion, tmp_path)
    nodes = list(conversion.module.graph.nodes)
    assert len(page.rows) == len(nodes)
    for node, (classes, words) in zip(nodes, page.rows.values(), strict=True):
        origin = node.meta[ORIGIN]
        if origin.rule == "border":
            assert classes[1:] == ["x", "lift" if origin.form == "2d" else "lower"]
            assert "in 2-D" in words or "stays 1-D" in words or "an output" in words
        else:
            assert classes[-1] == f"l{origin.form}"
        if "lifted" in classes:
            assert re.search(r"\de-\d|\b0 \(", words), words
        if "kept" in classes:
            assert "test_page.py:" in words
    assert "Conv1d → Conv2d" in text
    assert " \N{MULTIPLICATION SIGN} ".join(["2", "4", "1", "12"]) + " float32" in text
    assert "inp.weight" in text
    assert "judged by a float64 run" in text


def test_the_errors_are_those_of_the_values() -> None:
    model, x = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 1)), torch.randn(2, 2, 12)
    module = convsurgeon.convert(model, x, copy_weights=True)
    with torch.no_grad():
        module.module.get_submodule("1").weight.mul_(1.5)
    from convsurgeon.verification.nodes import node_values

    found = {node.name: value for node, value in node_values(module.planned[0][0].captured, module.module, x_sample(x))}
    assert found["_0"].error is not None
    assert found["_0"].error < 1e-6
    assert found["_1"].error is not None
    assert 0.1 < found["_1"].error < 1
    assert found["_1"].original_error is not None
    assert found["_1"].original_error < 1e-6


def x_sample(x: torch.Tensor) -> convsurgeon.Sample:
    return convsurgeon.Sample((x,), {})


def test_names_that_look_like_html_are_text(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<img src=x onerror=alert(1)>", nn.Conv1d(2, 2, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return next(iter(self.children()))(x)

    Odd.__name__ = "<script>alert(1)</script>"
    _, text = page_of(convsurgeon.convert(Odd(), torch.randn(1, 2, 5)), tmp_path)
    assert "<img" not in text
    assert "<script>alert" not in text


def test_a_conversion_without_samples_has_a_page_without_shapes(tmp_path: Path) -> None:
    page, text = page_of(convsurgeon.convert(Mixed(), verify=False), tmp_path)
    assert "not verified" in text
    assert any("lifted" in classes for classes, _ in page.rows.values())


def test_a_model_that_can_not_run_in_float64_is_shown_against_itself(tmp_path: Path) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 1)
            self.register_buffer("mask", torch.full((6,), -16, dtype=torch.int32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.conv(x).view(torch.int32) & self.mask).view(torch.float32)

    page, text = page_of(convsurgeon.convert(Single(), torch.randn(1, 2, 6)), tmp_path)
    assert "can&#39;t run in float64" in text
    assert re.search(r"0 \(0\)", list(page.rows.values())[-1][1])


def test_a_large_graph_makes_a_small_page(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Conv1d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.two(torch.relu(self.norm(self.one(x))))

    conversion = convsurgeon.convert(nn.Sequential(*[Block() for _ in range(340)]).eval(), torch.randn(1, 2, 6))
    page, text = page_of(conversion, tmp_path)
    assert len(page.rows) > 1700
    assert len(text.encode()) < 3e6


def test_a_page_that_can_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    conversion = convsurgeon.convert(Mixed(), torch.randn(2, 2, 12))
    with pytest.raises(OSError, match="nowhere"):
        conversion.to_html(tmp_path / "nowhere" / "page.html")
    conversion.to_html(tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_page_leaves_no_trace_in_either_model(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(torch.dropout(x, 0.5, True)))

    model = Counts()
    conversion = convsurgeon.convert(model, torch.randn(4, 2, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    conversion.to_html(tmp_path / "page.html")
    assert torch.equal(stream, torch.get_rng_state())
    for module in (model, conversion.module):
        for name, value in module.state_dict().items():
            assert torch.equal(value.reshape(-1), before[name].reshape(-1)), name


@pytest.mark.parametrize("kind", [Decays, DecaysBehindTorchsBack])
@pytest.mark.parametrize("copy_weights", [False, True])
def test_weights_that_forward_writes_are_not_the_models(tmp_path: Path, kind: type[Decays], copy_weights: bool) -> None:
    model = kind().eval()
    conversion = convsurgeon.convert(model, torch.randn(2, 4, 12), copy_weights=copy_weights)
    before = states_of(conversion, model)
    page, _ = page_of(conversion, tmp_path)
    assert_same(states_of(conversion, model), before)
    errors = [float(one) for _, words in page.rows.values() for one in re.findall(r"\de-\d+", words)]
    assert max(errors, default=0.0) < 1e-5


def test_what_exact_rewrites_made_is_told(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 9), nn.BatchNorm1d(4), nn.ReLU()).eval()
    for rewrite in ("split_kernel:4", "fold_batch_norm"):
        conversion = convsurgeon.convert(model, torch.randn(1, 2, 60), exact=[rewrite])
        page, text = page_of(conversion, tmp_path)
        assert "no number changes" not in text
        assert "in number or shape" in text
        rewritten = [words for classes, words in page.rows.values() if "rewritten" in classes]
        assert rewritten
        assert all(f"by the exact rewrite {rewrite.partition(':')[0]}" in words for words in rewritten)
        assert not any("keeps the strides" in words for words in rewritten)
    assert not any("BatchNorm" in words for _, words in page.rows.values())
    assert {one["name"] for one in conversion.to_json()["weights"] if one["baked"]} == set(conversion.exact.baked)
