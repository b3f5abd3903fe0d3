"""What every node of a converted graph says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ORIGIN = "convsurgeon"
"""Node metadata key under which every node of a converted graph holds its `Origin`."""

Form = Literal["1d", "2d"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which node of the original graph a node stands for, which rule made it ("" for a copy), and its value's form."""

    node: str
    rule: str
    form: Form
