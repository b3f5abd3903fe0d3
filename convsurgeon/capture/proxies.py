"""What stands for tensors while forward is traced: it takes part where tensors do."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


class ValueProxy(fx.Proxy):
    """A value of the trace, which numbers of NumPy leave every operation to, as they do with tensors."""

    __array_ufunc__ = None

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _AttributeProxy(self, name)


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
