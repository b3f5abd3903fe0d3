"""The functional forms of every neighbour, on the samples that PyTorch tests itself with, between two convolutions."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from support import ranks_of_convolutions
from torch import nn
from torch.utils import _pytree as pytree

import convsurgeon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test modules warn on import of what they no longer need
    from torch.testing._internal.common_methods_invocations import op_db

LAYERS = [
    *("adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d", "max_unpool1d", "batch_norm"),
    *("instance_norm", "group_norm", "local_response_norm", "layer_norm", "rms_norm", "pad", "interpolate"),
    *("upsample_nearest", "softmin", "glu", "prelu", "linear"),
]
TENSORS = [
    *("softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "diff", "sort", "argsort"),
    *("topk", "narrow", "select", "index_select", "gather", "take_along_dim", "repeat_interleave", "unbind", "split"),
    *("split_with_sizes", "movedim"),
    *("chunk", "tensor_split", "roll", "flip", "sum", "mean", "nansum", "nanmean", "amax", "amin", "logsumexp"),
    *("count_nonzero", "var", "std", "var_mean", "std_mean", "norm", "linalg.vector_norm", "prod", "all", "any"),
    *("argmax", "argmin", "median", "nanmedian", "mode", "kthvalue", "max", "min", "matmul", "view", "reshape"),
    *("view_as", "reshape_as", "expand", "expand_as", "broadcast_to", "repeat", "tile", "flatten", "unflatten"),
    *("unsqueeze", "squeeze", "transpose", "swapaxes", "permute", "where", "clamp", "lerp", "addcmul", "masked_fill"),
]
NAMES = {f"nn.functional.{name}" for name in LAYERS} | set(TENSORS)

WALLS = {
    "batch_norm": "has rank 2",
    "count_nonzero": "one number",
    "diff": "puts other values in front",
    "group_norm": "not (N, C, L)",
    "linear": "the unit axis is the last",
    "matmul": "what it multiplies with",
    "norm": "nuclear norm",
    "pad": "over more than the length",
    "prelu": "has rank 2",
    "flip": "axes are computed",
    "repeat_interleave": "axis is not given",
    "roll": "rolls the flattened value",
    "select": "one element of the length",
    "take_along_dim": "axis is not given",
    "unbind": "one element of the length",
    "squeeze": "longer than 1",
    "unflatten": "takes the length apart",
    "unsqueeze": "behind the length",
}
"""Operators some of whose samples stay 1-D, and a word of the reason; beside reductions of one axis."""

ANY = (
    *("lifting it would add borders", "the unit axis would stay", "the unit axis is the last", "which stays 1-D"),
    *("the rank of what it takes", "fewer sizes", "everything and keeps the axes"),
)
"""Reasons of more than one operator."""


class Around(nn.Module):
    """A convolution, the operator with the sample's other arguments, and another where its result can be convolved."""

    gives_several = False

    def __init__(self, op: Any, sample: Any) -> None:
        super().__init__()
        self.op = op
        self.before = nn.Conv1d(sample.input.shape[-2], sample.input.shape[-2], 1)
        leaves, self.spec = pytree.tree_flatten((sample.args, sample.kwargs))
        self.leaves = [f"_{i}" if isinstance(leaf, torch.Tensor) else leaf for i, leaf in enumerate(leaves)]
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                self.register_buffer(f"_{i}", leaf.detach())
        self.held = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        self.after: nn.Module | None = None
        found = self(sample.input)
        if found.dim() == sample.input.dim() and found.dtype is torch.float32 and found.numel():
            self.after = nn.Conv1d(found.shape[-2], 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        leaves = [getattr(self, leaf) if held else leaf for leaf, held in zip(self.leaves, self.held, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        y = self.op(self.before(x), *args, **kwargs)
        y = y[0] if self.gives_several else y
        return y if self.after is None else self.after(y)


def models_of(info: Any) -> list[tuple[Around, torch.Tensor]]:
    """The entry's samples that a convolution can stand before, each in its network."""
    found = []
    for sample in info.sample_inputs("cpu", torch.float32, requires_grad=False):
        x = sample.input
        if len(found) == 16 or not isinstance(x, torch.Tensor) or x.dim() not in (2, 3) or not x.numel():
            continue
        try:
            kind: Any = Around
            if isinstance(info.op(x, *sample.args, **sample.kwargs), (tuple, list)):
                kind = type("AroundSeveral", (Around,), {"gives_several": True})
            found.append((kind(info.op, sample).eval(), x))
        except (RuntimeError, ValueError, IndexError):  # a convolution's result is nothing this sample's operator takes
            continue
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("info", [i for i in op_db if i.name in NAMES], ids=lambda i: f"{i.name} {i.variant_test_name}")
def test_torchs_samples_of_an_operator_between_convolutions(info: Any, record_property: Any) -> None:
    torch.manual_seed(0)
    tally = {"lifted": 0, "kept": 0}
    for model, x in models_of(info):
        for unit_axis in (-2, -1):
            conversion = convsurgeon.convert(model, x, unit_axis=unit_axis)
            torch.testing.assert_close(conversion.module(x), model(x), equal_nan=True)
            for one in conversion.plan.kept:
                known = (*ANY, WALLS.get(info.name.rpartition(".")[2], ANY[0]))
                assert any(reason in one.reason for reason in known), one
            tally["kept" if conversion.plan.kept else "lifted"] += 1
            if model.after is not None and not conversion.plan.kept:
                assert len([border for border in conversion.plan.borders if not border.constant]) == 2
    for name, count in tally.items():
        record_property(name, count)


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of what these operators are made of
@pytest.mark.parametrize("info", [i for i in op_db if i.name in NAMES], ids=lambda i: f"{i.name} {i.variant_test_name}")
def test_the_same_as_exported_programs(info: Any) -> None:
    """In ATen's spelling, the same samples come out equal, and every convolution is 2-D."""
    torch.manual_seed(0)
    samples, exported = models_of(info)[:6], 0
    for at, (model, x) in enumerate(samples):
        try:
            program = torch.export.export(model, (x,), strict=False)
        except Exception:  # what torch can't export, there is no program of
            continue
        exported += 1
        conversion = convsurgeon.convert(program, unit_axis=(-2, -1)[at % 2])
        torch.testing.assert_close(conversion.module(x), model(x), equal_nan=True)
        assert {weight for _, weight in ranks_of_convolutions(conversion.module, x)} == {4}
        torch.testing.assert_close(conversion.exported_program.module()(x), model(x), equal_nan=True)
    assert exported or not samples
