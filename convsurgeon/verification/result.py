"""What a verification found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from convsurgeon.errors import EquivalenceError


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A direct comparison: every element within ``atol + rtol * |reference|``, and no float64 run.

    Raises:
        ValueError: a bound that is negative or not a number.
    """

    rtol: float
    atol: float

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} is {value!r}; accepted: a number of at least 0")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor (or other value) of one sample's run, the reference's against the candidate's.

    `error`: the candidate's largest distance, from the float64 run where there is one, else from the reference.
    `original_error`: the reference's own from the float64 run, None without. Of whole numbers, both are the share of
    elements that differ. `scale`: the largest magnitude.
    """

    sample: int
    what: str
    shape: tuple[int, ...]
    dtype: str
    error: float
    original_error: float | None
    allowed: float
    scale: float
    passed: bool
    note: str = ""

    @property
    def severity(self) -> float:
        """How much of the allowed error is used up, for finding the worst."""
        if not self.passed:
            return float("inf")
        return self.error / self.allowed if self.allowed else 0.0

    def __str__(self) -> str:
        if self.note:
            return f"{self.what} of sample {self.sample}: {self.note}"
        text = f"{self.what} of sample {self.sample}: max |difference| {self.error:.1e}, allowed {self.allowed:.1e}"
        if self.original_error is not None:
            text += f" (the original is {self.original_error:.1e} from its float64 run)"
        return text


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first node of the rewritten graph whose value is not that of the node it stands for."""

    node: str
    module: str
    operator: str
    becomes: str
    shape: tuple[int, ...]
    dtype: str
    difference: float

    def __str__(self) -> str:
        where = self.module or self.node
        off = f"off by {self.difference:.1e}" if isfinite(self.difference) else "which has another shape, or fails"
        return f"{where}: {self.operator} -> {self.becomes}, {list(self.shape)} {self.dtype}, {off}"


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the candidate is from the reference, on which samples, and where it first goes wrong if it does.

    `referee`: what judged, a float64 run of the reference or a direct comparison, and `reason` why not float64.
    """

    passed: bool
    referee: Literal["float64", "direct"]
    reason: str
    samples: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    divergence: Divergence | None = None

    def __bool__(self) -> bool:
        return self.passed

    @property
    def worst(self) -> Comparison | None:
        """The comparison that comes closest to what is allowed, or exceeds it most."""
        return max(self.comparisons, key=lambda one: (one.severity, one.error), default=None)

    def require(self) -> None:
        """Raise if the candidate isn't equal.

        Raises:
            EquivalenceError: with the figures, where they begin, and what to do.
        """
        if not self.passed:
            raise EquivalenceError(self._complaint(), self)

    def _complaint(self) -> str:
        lines = ["the converted model differs from the original"]
        if self.divergence is not None:
            lines.append(f"  first at {self.divergence}")
        lines += [f"  {one}" for one in self.comparisons if not one.passed][:4]
        name = self.divergence.module if self.divergence and self.divergence.module else None
        lines.append(
            f"  keep it 1-D with exclude=[{name!r}], and please report the layer's arguments"
            if name
            else "  compare in the model's own terms with tolerance=Tolerance(rtol, atol), and please report the model"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The verification as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        how = "judged by a float64 run" if self.referee == "float64" else f"compared directly: {self.reason}"
        verdict = "equal" if self.passed else "DIFFERENT"
        lines = [f"{verdict} on {len(self.samples)} sample{'s' * (len(self.samples) != 1)}, {how}"]
        if self.divergence is not None:
            lines.append(f"first at {self.divergence}")
        shown = [self.worst] if self.passed and self.worst else [one for one in self.comparisons if not one.passed][:6]
        return "\n".join([*lines, *(f"worst: {one}" if self.passed else str(one) for one in shown)])
