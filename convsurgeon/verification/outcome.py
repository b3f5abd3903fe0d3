"""One run of one module on one sample, and everything it leaves: outputs, written inputs, buffers, gradients, draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from convsurgeon.clones.cloning import copied
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.errors import UnsupportedError
from convsurgeon.runs.given import Given, leaves_in
from convsurgeon.samples import Sample


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left, by name.

    `draws` names the random operators whose numbers depend on the dtype; `narrowest` is the least precise floating
    dtype that any operator returned.
    """

    leaves: dict[str, Any]
    random_state: RandomState
    draws: frozenset[str]
    narrowest: torch.dtype


def run(module: nn.Module, sample: Sample, state: RandomState, *, gradients: bool) -> Outcome:
    """Run `module`, a clone that is used up, on a copy of `sample`, from the random `state`."""
    inputs = sample.map(copied)
    tensors = inputs.tensors()
    called = inputs.map(_differentiable) if gradients else inputs
    given = Given(called)
    state.restore()
    call = module.call_1d if isinstance(module, ConvertedModule) else module
    with _Watch(module) as watch, torch.set_grad_enabled(gradients):
        leaves = dict(leaves_in("output", call(*called.args, **called.kwargs)))
    after = RandomState.capture()
    if gradients:
        leaves |= _gradients(module, leaves, tensors)
    leaves |= given.written() | {f"buffer {name}": buffer for name, buffer in module.named_buffers()}
    return Outcome(
        {name: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for name, leaf in leaves.items()},
        after,
        frozenset(watch.draws),
        watch.narrowest,
    )


def _differentiable(tensor: torch.Tensor) -> torch.Tensor:
    """What the model is called with where gradients are wanted: not a leaf, for forward may write to it."""
    return tensor.requires_grad_().clone() if tensor.is_floating_point() or tensor.is_complex() else tensor


def _gradients(module: nn.Module, outputs: dict[str, Any], inputs: list[torch.Tensor]) -> dict[str, Any]:
    """The gradients of every parameter and input, for cotangents that are the same in every run and dtype."""
    generator = torch.Generator().manual_seed(0)
    ends = [leaf for leaf in outputs.values() if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    cotangents = [
        torch.randn(end.shape, generator=generator, dtype=torch.float64, device="cpu").to(end) for end in ends
    ]
    wanted: dict[str, torch.Tensor] = {}
    wanted |= {f"gradient of {name}": weight for name, weight in module.named_parameters() if weight.requires_grad}
    wanted |= {f"gradient of input {i}": tensor for i, tensor in enumerate(inputs) if tensor.requires_grad}
    if not ends or not wanted:
        return {}
    try:
        found = torch.autograd.grad(ends, list(wanted.values()), cotangents, allow_unused=True)
    except RuntimeError as error:
        raise UnsupportedError(
            f"gradients=True, and {type(module).__name__} has none: {error}; compare with gradients=False"
        ) from error
    return dict(zip(wanted, found, strict=True))


class _Watch(WriteGuard):
    """Notes what decides how a run can be judged: random draws, and the precision of intermediate values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.draws: set[str] = set()
        self.narrowest = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.protect(func, args, kwargs)
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__ if isinstance(func, OpOverload) else ""
        if (
            name
            and torch.Tag.nondeterministic_seeded in func.tags
            and "bernoulli" not in name
            and "dropout" not in name
        ):
            self.draws.add(name)
        for tensor in (result,) if isinstance(result, torch.Tensor) else pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
                real = tensor.dtype.to_real()
                if torch.finfo(real).eps > torch.finfo(self.narrowest).eps:
                    self.narrowest = real
        return result
