"""One run of a model with its Python in place: what convolves, how each part is called, who reads whose weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from convsurgeon.clones.cloning import clone_module, copied, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import RandomState, preserved_random_state
from convsurgeon.runs.faithful import Call
from convsurgeon.samples import Sample

_CALLS_KEPT = 3
"""Calls of a submodule that are kept: more of the same kind teach nothing."""


@dataclass(slots=True)
class Recording:
    """What a run showed, by the submodules' qualified names.

    `convolves`: those in which a 1-D convolution ran, and `themselves` those whose own forward called it. `kinds`: the
    ways in which a submodule was called, as (structure, ranks, flags). `callers`: the submodules that were running when
    it was called. `readers`: the submodules that were running when one of a convolution's tensors was used outside that
    convolution's own forward, by the tensor's name.
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    kinds: dict[str, set[Any]] = field(default_factory=dict)
    convolves: set[str] = field(default_factory=set)
    themselves: set[str] = field(default_factory=set)
    callers: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    readers: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)


def record(model: nn.Module, samples: tuple[Sample, ...]) -> Recording:
    """Run a clone of `model` on every sample; the model, the samples and the random streams stay as they are."""
    clone = clone_module(model, share_parameters)
    watched = _watched(clone)
    recording = Recording()
    stack: list[str] = []
    for path, module in watched.items():
        module.__dict__["forward"] = _recorder(module.forward, path, recording, stack)
    uses = _Uses(clone, watched, recording, stack)
    with preserved_random_state(), torch.no_grad(), uses, _Questions(uses):
        for sample in samples:
            inputs = sample.map(copied)
            clone(*inputs.args, **inputs.kwargs)
    return recording


def _watched(root: nn.Module) -> dict[str, nn.Module]:
    """The submodules that hold tensors of three axes, or hold one that does: where convolutions can be."""
    found = {}
    for path, module in root.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        if any(p.dim() == 3 for p in module.parameters()) or isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            found[path] = module
    return found


def _recorder(forward: Callable[..., Any], path: str, recording: Recording, stack: list[str]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        kept = recording.calls.setdefault(path, [])
        kind = _kind(args, kwargs)
        kinds = recording.kinds.setdefault(path, set())
        keep = len(kept) < _CALLS_KEPT and (not kept or kind not in kinds or len(kept) < 2)
        kinds.add(kind)
        recording.callers.setdefault(path, set()).add(tuple(stack))
        before = (Sample(args, kwargs).map(copied), RandomState.capture()) if keep else None
        stack.append(path)
        try:
            output = forward(*args, **kwargs)
        finally:
            stack.pop()
        if before is not None:
            kept.append(
                Call(before[0], pytree.tree_map_only(torch.Tensor, copied, output), before[1], RandomState.capture())
            )
        return output

    return recorded


def _kind(args: Any, kwargs: Any) -> Any:
    """What two calls must share for one graph to serve both: structure, ranks, dtypes, flags."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return str(spec), tuple(_kind_of_leaf(leaf) for leaf in leaves)


def _kind_of_leaf(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.dim(), leaf.dtype
    return leaf if isinstance(leaf, (bool, str, type(None))) else type(leaf)


class _Uses(WriteGuard):
    """Notes where 1-D convolutions run, and who uses the tensors of a convolution beside itself."""

    def __init__(self, root: nn.Module, watched: dict[str, nn.Module], recording: Recording, stack: list[str]) -> None:
        super().__init__(root)
        self._recording = recording
        self._stack = stack
        self._owners: dict[int, list[tuple[str, str]]] = {}
        for path, module in watched.items():
            for name, tensor in module.named_parameters(recurse=False):
                if tensor.dim() == 3:
                    self._owners.setdefault(id(tensor), []).append((path, f"{path}.{name}".removeprefix(".")))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload) and "convolution" in func.overloadpacket.__name__ and args[1].dim() == 3:
            self._recording.convolves.update(self._stack, ("",))
            self._recording.themselves.add(self._stack[-1] if self._stack else "")
        self.note(args)
        self.protect(func, args, kwargs)
        return func(*args, **(kwargs or {}))

    def note(self, args: Any) -> None:
        """Note the convolutions' tensors among the arguments of a call, where others than their own forward make it."""
        for tensor in _tensors(args):
            for path, name in self._owners.get(id(tensor), ()):
                if path not in self._stack:
                    self._recording.readers.setdefault(name, set()).add(tuple(self._stack))


_T = torch.Tensor
_QUESTIONS = frozenset({_T.shape.__get__, _T.ndim.__get__, _T.size, _T.dim, _T.stride, _T.__len__})  # type: ignore[attr-defined]
"""What is answered otherwise by a tensor with another axis, and runs no operator."""


class _Questions(TorchFunctionMode):
    """Notes who asks the tensors of a convolution for their shape."""

    def __init__(self, uses: _Uses) -> None:
        super().__init__()
        self._uses = uses

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _QUESTIONS:
            self._uses.note(args)
        return func(*args, **(kwargs or {}))


def _tensors(args: Any) -> Iterator[torch.Tensor]:
    for one in args:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (tuple, list)):
            yield from _tensors(one)
