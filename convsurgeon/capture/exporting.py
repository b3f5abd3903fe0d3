"""Exports a model by ``torch.export``: every axis dynamic if it can be, in the ways that torch has, one by one."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils import _pytree as pytree

from convsurgeon.capture.limit import OutOfTime, time_limit
from convsurgeon.capture.lost import WouldBeLost
from convsurgeon.samples import Sample


@dataclass(frozen=True, slots=True)
class Way:
    """One way to export, which may take so many seconds.

    `dynamic`: every axis is left open that the model leaves open. `oblivious`: so is one of size 1 in the sample, which
    torch bakes in otherwise; without it, a sample of batch 1 is doubled, if it is to be `doubled`.
    """

    name: str
    strict: bool = False
    dynamic: bool = True
    oblivious: bool = True
    doubled: bool = False
    limit_s: float = 120.0


OPEN_WAYS = (Way("non-strict", limit_s=20.0), Way("strict", strict=True, limit_s=20.0))
"""The ways that bake no size in by themselves, and take as long as one would wait for one of several captures."""

ALL_WAYS = (
    Way("non-strict"),
    Way("non-strict, with a batch of two", oblivious=False, doubled=True),
    Way("strict", strict=True),
    Way("non-strict, all sizes fixed", dynamic=False, oblivious=False),
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A program of the model called with nothing but tensors, those in the sample, and the way that gave it."""

    program: ExportedProgram
    way: Way


class ByLeaves(nn.Module):
    """The model, called with the tensors of a sample alone; everything else in the sample is as it was.

    A buffer that forward assigns anew is written in place when it has returned: torch loses those of submodules.
    """

    PREFIX = "model"

    def __init__(self, model: nn.Module, sample: Sample) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._spec = pytree.tree_flatten((sample.args, dict(sample.kwargs)))

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        if torch.compiler.is_dynamo_compiling():
            return self.model(*args, **kwargs)
        held = [(module, module._buffers.copy()) for module in self.model.modules()]
        returned = self.model(*args, **kwargs)
        assigned = [(old, new.detach().clone()) for one in held for old, new in _put_back(*one)]
        for old, new in assigned:  # each is a copy by now, for one may be what another buffer held
            old.copy_(new)
        return returned


def _put_back(
    module: nn.Module, buffers: Mapping[str, torch.Tensor | None]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Let `module` have the buffers that it had: each that forward put another tensor in the place of, and that tensor.

    Raises:
        WouldBeLost: one can't be written into the other.
    """
    for name, old in buffers.items():
        new = module._buffers.get(name)
        if new is old:
            continue
        if old is None or new is None or old.shape != new.shape or old.dtype != new.dtype:
            raise WouldBeLost(f"forward puts a tensor of another shape or dtype in the place of the buffer '{name}'")
        module._buffers[name] = old
        yield old, new


def export_model(model: nn.Module, sample: Sample, ways: Sequence[Way]) -> Exported:
    """Export `model`, which is used up: an export that fails may leave fake tensors in it.

    Raises:
        ExportFailed: none of the ways works.
    """
    failed: list[tuple[Way, BaseException]] = []
    for way in ways:
        if way.dynamic and any(isinstance(error, OutOfTime) for _, error in failed):
            continue  # symbolic sizes are what takes time, in one way as in another
        try:
            with time_limit(way.limit_s), quiet(), oblivious() if way.oblivious else nullcontext():
                return Exported(_exported(model, sample, way), way)
        except (Exception, OutOfTime) as error:  # the user's forward and torch's tracer may raise anything
            failed.append((way, error))
            if isinstance(error, WouldBeLost):
                break  # it isn't the way that fails: another might hide what is lost
    raise ExportFailed(failed)


def _exported(model: nn.Module, sample: Sample, way: Way) -> ExportedProgram:
    # containers and objects of its own, for forward may leave fake tensors in them
    given = sample.map(doubled if way.doubled else _as_it_is)
    leaves = pytree.tree_leaves((given.args, dict(given.kwargs)))
    tensors = tuple(_apart(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)))
    shapes = {"tensors": tuple([Dim.AUTO] * tensor.dim() for tensor in tensors)} if way.dynamic else None
    program = export(ByLeaves(model, given), tensors, dynamic_shapes=shapes, strict=way.strict)
    lost = [name for name, held in program.constants.items() if isinstance(held, FakeTensor)]
    if lost:  # torch refuses most of these itself
        raise RuntimeError(f"forward reads a tensor behind torch's back, as by .data, which is lost ({lost[0]})")
    return program


def _apart(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The tensors, each an object of its own: torch.export takes one that is given twice for one and the same input."""
    seen: set[int] = set()
    for tensor in tensors:
        yield tensor.detach().clone().requires_grad_(tensor.requires_grad) if id(tensor) in seen else tensor
        seen.add(id(tensor))


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with a batch of two, where it has one of one: torch.export bakes a size of 1 in."""
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class ExportFailed(Exception):
    """No way to export worked; `failed` holds each with what it raised."""

    def __init__(self, failed: Sequence[tuple[Way, BaseException]]) -> None:
        super().__init__()
        self.failed = failed

    @property
    def first(self) -> BaseException:
        """What the first way raised, which tells most: the later ones give up dynamic axes, not what is exported."""
        return self.failed[0][1]


def oblivious() -> Any:
    """Inside, torch.export bakes no size of 1 in."""
    config: Any = symbolic_shapes
    return config.patch(backed_size_oblivious=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, torch's own warnings and logs on exporting stay silent: what they tell is in the plan, or is raised."""
    loggers = [
        logging.getLogger(f"torch.{name}") for name in ("export", "_export", "_dynamo", "fx", "_subclasses", "onnx")
    ]
    levels = [logger.level for logger in loggers]
    silent = io.StringIO()  # torch prints the whole graph where it fails
    with warnings.catch_warnings(), redirect_stdout(silent), redirect_stderr(silent):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
