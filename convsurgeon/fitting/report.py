"""How a fit looks: plain text in 88 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from convsurgeon.fitting.fit import VERDICTS, Fit, FittedOperator, Misfit, Total

_WIDTH = 88
_SHOWN = 12
_NAMED = 4


def fit_text(fit: Fit) -> str:
    """The verdict, the totals, and every limit that is broken, with the operators that break it."""
    total = Total.of(fit.operators)
    verdict = "fits" if fit.fits else f"{total.operators - fit.totals['fits'].operators} of {total.operators} operators"
    lines = [
        f"convsurgeon fit: {fit.model} on {fit.target.title} ({fit.target.name})",
        *_wrapped(f"sample: {fit.sample}", 2),
        f"  {'everything fits' if fit.fits else f'does not fit as it is: {verdict}'}",
        "",
        f"  {'':<22}{'operators':>10}{'MACs':>12}{'parameters':>12}{'activations':>13}{'bytes':>12}",
        *(_row(name, one) for name, one in fit.totals.items()),
        _row("in all", total),
    ]
    for verdict in VERDICTS[:0:-1]:
        lines += _broken([(one, one.misfits) for one in fit.operators if one.verdict == verdict], verdict)
    lines += _broken([(one, one.costly) for one in fit.operators if one.costly], "costs more than it has to")
    if any(one.quantity == "rank" for operator in fit.operators for one in operator.misfits):
        lines += ["", *_wrapped("convsurgeon.convert makes 1-D convolutions, and what stands between them, 2-D", 2)]
    return "\n".join(lines)


def _row(name: str, total: Total) -> str:
    sizes = (_short(total.macs), _short(total.parameters), _short(total.elements), _short(total.nbytes))
    return f"  {name:<22}{total.operators:>10}{sizes[0]:>12}{sizes[1]:>12}{sizes[2]:>13}{sizes[3]:>12}"


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _broken(operators: Sequence[tuple[FittedOperator, Sequence[Misfit]]], verdict: str) -> Iterator[str]:
    """Each way to break a limit once, with the operators that break it so."""
    if not operators:
        return
    yield f"\n  {verdict}"
    ways: dict[tuple[str, str, tuple[str, ...]], list[FittedOperator]] = {}
    misfits: dict[tuple[str, str, tuple[str, ...]], Misfit] = {}
    for operator, broken in operators:
        for one in broken:
            way = (operator.family if operator.family != "other" else operator.operator, str(one), one.rewrites)
            ways.setdefault(way, []).append(operator)
            misfits[way] = one
    for (family, what, rewrites), breaking in list(ways.items())[:_SHOWN]:
        yield from _wrapped(f"{len(breaking)} x {family.replace('_', ' ')}: {what}", 4)
        named = ", ".join(str(one) for one in breaking[:_NAMED])
        more = f" and {len(breaking) - _NAMED} more" if len(breaking) > _NAMED else ""
        yield from _wrapped(f"{named}{more}", 8)
        if rewrites:
            yield from _wrapped(f"mended by {' or '.join(rewrites)}", 8)
        misfit = misfits[family, what, rewrites]
        yield from _wrapped(f"[{misfit.source}]", 8)
        if misfit.confirmed not in (None, misfit.source):
            yield from _wrapped(f"[confirmed, {misfit.confirmed}]", 8)
    if len(ways) > _SHOWN:
        yield f"    and {len(ways) - _SHOWN} more kinds"


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
