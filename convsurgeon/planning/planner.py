"""Decides the form of every value: asks the tables about each node, then cuts. Knows the graph and no operator."""

from __future__ import annotations

from typing import Literal

from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Capture
from convsurgeon.lifting import Candidate, consider, marks_an_input
from convsurgeon.planning.ends import Ends
from convsurgeon.planning.gradients import aligned_operands
from convsurgeon.planning.ownership import Ownership
from convsurgeon.planning.plan import CaptureNote, Kept, LiftedOperator, Plan
from convsurgeon.planning.selection import Selection
from convsurgeon.planning.strides import follows_layout, restored_operands
from convsurgeon.planning.values import Forms, Survey, ValueGraph
from convsurgeon.rules import Lifted, Refusal
from convsurgeon.runs.observe import Facts, has_form
from convsurgeon.spellings import ModuleSpelling, module_of, operator_name


def make_plan(
    capture: Capture,
    facts: Facts | None,
    *,
    lift: Literal["regions", "ops"],
    io: Literal["1d", "2d"],
    unit_axis: Literal[-2, -1],
    square: bool,
    selection: Selection,
) -> Plan:
    """Plan the conversion of a captured graph from the `facts` of one run; without them, each convolution alone."""
    axis = UnitAxis(unit_axis, square)
    ownership = Ownership(capture)
    survey = _survey(capture, facts, axis, selection.inside(capture.path))
    if io == "1d":
        for node in filter(marks_an_input, capture.graph.nodes):
            survey.refuse(node, "it marks an input, which the caller holds in 1-D")
    _settle(survey, facts, ownership, capture)
    graph = ValueGraph(capture, facts, axis, survey, ownership, open_ends=io == "2d")
    regions = lift == "regions" and facts is not None
    forms = graph.in_regions() if regions else graph.alone()
    ends = Ends(capture, facts, axis, forms, open_ends=io == "2d")
    borders = tuple(ends.borders())
    lowered = [border.value for border in borders if border.direction == "lower"]
    steps = {node.name: forms.lifted[node] for node in capture.graph.nodes if node in forms.lifted}
    return Plan(
        capture=CaptureNote(capture.how, capture.mode, capture.reason, admits=capture.admits),
        lift="regions" if regions else "ops",
        io=io,
        unit_axis=unit_axis,
        square=square,
        ports=tuple(ends.ports()) if io == "2d" else (),
        lifted=tuple(
            _lifted(node, forms.lifted[node], capture) for node in capture.graph.nodes if node in forms.lifted
        ),
        borders=borders,
        kept=tuple(_kept(survey, forms, capture, facts, axis, regions=regions)),
        moved=graph.moved(forms),
        steps=steps,
        two_d=frozenset(node.name for node in forms.two_d),
        restored={
            **dict(restored_operands(survey.candidates, forms.lifted, capture.graph, facts, axis)),
            **dict(aligned_operands(forms.lifted, lowered, capture.graph)),
        },
    )


def _survey(capture: Capture, facts: Facts | None, axis: UnitAxis, selection: Selection) -> Survey:
    survey = Survey()
    resized = set() if facts is None else {operand for fact in facts.values() for operand in fact.resized}
    for node in capture.graph.nodes:
        if not node.op.startswith("call"):
            continue
        candidate = consider(node, facts, capture.modules, axis)
        if isinstance(candidate, Refusal):
            survey.refusals[node] = candidate.reason
            continue
        survey.candidates[node] = candidate
        reason = selection.refuses(node, convolution=candidate.rule.must)
        if reason is None and (node in resized or not resized.isdisjoint(node.all_input_nodes)):
            reason = "an in-place operator changes the shape of its result, or of what it takes"
        if reason is None and follows_layout(node, candidate, facts, axis):
            reason = "its result follows the layout of what it takes, and would not with the unit axis last"
        if reason is not None:
            survey.refuse(node, reason)
    return survey


def _settle(survey: Survey, facts: Facts | None, ownership: Ownership, capture: Capture) -> None:
    """Keep 1-D what others that stay 1-D keep so, until nothing more follows."""
    while True:
        before = len(survey.candidates)
        if facts is not None:
            _refuse_loose_tuples(survey, facts)
        _refuse_pinned(survey, ownership, capture)
        if len(survey.candidates) == before:
            return


