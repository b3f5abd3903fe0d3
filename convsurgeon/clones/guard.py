"""Runs of clones that leave no trace: not in the parameters that they share with a model, nor in autocast's cache."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convsurgeon.clones.cloning import memory_of


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Inside, autocast keeps no weight that it has cast.

    It would keep those of every clone, each a leaf of its own, until the caller leaves autocast.
    """
    before = torch.is_autocast_cache_enabled()
    try:
        torch.set_autocast_cache_enabled(False)
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class WriteGuard(TorchDispatchMode):
    """While active, keeps a copy of each parameter of `module` before the first write to it; puts them back on leaving.

    Only what is written is ever copied, and most runs write nothing: parameters are looked for once something is
    written, so `module` is best the one whose clone runs. Writes that ATen doesn't see (through NumPy) aren't seen.
    Autocast's cache is off, and nothing is compiled: under a mode, dynamo skips what it meets, and would go on skipping
    it for the caller. Operators that take functions (``torch.cond``) pass through as a whole.
    """

    supports_higher_order_operators = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._module = module
        self._saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def saw_writes(self) -> bool:
        """Whether a parameter was written to."""
        return bool(self._saved)

    def __enter__(self) -> Any:
        with ExitStack() as around:
            around.enter_context(without_autocast_cache())
            around.enter_context(torch.compiler.set_stance("force_eager"))
            self._around = around.pop_all()
        return super().__enter__()  # type: ignore[no-untyped-call]  # likewise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.protect(func, args, kwargs)
        return func(*args, **(kwargs or {}))

    @functools.cached_property
    def _parameters(self) -> dict[int, list[torch.Tensor]]:
        """The parameters by their memory; those of which there is a copy are taken out."""
        found: dict[int, list[torch.Tensor]] = {}
        for parameter in self._module.parameters():
            found.setdefault(memory_of(parameter), []).append(parameter.data)
        return found

    def protect(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep a copy of what `func` is about to write to; a subclass calls this before it runs `func`."""
        if not isinstance(func, OpOverload) or func._schema.is_mutable:
            for leaf in pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, torch.Tensor):
                    self._saved += [(kept, kept.clone()) for kept in self._parameters.pop(memory_of(leaf), ())]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # likewise
        finally:
            self._around.close()
            self.restore()

    def restore(self) -> None:
        """Put back what was written to while it was active."""
        with torch.no_grad():
            for parameter, before in self._saved:
                parameter.copy_(before)
