"""What stands for tensors while forward is traced: it takes part where tensors do."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx

from convsurgeon.capture.lost import WouldBeLost
from convsurgeon.capture.places import is_users_file


class ValueProxy(fx.Proxy):
    """A value of the trace, which numbers of NumPy leave every operation to, as they do with tensors.

    Its attributes can't be set: that would be no node, so that no graph would do it. `requires_grad` can, as speech
    models do with their inputs for the sake of checkpointing: nothing that is returned depends on it.

    To forward it is a tensor, by `isinstance` and by its hash; whether the value is one, the first run of the graph
    shows.
    """

    __array_ufunc__ = None

    def __hash__(self) -> int:
        self.is_asked_by(sys._getframe(1))
        return object.__hash__(self)

    def is_asked_by(self, frame: FrameType) -> bool:
        """Whether the one who asks what this is, in this frame, is forward; then it is noted."""
        asks = is_users_file(frame.f_code.co_filename)
        if asks:
            self.tracer.taken_for_tensors.add(self.node)  # type: ignore[attr-defined]  # a ModelTracer
        return asks

    def is_one_of(self, kinds: Any) -> bool:
        """Whether what this stands for is an instance."""
        return issubclass(torch.Tensor, kinds)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _AttributeProxy(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        by = sys._getframe(1).f_globals.get("__name__", "")
        if not by.startswith(_PROXIES) and (name, value) != ("requires_grad", True):
            raise WouldBeLost(f"forward sets {_in_words(self)}.{name}, and a graph would not")
        super().__setattr__(name, value)


class _AttributeProxy(ValueProxy, fx.proxy.Attribute):
    """An attribute of a value, or a method of it."""


class StateProxy(ValueProxy):
    """A parameter or buffer in a trace: a proxy whose shape is known, so that forward may branch on it."""

    def __init__(self, tracer: fx.proxy.TracerBase, node: fx.Node, tensor: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self.tensor = tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.tensor.size() if dim is None else self.tensor.size(dim)

    def dim(self) -> int:
        return self.tensor.dim()

    def numel(self) -> int:
        return self.tensor.numel()

    def is_one_of(self, kinds: Any) -> bool:
        return isinstance(self.tensor, kinds)


@contextmanager
def answering_isinstance() -> Iterator[None]:
    """Inside, values of a trace are instances of what they stand for, where forward asks.

    Not by their ``__class__``: torch's functions in C++ would take them for tensors too.
    """
    real = builtins.isinstance

    def answered(value: Any, kinds: Any) -> bool:
        if type(value) not in _VALUES or real(value, kinds):
            return real(value, kinds)
        frame = sys._getframe(1)
        if frame.f_code is torch.is_tensor.__code__ and frame.f_back is not None:
            frame = frame.f_back
        return bool(value.is_asked_by(frame) and value.is_one_of(kinds))

    builtins.isinstance = answered
    try:
        yield
    finally:
        builtins.isinstance = real


_VALUES = frozenset({ValueProxy, _AttributeProxy, StateProxy})


_PROXIES = ("torch.fx.", __name__)
"""The modules that give proxies what they are made of."""


def _in_words(proxy: fx.Proxy) -> str:
    if isinstance(proxy, fx.proxy.Attribute):
        return f"{_in_words(proxy.root)}.{proxy.attr}"
    node = proxy.node
    return str(node.target) if node.op in ("placeholder", "get_attr") else f"an attribute of what {node.name} gives,"
