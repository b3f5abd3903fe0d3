"""The report for people: plain text in 80 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from convsurgeon.planning.plan import Kept, LiftedOperator, Plan

if TYPE_CHECKING:
    from convsurgeon.conversion import Conversion
    from convsurgeon.exact import Notes
    from convsurgeon.fitting import Fit

_WIDTH = 80
_SHOWN = 12


def plan_text(plan: Plan) -> str:
    """What is computed in 2-D, where the borders are, what stays 1-D and why."""
    return "\n".join(
        (
            *_field("captured by", [str(plan.capture), *(f"  before that: {one}" for one in plan.capture.before)]),
            *_field("converted", _converted(plan)),
            *_field("borders", _borders(plan)),
            *(_field("4-D", [str(port) for port in plan.ports] or ["no input or output"]) if plan.io == "2d" else ()),
            *(_field("in place", _in_place(plan)) if plan.in_place else ()),
            *_field("kept 1-D", _kept(plan.kept)),
        )
    )


def conversion_text(conversion: Conversion) -> str:
    """The plan, the weights that moved, and the proof."""
    verification = conversion.verification
    moving = [entry for entry in conversion.weight_map.entries if entry.moves]
    weights = [
        f"{len(moving)} of {len(conversion.weight_map.entries)} state_dict entries gain an axis, under their names"
    ]
    weights += [f"  {e.name}: {list(e.shape_1d)} -> {list(e.shape_2d)}" for e in moving[:3]]
    weights += [f"  and {len(moving) - 3} more"] if len(moving) > 3 else []
    proof = "not verified (verify=False)" if verification is None else str(verification)
    return "\n".join(
        (
            f"convsurgeon: {conversion.weight_map.model}",
            plan_text(conversion.plan),
            *_field("weights", weights),
            *_field("exact", _exact(conversion.exact)),
            *_field("target", _target(conversion.fit)),
            *_field("tuned", [] if conversion.tuning is None else list(conversion.tuning.lines())),
            *_field("verified", proof.splitlines()),
        )
    )


def _exact(notes: Notes) -> list[str]:
    """What exact rewrites did, and what they left; nothing where none was asked for."""
    several = notes.rewritten, notes.left
    lines = [] if not any(several) else [f"{_plural(len(notes.rewritten), 'exact rewrite')}, {len(notes.left)} left"]
    for each in several:
        lines += [f"  {one}" for one in each[:_SHOWN]]
        lines += [f"  and {len(each) - _SHOWN} more"] if len(each) > _SHOWN else []
    return lines


def _target(fit: Fit | None) -> list[str]:
    """Whether the result fits the accelerator that it was aimed at, and each limit that it still breaks once."""
    if fit is None:
        return []
    if fit.fits:
        return [f"fits {fit.target.title}"]
    misfits = [one for one in fit.operators if one.misfits]
    limits = Counter(f"{one.operator}: {misfit}" for one in misfits for misfit in one.misfits)
    several = f"{len(misfits)} of {_plural(len(fit.operators), 'operator')}"
    lines = [f"does not fit {fit.target.title}: {several}; conversion.fit tells all"]
    return lines + [f"  {count} x {limit}" for limit, count in limits.most_common(_SHOWN)]


def _field(name: str, lines: Sequence[str]) -> Iterable[str]:
    """One labelled part of the report, its lines wrapped and aligned."""
    label = f"  {name:<12}"
    for line in lines:
        indent = len(line) - len(line.lstrip())
        hanging = " " * (len("  ") + 12 + indent + 2)
        yield from textwrap.wrap(
            line.strip(),
            _WIDTH,
            initial_indent=label + " " * indent,
            subsequent_indent=hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        label = " " * len(label)


def _converted(plan: Plan) -> list[str]:
    if not plan.lifted and plan.in_place:
        return ["no convolution in a graph"]
    if not plan.lifted:
        return ["nothing: the model has no 1-D convolution that can be converted"]
    convolutions, others = plan.convolutions, [one for one in plan.lifted if one not in set(plan.convolutions)]
    where = {"regions": "in regions", "ops": "each alone"}[plan.lift]
    counts = f"{_plural(len(convolutions), 'convolution')} and {_plural(len(others), 'other operator')}"
    lines = [f"{counts}, {where}"]
    lines += [f"  {count} x {name}" for name, count in _counted(convolutions)]
    if others:
        lines.append("  " + ", ".join(f"{count} x {name}" for name, count in _counted(others)))
    return lines


def _counted(operators: Iterable[LiftedOperator]) -> list[tuple[str, int]]:
    names = (one.operator if one.becomes == one.operator else f"{one.operator} -> {one.becomes}" for one in operators)
    return Counter(names).most_common()


def _borders(plan: Plan) -> list[str]:
    flowing = [border for border in plan.borders if not border.constant]
    constant = len(plan.borders) - len(flowing)
    lines = [f"{len(flowing)}" + (f", and {constant} on computed weights" if constant else "")]
    lines += [f"  {border}" for border in flowing[:_SHOWN]]
    return lines + ([f"  and {len(flowing) - _SHOWN} more"] if len(flowing) > _SHOWN else [])


def _kept(kept: Sequence[Kept]) -> list[str]:
    """Convolutions one by one, everything else counted by operator and reason."""
    if not kept:
        return ["nothing"]
    convolutions = [one for one in kept if "conv" in one.operator.lower()]
    lines = [str(one) for one in convolutions[:_SHOWN]]
    lines += [f"and {len(convolutions) - _SHOWN} more convolutions"] if len(convolutions) > _SHOWN else []
    grouped: dict[tuple[str, str], list[Kept]] = {}
    for one in kept:
        if one not in set(convolutions):
            grouped.setdefault((one.operator, one.reason), []).append(one)
    for (operator, reason), members in list(grouped.items())[:_SHOWN]:
        count = f"{len(members)} x " if len(members) > 1 else ""
        sources = list(dict.fromkeys(one.source for one in members if one.source))
        lines.append(f"{count}{operator}: {reason}{f' [{_some(sources)}]' if sources else ''}")
    more = len(grouped) - _SHOWN
    return lines + ([f"and {more} more kinds of operators"] if more > 0 else [])


def _in_place(plan: Plan) -> list[str]:
    return [
        f"{_plural(len(plan.in_place), 'module')} whose own Python calls convolutions, computed in 2-D as they run",
        *(f"  {path or 'the model itself'}" for path in plan.in_place[:_SHOWN]),
        *([f"  and {len(plan.in_place) - _SHOWN} more"] if len(plan.in_place) > _SHOWN else []),
    ]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
