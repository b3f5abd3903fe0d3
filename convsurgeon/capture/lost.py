"""What forward does and a graph would not: refused while it is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class WouldBeLost(RuntimeError):
    """A graph of forward would not do all that forward does: however it is captured."""


@contextmanager
def without_autograd_functions(of: type) -> Iterator[None]:
    """Inside, a ``torch.autograd.Function`` refuses values `of` a kind: captured by its forward, it has no backward.

    So does one whose ``apply`` forward knows by another name (``reverse = Reverse.apply``): that is bound to torch's
    function long before, which looks up what it calls in turn, below it.
    """
    function: Any = torch.autograd.function._SingleLevelFunction
    applied = torch._C._FunctionBase.__dict__["apply"]

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        if not _is_of_torch(cls) and any(isinstance(arg, of) for arg in (*args, *kwargs.values())):
            raise WouldBeLost(f"{cls.__name__} is a torch.autograd.Function, whose backward a graph would lose")
        return applied.__get__(None, cls)(*args, **kwargs)

    function.apply = classmethod(refuse)
    try:
        yield
    finally:
        del function.apply


def _is_of_torch(function: type) -> bool:
    """Whether torch's own machinery for exporting applies it, and not in the place of a user's, as dynamo does."""
    return function.__module__.startswith("torch._") and function.__module__ != "torch._functorch.autograd_function"
