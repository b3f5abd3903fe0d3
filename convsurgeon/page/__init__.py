"""The report as a page: two lanes, 1-D and 2-D, with every node in order. Knows how things look and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import jinja2
from torch import fx, nn

from convsurgeon.capture import modules_of
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN, Origin
from convsurgeon.exact import REWRITES
from convsurgeon.parts import Part
from convsurgeon.planning import LiftedOperator, Plan
from convsurgeon.spellings import module_of, operator_name
from convsurgeon.verification.nodes import NodeValue, node_values

if TYPE_CHECKING:
    from convsurgeon.conversion import Conversion

Kind = Literal["input", "output", "tensor", "lifted", "kept", "plain", "lift", "lower", "layout", "rewritten"]


@dataclass(frozen=True, slots=True)
class Row:
    """One node of the converted graph, as the page shows it; `note` says why it is there, or stays 1-D."""

    name: str
    operator: str
    kind: Kind
    lane: Literal["1d", "2d"]
    shape: str
    note: str
    source: str
    error: float | None
    original_error: float | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows that follow each other in one lane, for the overview."""

    lane: Literal["1d", "2d"]
    first: int
    count: int
    ops: int


def conversion_page(conversion: Conversion) -> str:
    """The page, complete in itself: styles, script and data are inside, and nothing is fetched."""
    rows = [row for part, plan in conversion.planned for row in _rows(conversion.module, part, plan)]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("convsurgeon", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"error": _error_text, "bar": _bar, "shape": _shape_text}
    return environment.get_template("page.html.jinja").render(
        c=conversion,
        plan=conversion.plan,
        rows=rows,
        stretches=list(_stretches(rows)),
        baked=[entry for entry in conversion.weight_map.entries if entry.baked],
        moving=[entry for entry in conversion.weight_map.entries if entry.moves],
        borders=[border for border in conversion.plan.borders if not border.constant],
    )


def _rows(model: nn.Module, part: Part, plan: Plan) -> Iterable[Row]:
    module = model.get_submodule(part.path)
    assert isinstance(module, ConvertedModule)
    modules = modules_of(module)
    lifted = {one.node: one for one in plan.lifted}
    kept = {one.node: one for one in plan.kept}
    reasons = {(border.value, border.direction): border.reason for border in plan.borders}
    for node, value in _values(module, part):
        origin: Origin = node.meta[ORIGIN]
        kind = _kind(node, origin, lifted, kept)
        name, operator, note, source = origin.node, "", "", ""
        if kind in ("lift", "lower"):
            note = reasons.get((origin.node, "lift" if kind == "lift" else "lower"), "")
        elif kind in ("layout", "rewritten"):
            name, operator = part.captured.qualified(module_of(node)) or origin.node, operator_name(node, modules)
            rewritten = kind == "rewritten"
            note = f"by the exact rewrite {origin.rule}" if rewritten else "keeps the strides that the 1-D value has"
        elif kind in ("input", "tensor"):
            name = part.captured.qualified(str(node.target))
        elif kind != "output":
            name, operator = part.captured.qualified(module_of(node)) or node.name, operator_name(node, modules)
        if kind == "lifted":
            operator = _change(lifted[node.name])
        elif kind == "kept":
            note, source = kept[node.name].reason, kept[node.name].source
        text = _value_text(value)
        yield Row(name, operator, kind, origin.form, text, note, source, value.error, value.original_error)


def _change(one: LiftedOperator) -> str:
    return one.operator if one.operator == one.becomes else f"{one.operator} \N{RIGHTWARDS ARROW} {one.becomes}"


def _values(module: ConvertedModule, part: Part) -> Iterable[tuple[fx.Node, NodeValue]]:
    """The nodes with their values on the first sample; without one, the nodes alone."""
    if not part.samples:
        return ((node, NodeValue(None, "")) for node in module.graph.nodes)
    return node_values(part.captured, module, part.samples[0])


def _kind(node: fx.Node, origin: Origin, lifted: Container[str], kept: Container[str]) -> Kind:
    if origin.rule == "border":
        return "lift" if origin.form == "2d" else "lower"
    if not node.op.startswith("call"):
        return _ENDS[node.op]
    if origin.rule in REWRITES:
        return "rewritten"
    if origin.node != node.name:
        return "layout"
    return "lifted" if node.name in lifted else "kept" if node.name in kept else "plain"


_ENDS: dict[str, Kind] = {"placeholder": "input", "output": "output", "get_attr": "tensor"}


_OPERATORS = ("lifted", "kept", "plain", "rewritten")


def _stretches(rows: list[Row]) -> Iterable[Stretch]:
    at = 0
    for lane, group in groupby(rows, key=lambda row: row.lane):
        members = list(group)
        yield Stretch(lane, at, len(members), sum(row.kind in _OPERATORS for row in members))
        at += len(members)


def _value_text(value: NodeValue) -> str:
    return value.dtype if value.shape is None else f"{_shape_text(value.shape)} {value.dtype}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape)) if shape else "one number"


def _error_text(error: float | None) -> str:
    return "" if error is None else "0" if error == 0 else f"{error:.0e}".replace("e-0", "e-")


def _bar(error: float | None) -> int:
    """The length of an error's bar in percent: 1e-17 and less is nothing, 1 and more is all."""
    return 0 if not error else max(2, min(100, round(100 * (17 + math.log10(error)) / 17)))
