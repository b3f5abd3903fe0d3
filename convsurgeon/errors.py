"""The exceptions: raised where the caller's request can't be met; an operator that merely stays 1-D is a value.

ConvSurgeonError
├── CaptureError       the model could not be turned into a graph that computes what the model computes
├── EquivalenceError   the rewritten model is not the original
├── CheckpointError    weights don't fit the map that should move them
└── UnsupportedError   the request is understood, and can't be done for this model
    └── MisfitError    an operator doesn't fit the target, and every one was asked to

A wrong argument is a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convsurgeon.verification.result import Verification


class ConvSurgeonError(Exception):
    """Base of every error that convsurgeon raises on purpose."""


class CaptureError(ConvSurgeonError):
    """The model could not be captured as a graph; says where in the user's code, and what to try."""


class EquivalenceError(ConvSurgeonError):
    """The rewritten model computes something else than the original; ``verification`` holds the figures."""

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification


class CheckpointError(ConvSurgeonError):
    """A state_dict, optimizer state or weight map file doesn't fit; says which keys and shapes."""


class UnsupportedError(ConvSurgeonError):
    """The request is clear, but can't be met for this model; says why and what can."""


class MisfitError(UnsupportedError):
    """An operator breaks a limit of the target, where every one was asked to fit; lists those that do."""
