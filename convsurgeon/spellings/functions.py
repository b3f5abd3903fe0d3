"""Operators spelled as functions (``F.*``, ``torch.*``) and as tensor methods."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Modules
from convsurgeon.rules import Lifted, Lowered, Raised
from convsurgeon.rules.queries import attribute_1d, rank_1d, size_1d
from convsurgeon.spellings import signatures as s
from convsurgeon.spellings.base import Call, bind

Targets = Mapping[type[Lifted] | str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class FunctionSpelling:
    """A function or method: its operator, how its arguments are named, and the functions that stand for it in 2-D.

    Those are given by the kind of way that is taken, or by the operator that it names; where there is none the function
    itself does it.
    """

    operator: str
    signature: inspect.Signature
    targets: Targets = field(default_factory=dict)

    def read(self, node: fx.Node, modules: Modules) -> Call:
        return Call(self.operator, bind(self.signature, node), self)

    def lifted_name(self, way: Lifted) -> str:
        target = self._target(way)
        return "" if target is None else name_of(target)

    def lifted_target(self, node: fx.Node, way: Lifted) -> Any:
        return self._target(way) or node.target

    def _target(self, way: Lifted) -> Callable[..., Any] | None:
        return self.targets.get(way.operator) or self.targets.get(type(way))

    def lift_module(self, module: nn.Module, changes: Mapping[str, Any], axis: UnitAxis) -> nn.Module | None:
        return None


def name_of(target: Any) -> str:
    """What a person would call a function: ``conv1d`` for every overload of it."""
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def _row(operator: str, stub: Callable[..., Any], targets: Targets | None = None) -> FunctionSpelling:
    return FunctionSpelling(operator, inspect.signature(stub), targets or {})


def _to(function: Callable[..., Any]) -> Targets:
    """The function that computes the lifted way."""
    return {Lifted: function}


_BOTH: dict[Callable[..., Any], tuple[str, ...]] = {
    s.only_input: ("bernoulli", "numel"),
    s.prelu: ("prelu",),
    s.matmul: ("matmul",),
    s.softmax: ("softmax", "log_softmax"),
    s.cumulative: ("cumsum", "cumprod", "logcumsumexp"),
    s.running: ("cummax", "cummin"),
    s.diff: ("diff",),
    s.sort: ("sort", "argsort"),
    s.topk: ("topk",),
    s.narrow: ("narrow",),
    s.select: ("select",),
    s.index_select: ("index_select",),
    s.gather: ("gather",),
    s.take_along_dim: ("take_along_dim",),
    s.repeat_interleave: ("repeat_interleave",),
    s.unbind: ("unbind",),
    s.chunk: ("chunk",),
    s.tensor_split: ("tensor_split",),
    s.roll: ("roll",),
    s.total: ("sum", "mean", "nansum", "nanmean"),
    s.extreme: ("amax", "amin", "logsumexp"),
    s.extremum: ("max", "min"),
    s.one_axis: ("prod", "all", "any", "argmax", "argmin", "median", "nanmedian"),
    s.mode: ("mode",),
    s.kthvalue: ("kthvalue",),
    s.count_nonzero: ("count_nonzero",),
    s.var: ("var", "std"),
    s.norm: ("norm",),
    s.tile: ("tile",),
    s.flatten: ("flatten",),
    s.unflatten: ("unflatten",),
    s.transpose: ("transpose", "swapaxes", "swapdims"),
}
"""Operators that are functions of torch and methods of a tensor under the same name, with the same arguments."""

_PYTHON = (
    *("batch_norm", "instance_norm", "group_norm", "local_response_norm", "layer_norm", "rms_norm"),
    *("dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu"),
    *("pad", "interpolate", "softmax", "log_softmax", "softmin", "glu", "normalize"),
)
"""Functions of ``torch.nn.functional`` that are written in Python, and compute the 2-D form themselves."""

_CASTS = (
    *("type", "requires_grad_", "cpu", "cuda", "float", "double", "half", "bfloat16"),
    *("int", "long", "bool", "cfloat", "cdouble"),
)

_UNSQUEEZE = _row("unsqueeze", s.unsqueeze, {Raised: torch.unflatten})
_SQUEEZE = _row("squeeze", s.squeeze, {"flatten": torch.flatten})
_MOVEDIM = _row("movedim", s.movedim, _to(torch.permute))

FUNCTIONS: dict[Any, FunctionSpelling] = {
    **{getattr(torch, name): _row(name, stub) for stub, names in _BOTH.items() for name in names},
    **{getattr(F, name): _row(name, getattr(F, name)) for name in _PYTHON},
    torch.conv1d: _row("conv1d", s.conv, _to(torch.conv2d)),
    torch.conv_transpose1d: _row("conv_transpose1d", s.conv_transpose, _to(torch.conv_transpose2d)),
    torch.batch_norm: _row("batch_norm", s.batch_norm),
    torch.group_norm: _row("group_norm", s.group_norm),
    F.dropout1d: _row("feature_dropout", F.dropout1d, _to(F.dropout2d)),
    F.dropout2d: _row("feature_dropout", F.dropout2d),
    **{
        getattr(torch, name + suffix): _row(name, s.dropout)
        for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
        for suffix in ("", "_")
    },
    **{rrelu: _row("rrelu", s.rrelu) for rrelu in (torch.rrelu, torch.rrelu_)},
    **{getattr(torch, name): _row(name, s.like) for name in ("rand_like", "randn_like")},
    F.max_pool1d: _row("max_pool1d", s.max_pool, _to(F.max_pool2d)),
    torch.max_pool1d: _row("max_pool1d", s.max_pool, _to(torch.max_pool2d)),
    F.max_pool1d_with_indices: _row("max_pool1d", s.max_pool, _to(F.max_pool2d_with_indices)),
    F.max_unpool1d: _row("max_unpool1d", F.max_unpool1d, _to(F.max_unpool2d)),
    torch.avg_pool1d: _row("avg_pool1d", s.avg_pool, _to(F.avg_pool2d)),
    F.lp_pool1d: _row("lp_pool1d", F.lp_pool1d, _to(F.lp_pool2d)),
    torch.adaptive_avg_pool1d: _row("adaptive_avg_pool1d", s.adaptive_pool, _to(F.adaptive_avg_pool2d)),
    F.adaptive_max_pool1d: _row("adaptive_max_pool1d", s.adaptive_pool, _to(F.adaptive_max_pool2d)),
    F.adaptive_max_pool1d_with_indices: _row(
        "adaptive_max_pool1d", s.adaptive_pool, _to(F.adaptive_max_pool2d_with_indices)
    ),
    F.linear: _row("linear", s.linear),
    torch._C._nn.pad: _row("pad", F.pad),
    operator.matmul: _row("matmul", s.matmul),
    **{copy: _row(copy.__name__, s.identity) for copy in (torch.clone, torch.detach, torch.detach_)},
    torch.channel_shuffle: _row("channel_shuffle", s.channel_shuffle),
    torch.flip: _row("flip", s.flip),
    torch.linalg.vector_norm: _row("vector_norm", s.vector_norm),
    **{getattr(torch, name): _row(name, s.var) for name in ("var_mean", "std_mean")},
    **{join: _row("cat", s.join) for join in (torch.cat, torch.concat, torch.concatenate)},
    torch.stack: _row("stack", s.join),
    torch.split: _row("split", s.split_function),
    torch.split_with_sizes: _row("split", s.split_with_sizes),
    operator.getitem: _row("getitem", s.getitem),
    getattr: _row("getattr", s.attribute, {Lowered: attribute_1d}),
    torch.reshape: _row("reshape", s.reshape),
    torch.broadcast_to: _row("broadcast_to", s.broadcast_to),
    torch.unsqueeze: _UNSQUEEZE,
    torch.squeeze: _SQUEEZE,
    torch.permute: _row("permute", s.permute),
    torch.movedim: _MOVEDIM,
    torch.moveaxis: _MOVEDIM,
}

METHODS: dict[str, FunctionSpelling] = {
    **{name: _row(name, stub) for stub, names in _BOTH.items() for name in names},
    **{name: _row("to", s.identity) for name in _CASTS},
    **{name: _row(name, s.identity) for name in ("contiguous", "to", "clone", "detach", "detach_")},
    "split": _row("split", s.split),
    "split_with_sizes": _row("split", s.split_with_sizes),
    "size": _row("size", s.size, {Lowered: size_1d}),
    "dim": _row("dim", s.rank, {Lowered: rank_1d}),
    "ndimension": _row("dim", s.rank, {Lowered: rank_1d}),
    "nelement": _row("numel", s.only_input),
    "flip": _row("flip", s.flip),
    **{name: _row(name, s.view) for name in ("view", "reshape", "expand", "repeat", "broadcast_to")},
    **{name: _row(name, s.with_other) for name in ("view_as", "reshape_as", "expand_as", "type_as")},
    "unsqueeze": _UNSQUEEZE,
    "squeeze": _SQUEEZE,
    "permute": _row("permute", s.permute),
    "movedim": _MOVEDIM,
    "moveaxis": _MOVEDIM,
}

ATTRIBUTES: dict[str, FunctionSpelling] = {
    "mT": _row("transpose", s.transposed, _to(torch.transpose)),
}
"""Attributes that are values, and no answers."""
