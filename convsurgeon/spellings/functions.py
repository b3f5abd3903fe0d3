"""Operators spelled as functions (``F.*``, ``torch.*``) and as tensor methods."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Modules
from convsurgeon.rules.queries import attribute_1d, rank_1d, size_1d
from convsurgeon.spellings.base import Call, bind


@dataclass(frozen=True, slots=True)
class FunctionSpelling:
    """A function or method: its operator, how its arguments are named, and the function that stands for it in 2-D."""

    operator: str
    signature: inspect.Signature
    lifted: Callable[..., Any] | None = None

    @property
    def lifted_name(self) -> str:
        return "" if self.lifted is None else self.lifted.__name__

    def read(self, node: fx.Node, modules: Modules) -> Call:
        return Call(self.operator, bind(self.signature, node), self)

    def lifted_target(self, node: fx.Node) -> Any:
        return node.target if self.lifted is None else self.lifted

    def lift_module(self, module: nn.Module, changes: Mapping[str, Any], axis: UnitAxis) -> nn.Module | None:
        return None


# The stubs name the arguments of operators that are written in C++, in the order and with the defaults of torch's
# documentation; functions written in Python speak for themselves.


def _conv(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1): ...  # type: ignore[no-untyped-def]


def _conv_transpose(  # type: ignore[no-untyped-def]
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
): ...


def _batch_norm(  # type: ignore[no-untyped-def]
    input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled
): ...


def _dropout(input, p, train): ...  # type: ignore[no-untyped-def]


def _rrelu(input, lower=1 / 8, upper=1 / 3, training=False): ...  # type: ignore[no-untyped-def]


def _cat(tensors, dim=0, *, out=None): ...  # type: ignore[no-untyped-def]


def _like(input, *, dtype=None, layout=None, device=None, pin_memory=None, requires_grad=False, memory_format=None): ...  # type: ignore[no-untyped-def]


def _bernoulli(input): ...  # type: ignore[no-untyped-def]


def _prelu(input, weight): ...  # type: ignore[no-untyped-def]


def _identity(input, *args, memory_format=None, **kwargs): ...  # type: ignore[no-untyped-def]


def _max_pool(  # type: ignore[no-untyped-def]
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
): ...


def _avg_pool(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True): ...  # type: ignore[no-untyped-def]


def _adaptive_pool(input, output_size, return_indices=False): ...  # type: ignore[no-untyped-def]


def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-05, cudnn_enabled=True): ...  # type: ignore[no-untyped-def]


def _softmax(input, dim=None, dtype=None): ...  # type: ignore[no-untyped-def]


def _cumulative(input, dim, dtype=None): ...  # type: ignore[no-untyped-def]


def _flip(input, dims): ...  # type: ignore[no-untyped-def]


def _sum(input, dim=None, keepdim=False, *, dtype=None, out=None): ...  # type: ignore[no-untyped-def]


def _amax(input, dim=(), keepdim=False, *, out=None): ...  # type: ignore[no-untyped-def]


def _var(input, dim=None, unbiased=True, keepdim=False, *, correction=1, out=None): ...  # type: ignore[no-untyped-def]


def _prod(input, dim=None, keepdim=False, *, dtype=None, out=None): ...  # type: ignore[no-untyped-def]


def _size(input, dim=None, *, position=None): ...  # type: ignore[no-untyped-def]


def _rank(input, *, position=None): ...  # type: ignore[no-untyped-def]


def _attribute(input, name, *, position=None): ...  # type: ignore[no-untyped-def]


def _split(input, sizes, dim=0): ...  # type: ignore[no-untyped-def]


def _roll(input, shifts, dims=None): ...  # type: ignore[no-untyped-def]


def _index(input, index): ...  # type: ignore[no-untyped-def]


def _row(operator: str, stub: Callable[..., Any], lifted: Callable[..., Any] | None = None) -> FunctionSpelling:
    return FunctionSpelling(operator, inspect.signature(stub), lifted)


FUNCTIONS: dict[Any, FunctionSpelling] = {
    torch.conv1d: _row("conv1d", _conv, torch.conv2d),
    torch.conv_transpose1d: _row("conv_transpose1d", _conv_transpose, torch.conv_transpose2d),
    F.batch_norm: _row("batch_norm", F.batch_norm),
    torch.batch_norm: _row("batch_norm", _batch_norm),
    F.dropout: _row("dropout", F.dropout),
    F.alpha_dropout: _row("alpha_dropout", F.alpha_dropout),
    F.dropout1d: _row("feature_dropout", F.dropout1d, F.dropout2d),
    F.dropout2d: _row("feature_dropout", F.dropout2d),
    F.feature_alpha_dropout: _row("feature_alpha_dropout", F.feature_alpha_dropout),
    **{
        getattr(torch, name + suffix): _row(name, _dropout)
        for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
        for suffix in ("", "_")
    },
    F.rrelu: _row("rrelu", F.rrelu),
    torch.rrelu: _row("rrelu", _rrelu),
    torch.rrelu_: _row("rrelu", _rrelu),
    torch.bernoulli: _row("bernoulli", _bernoulli),
    torch.rand_like: _row("rand_like", _like),
    torch.randn_like: _row("randn_like", _like),
    torch.prelu: _row("prelu", _prelu),
    F.max_pool1d: _row("max_pool1d", _max_pool, F.max_pool2d),
    torch.max_pool1d: _row("max_pool1d", _max_pool, torch.max_pool2d),
    torch.avg_pool1d: _row("avg_pool1d", _avg_pool, F.avg_pool2d),
    F.lp_pool1d: _row("lp_pool1d", F.lp_pool1d, F.lp_pool2d),
    torch.adaptive_avg_pool1d: _row("adaptive_avg_pool1d", _adaptive_pool, F.adaptive_avg_pool2d),
    F.adaptive_max_pool1d: _row("adaptive_max_pool1d", _adaptive_pool, F.adaptive_max_pool2d),
    F.instance_norm: _row("instance_norm", F.instance_norm),
    F.group_norm: _row("group_norm", F.group_norm),
    torch.group_norm: _row("group_norm", _group_norm),
    F.local_response_norm: _row("local_response_norm", F.local_response_norm),
    F.layer_norm: _row("layer_norm", F.layer_norm),
    F.rms_norm: _row("layer_norm", F.rms_norm),
    F.pad: _row("pad", F.pad),
    F.interpolate: _row("interpolate", F.interpolate),
    F.softmax: _row("softmax", F.softmax),
    F.log_softmax: _row("softmax", F.log_softmax),
    F.softmin: _row("softmax", F.softmin),
    torch.softmax: _row("softmax", _softmax),
    torch.log_softmax: _row("softmax", _softmax),
    F.glu: _row("glu", F.glu),
    F.normalize: _row("normalize", F.normalize),
    **{cumulative: _row("cumulative", _cumulative) for cumulative in (torch.cumsum, torch.cumprod)},
    torch.logcumsumexp: _row("cumulative", _cumulative),
    torch.flip: _row("flip", _flip),
    **{total: _row("reduce", _sum) for total in (torch.sum, torch.mean, torch.nansum, torch.nanmean)},
    **{best: _row("reduce", _amax) for best in (torch.amax, torch.amin, torch.logsumexp)},
    **{spread: _row("reduce", _var) for spread in (torch.var, torch.std)},
    torch.prod: _row("reduce_one_axis", _prod),
    operator.getitem: _row("index", _index),
    getattr: _row("attribute", _attribute, attribute_1d),
    **{part: _row("split", _split) for part in (torch.split, torch.chunk, torch.tensor_split)},
    torch.roll: _row("roll", _roll),
    **{join: _row("cat", _cat) for join in (torch.cat, torch.concat, torch.concatenate)},
    **{copy: _row("identity", _identity) for copy in (torch.clone, torch.detach)},
}

METHODS: dict[str, FunctionSpelling] = {
    **{
        name: _row("identity", _identity)
        for name in (
            *("contiguous", "to", "type", "type_as", "clone", "detach", "requires_grad_", "cpu", "cuda"),
            *("float", "double", "half", "bfloat16", "int", "long", "bool", "cfloat", "cdouble"),
        )
    },
    "bernoulli": _row("bernoulli", _bernoulli),
    **{name: _row("softmax", _softmax) for name in ("softmax", "log_softmax")},
    **{name: _row("cumulative", _cumulative) for name in ("cumsum", "cumprod", "logcumsumexp")},
    **{name: _row("reduce", _sum) for name in ("sum", "mean", "nansum", "nanmean")},
    **{name: _row("reduce", _amax) for name in ("amax", "amin", "logsumexp")},
    **{name: _row("reduce", _var) for name in ("var", "std")},
    "prod": _row("reduce_one_axis", _prod),
    "size": _row("size", _size, size_1d),
    "dim": _row("size", _rank, rank_1d),
    "ndimension": _row("size", _rank, rank_1d),
    "flip": _row("flip", _flip),
    "roll": _row("roll", _roll),
    **{name: _row("split", _split) for name in ("split", "chunk", "tensor_split")},
    "prelu": _row("prelu", _prelu),
}
