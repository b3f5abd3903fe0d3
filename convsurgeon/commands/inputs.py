"""Samples as they are written on a command line: ``1x80x3000``, ``lengths=1:int64=3000``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from convsurgeon.samples import Sample

_WRITTEN = re.compile(
    r"(?:(?!scalar=)(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+))?(?:=(?P<fill>[^=]+))?"
)
_ACCEPTED = (
    "accepted: [NAME=]SHAPE[:DTYPE][=VALUE], such as 1x80x3000, tokens=1x12:int64, lengths=1:int64=3000 or scalar=0.5"
)
_TOKENS = 10
"""Whole numbers are drawn below this: small enough for most vocabularies."""


@dataclass(frozen=True, slots=True)
class Input:
    """One argument: its name (None: by place), shape, dtype, and the number that fills it (None: random)."""

    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: complex | None

    @classmethod
    def parse(cls, text: str) -> Input:
        """Read what was written.

        Raises:
            ValueError: it isn't of the form.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"--input is {text!r}; {_ACCEPTED}")
        dtype = getattr(torch, found["dtype"] or "float32", None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"--input is {text!r}, and torch has no dtype {found['dtype']!r}; {_ACCEPTED}")
        try:
            fill = None if found["fill"] is None else _number(found["fill"], dtype)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"--input is {text!r}, and {found['fill']!r} is no {_kind(dtype)}; {_ACCEPTED}") from error
        shape = () if found["shape"] == "scalar" else tuple(map(int, found["shape"].split("x")))
        return cls(found["name"], shape, dtype, fill)

    def tensor(self, generator: torch.Generator) -> torch.Tensor:
        """The tensor: filled, or normal numbers, whole numbers from 0 to 9, or True.

        Raises:
            ValueError: there is no such tensor, or no memory for it.
        """
        try:
            return self._made(generator)
        except RuntimeError as error:
            shape = "x".join(map(str, self.shape)) or "scalar"
            dtype = str(self.dtype).removeprefix("torch.")
            raise ValueError(f"--input {shape}:{dtype} can't be made: {' '.join(str(error).split())[:200]}") from error

    def _made(self, generator: torch.Generator) -> torch.Tensor:
        if self.fill is not None:
            return torch.full(self.shape, self.fill, dtype=self.dtype)
        if self.dtype is torch.bool:
            return torch.ones(self.shape, dtype=torch.bool)
        if self.dtype.is_floating_point or self.dtype.is_complex:
            wide = torch.complex64 if self.dtype.is_complex else torch.float32
            drawn = torch.randn(self.shape, dtype=wide, generator=generator, device="cpu")
        else:
            drawn = torch.randint(0, _TOKENS, self.shape, generator=generator, device="cpu")
        return drawn.to(torch.get_default_device(), self.dtype)


def _number(text: str, dtype: torch.dtype) -> complex:
    """The number that is written, of a kind that the dtype holds: a whole one exactly, of whatever size.

    Raises:
        ValueError: it is no such number.
        OverflowError: it is infinite, and should be whole.
    """
    if dtype.is_complex:
        return complex(text)
    if dtype.is_floating_point:
        return float(text)
    if dtype is torch.bool:
        return bool(float(text))
    try:
        whole = int(text)
    except ValueError:  # such as 1e6
        whole = int(float(text))
        if whole != float(text):
            raise
    limits = torch.iinfo(dtype)
    if not limits.min <= whole <= limits.max:
        raise ValueError(f"{whole} is outside of {dtype}")
    return whole


def _kind(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype.is_complex or dtype is torch.bool:
        return "number"
    return f"{'real' if dtype.is_floating_point else 'whole'} number that {name} holds"


def sample_of(written: Sequence[str]) -> Sample | None:
    """The sample that all ``--input`` options make together, the same numbers each time; None if there are none.

    Raises:
        ValueError: one isn't of the form, or a name stands twice.
    """
    generator = torch.Generator().manual_seed(0)
    args, kwargs = [], {}
    for one in map(Input.parse, written):
        if one.name is None:
            args.append(one.tensor(generator))
        elif one.name in kwargs:
            raise ValueError(f"--input names {one.name!r} twice")
        else:
            kwargs[one.name] = one.tensor(generator)
    return Sample(tuple(args), kwargs) if written else None