def _refuse_loose_tuples(survey: Survey, facts: Facts) -> None:
    """Keep a tuple of values 1-D unless it is only ever taken apart in the graph: a border changes one value."""
    for node, seen in facts.items():
        if not seen.items:
            continue
        items = [user for user in node.users if user in survey.candidates and survey.candidates[user].rule.unpacks]
        loose = next((user for user in node.users if user not in items), None)
        candidate = survey.candidates.get(node)
        if candidate is not None and loose is not None and candidate.way(Lifted) is not None:
            survey.refuse(node, f"what it returns is used as a whole, by {loose.name}")
        if node not in survey.candidates:
            for user in items:
                survey.refuse(user, f"it comes from {node.name}, which stays 1-D")


def _refuse_pinned(survey: Survey, ownership: Ownership, capture: Capture) -> None:
    """Keep a module 1-D whose weight is also that of one that stays, or whose calls would be lifted differently."""
    calls: dict[int, list[fx.Node]] = {}
    for node in capture.graph.find_nodes(op="call_module"):
        calls.setdefault(id(capture.modules[str(node.target)]), []).append(node)
    read = {str(node.target) for node in capture.graph.find_nodes(op="get_attr")}
    while True:
        lifted = {key for key, nodes in calls.items() if all(node in survey.candidates for node in nodes)}
        refused = []
        for key, nodes in calls.items():
            known = [node for node in nodes if node in survey.candidates]
            replaced = [node for node in known if survey.candidates[node].replaces_module]
            if replaced and key not in lifted:
                why = next(filter(None, map(survey.refusals.get, nodes)))
                refused += [(node, f"another call of {node.target} stays 1-D: {why}") for node in replaced]
            elif len(replaced) > 1 and len({_ways(survey.candidates[node]) for node in known}) > 1:
                refused += [
                    (node, f"{node.target} is called on values of different ranks, or with axes that differ")
                    for node in known
                ]
        called = [one for node, one in survey.candidates.items() if node.op == "call_module"]
        moving = {id(ownership.tensor(name)) for one in called for name in one.state}
        for node, candidate in survey.candidates.items():
            for name in candidate.state:
                tensor = ownership.tensor(name)
                holder = ownership.pinned_by(tensor, lifted, moving)
                names = ownership.names(tensor)
                if holder is None and not candidate.rule.must and (len(names) > 1 or not read.isdisjoint(names)):
                    holder = "is used elsewhere too"
                if holder is not None:
                    refused.append((node, f"its {name.rpartition('.')[2]} {holder}"))
        for node, reason in refused:
            survey.refuse(node, reason)
        if not refused:
            return


def _ways(candidate: Candidate) -> str:
    """How a called module would be replaced: what only its call is given is changed in each call alone."""
    settings = candidate.spelling.settings if isinstance(candidate.spelling, ModuleSpelling) else ()
    changes = [{name: way.changes.get(name) for name in settings} for way in candidate.ways]
    return repr([(type(way).__name__, way.operator, held) for way, held in zip(candidate.ways, changes, strict=True)])


def _lifted(node: fx.Node, candidate: Candidate, capture: Capture) -> LiftedOperator:
    name = operator_name(node, capture.modules)
    becomes = name if candidate.spelling is None else candidate.spelling.lifted_name(candidate.lifted) or name
    return LiftedOperator(node.name, capture.qualified(module_of(node)), name, becomes, candidate.rule.operator)


def _kept(
    survey: Survey, forms: Forms, capture: Capture, facts: Facts | None, axis: UnitAxis, *, regions: bool
) -> list[Kept]:
    """The operators that could be expected in 2-D and aren't; without regions only convolutions could be."""
    kept = []
    for node in capture.graph.nodes:
        if not node.op.startswith("call") or node in forms.lifted:
            continue
        reason = survey.refusals.get(node, "lifting it would add borders, or no convolution is near")
        operator = operator_name(node, capture.modules)
        candidate = survey.candidates.get(node)
        asks = candidate is not None and candidate.rule.query
        touches = any(has_form(one, facts, axis) for one in (node, *node.all_input_nodes))
        if touches and not asks and (regions or "conv" in operator.lower()):
            kept.append(Kept(node.name, capture.qualified(module_of(node)), operator, reason, _source(node)))
    return kept


def _source(node: fx.Node) -> str:
    """The user's innermost line, as file:line."""
    if not node.stack_trace:
        return ""
    lines = [line.strip() for line in node.stack_trace.splitlines() if line.strip().startswith("File ")]
    if not lines:
        return ""
    file, line, *_ = lines[-1].removeprefix("File ").split(", ")
    return f"{file.strip(chr(34))}:{line.removeprefix('line ')}"
