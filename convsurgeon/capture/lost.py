"""What forward does and a graph would not: refused while it is captured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from convsurgeon.capture.places import is_users_file
from convsurgeon.clones.cloning import memory_of


class WouldBeLost(RuntimeError):
    """A graph of forward would not do all that forward does: however it is captured."""


@contextmanager
def without_own_backward() -> Iterator[None]:
    """Inside, neither a ``torch.autograd.Function`` of a user's nor a hook for a value's gradient gets into a graph.

    Captured by its forward alone, it would have no backward. A function is refused where its context is made, for that
    is where every way meets: forward may know ``apply`` by another name (``reverse = Reverse.apply``), bound long
    before, and from torch 2.14 that is not Python's.
    """
    context: Any = torch.autograd.function.BackwardCFunction
    register_hook: Any = torch.Tensor.register_hook

    def refuse(self: Any) -> None:
        if not _is_of_torch(self._forward_cls):
            name = self._forward_cls.__name__
            raise WouldBeLost(f"{name} is a torch.autograd.Function, whose backward a graph would lose")

    def refuse_hook(self: torch.Tensor, hook: Any) -> Any:
        if is_users_file(sys._getframe(1).f_code.co_filename):
            raise WouldBeLost("forward registers a hook for the gradient of a value, which a graph would lose")
        return register_hook(self, hook)

    context.__init__, torch.Tensor.register_hook = refuse, refuse_hook  # type: ignore[method-assign]
    try:
        yield
    finally:
        del context.__init__
        torch.Tensor.register_hook = register_hook  # type: ignore[method-assign]


def _is_of_torch(function: type) -> bool:
    """Whether torch's own machinery applies it, and not in the place of a user's, as dynamo does.

    That is what exports, and, up to torch 2.6, what saves the inputs of a checkpoint, whose backward nothing calls.
    """
    if function is getattr(checkpoint, "_NoopSaveInputs", None):
        return True
    return function.__module__.startswith("torch._") and function.__module__ != "torch._functorch.autograd_function"


class Weights(TorchDispatchMode):
    """The parameters and buffers of a tree, and whatever is computed from them inside, while no graph notes how.

    Forward may find them otherwise than as attributes of its module: in a list, or by ``self.parameters()``; those of
    the model that the tree is a clone of, in a closure. What a hook computes of them, as pruning does, is one of them.
    """

    def __init__(self, *roots: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._first = [one for root in roots for one in (*root.parameters(), *root.buffers(), *hooked(root.modules()))]

    @cached_property
    def _by_memory(self) -> dict[int, torch.Tensor]:
        """They are kept, for what takes the place of another in memory isn't that one."""
        return {memory_of(one): one for one in self._first}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _reads_shapes(func) and any(one in self for one in _tensors((args, kwargs))):
            self._by_memory.update((memory_of(one), one) for one in _tensors(result))
        return result

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return memory_of(tensor) in self._by_memory


FROZEN = (
    "is computed from a parameter or buffer that forward finds otherwise than as an attribute of its module, as in a "
    "list or by a hook, and a graph would hold it as it is now"
)


def _reads_shapes(operator: Any) -> bool:
    """Whether an operator makes a new tensor of the shape and dtype of another, whatever that one holds."""
    name: str = operator.overloadpacket.__name__
    return name.startswith("new_") or name.endswith("_like")


def hooked(modules: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """What hangs on modules as plain attributes, and may be computed by a hook before each call."""
    for module in modules:
        if module._forward_pre_hooks:
            yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
