"""What was found: which operators an accelerator takes, which after a rewrite, which not and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from convsurgeon.targets import Family, Source, Target

Verdict = Literal["fits", "fits after a rewrite", "does not fit"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Misfit:
    """A limit that an operator breaks: what was seen, what is accepted and by what source, and what mends it.

    `rewrites` names exact rewrites, each of which mends it; `effect` is what happens as it is, "" where unknown. `most`
    is the largest value that is accepted, None where the limit is another. `confirmed` is where a compiler was seen to
    keep to the limit, None where none was.
    """

    quantity: str
    seen: tuple[Any, ...]
    accepted: str
    source: Source
    effect: str
    rewrites: tuple[str, ...]
    most: float | None = None
    confirmed: Source | None = None

    def __str__(self) -> str:
        seen = ", ".join(str(one) for one in dict.fromkeys(self.seen))
        return f"{self.quantity} is {seen}; accepted: {self.accepted}" + (
            f" (else: {self.effect})" if self.effect else ""
        )


@dataclass(frozen=True, slots=True)
class FittedOperator:
    """An ATen operator of the model, and whether it fits.

    `node` is the node of the graph that calls it, or the function of torch; `name` the module that it is or whose
    forward does. `shape`, `elements` and `nbytes` are those of its results; `macs` its multiply-accumulates;
    `parameters` counts the elements of weights and buffers that no operator before it read. `costly`: the preferences
    of the accelerator that it goes against, which costs more, and fits all the same.
    """

    node: str
    name: str
    operator: str
    family: Family
    shape: tuple[int, ...]
    misfits: tuple[Misfit, ...]
    macs: int
    parameters: int
    elements: int
    nbytes: int
    costly: tuple[Misfit, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """It fits where it breaks no limit, and after a rewrite where there is one for each that it breaks."""
        if not self.misfits:
            return "fits"
        return "fits after a rewrite" if all(one.rewrites for one in self.misfits) else "does not fit"

    @property
    def rewrites(self) -> tuple[str, ...]:
        """The rewrites that it takes, one for each limit that it breaks and that one mends."""
        return tuple(dict.fromkeys(one.rewrites[0] for one in self.misfits if one.rewrites))

    def __str__(self) -> str:
        return f"{self.name or self.node} ({self.operator}, {list(self.shape)})"

    def to_json(self) -> dict[str, Any]:
        """The operator as plain data."""
        broken = {
            name: [
                {
                    **asdict(one),
                    "source": one.source.to_json(),
                    "confirmed": one.confirmed and one.confirmed.to_json(),
                }
                for one in misfits
            ]
            for name, misfits in (("misfits", self.misfits), ("costly", self.costly))
        }
        return {**asdict(self), "verdict": self.verdict, "rewrites": list(self.rewrites), **broken}


@dataclass(frozen=True, slots=True)
class Total:
    """Operators, added up; parameters, activations and bytes likewise."""

    operators: int
    macs: int
    parameters: int
    elements: int
    nbytes: int

    @classmethod
    def of(cls, operators: Iterable[FittedOperator]) -> Total:
        """The sum of some."""
        each = [(1, one.macs, one.parameters, one.elements, one.nbytes) for one in operators]
        return cls(*map(sum, zip(*each, strict=True))) if each else cls(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Fit:
    """What `convsurgeon.fit` returns: every operator that ran on the sample, in order, with its verdict."""

    model: str
    target: Target
    sample: str
    operators: tuple[FittedOperator, ...]

    @property
    def fits(self) -> bool:
        """Whether every operator does, as it is."""
        return not self.misfitting

    @property
    def misfitting(self) -> int:
        """How many operators don't."""
        return sum(bool(one.misfits) for one in self.operators)

    @property
    def totals(self) -> dict[Verdict, Total]:
        """The operators of each verdict, added up."""
        return {verdict: Total.of(one for one in self.operators if one.verdict == verdict) for verdict in VERDICTS}

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "model": self.model,
            "target": {"name": self.target.name, "title": self.target.title},
            "sample": self.sample,
            "fits": self.fits,
            "totals": {verdict: asdict(total) for verdict, total in self.totals.items()},
            "operators": [one.to_json() for one in self.operators],
        }

    def __str__(self) -> str:
        from convsurgeon.fitting.report import fit_text

        return fit_text(self)
