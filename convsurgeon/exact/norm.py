"""Batch norm, in the weights of the convolution before it."""

from __future__ import annotations

import torch
from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution, Norm
from convsurgeon.exact.surroundings import writes_between
from convsurgeon.exact.writer import Writer
from convsurgeon.rules.base import Refusal


@rewrite("fold_batch_norm", reads=Norm)
def fold_batch_norm(norm: Norm, write: Writer) -> fx.Node | Refusal | None:
    """Batch norm by kept statistics after a convolution is that convolution, its weight scaled and its bias moved.

    a (w * x + b - m) + c = (a w) * x + (a (b - m) + c), where a = scale / sqrt(variance + eps). Worked out in float64.
    The layer stays in the state_dict, unused, and the module can't go to training mode any longer.

    Limits: eval mode, and nothing else reads the convolution.
    """
    found = folded(norm)
    if isinstance(found, Refusal):
        return found
    conv, weight, bias = found
    if writes_between(conv.node, norm.node, write):
        return Refusal("something is written in place between the convolution and it")
    write.absorbed.append(conv.node)
    write.frozen = True
    return write.same(conv, conv.input, weight=weight, bias=bias)


def folded(norm: Norm) -> tuple[Convolution, torch.Tensor, torch.Tensor] | Refusal:
    """The convolution before a norm, and the weight and bias with which it computes both; or why there are none."""
    conv = norm.convolution
    if conv is None:
        return Refusal(norm.why or "no convolution along the length is in front of it")
    if norm.trains or norm.mean is None or norm.variance is None:
        return Refusal("it takes its statistics from what it is given; put the model in eval mode and convert it again")
    if not norm.alone:
        return Refusal("what the convolution computes is read elsewhere as well")
    if conv.resized:
        return Refusal("the convolution is asked for a size of its result")
    wide = torch.float64
    factor = (norm.variance.detach().to(wide) + norm.eps).rsqrt()
    if norm.scale is not None:
        factor = factor * norm.scale.detach().to(wide)
    bias = 0.0 if conv.bias is None else conv.bias.value.detach().to(wide)
    bias = (bias - norm.mean.detach().to(wide)) * factor
    if norm.shift is not None:
        bias = bias + norm.shift.detach().to(wide)
    weight = conv.weight.value.detach().to(wide)
    if not conv.transposed:
        return conv, weight * factor.view(-1, 1, 1, 1), bias
    grouped = weight.unflatten(0, (conv.groups, -1)) * factor.view(conv.groups, 1, -1, 1, 1)
    return conv, grouped.flatten(0, 1), bias
