"""Runs clones of a model for a `Recorder`, which it tells what call of the model's begins; what runs, it can't know."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from convsurgeon.converted.scope import Scope
from convsurgeon.fitting.recording import Recorder
from convsurgeon.runs.own_run import OwnRun, is_plain, weights_of
from convsurgeon.samples import Sample
from convsurgeon.spellings import module_of


class Calls(TorchFunctionMode):
    """While active, every function of torch that Python calls begins a unit, named by the innermost module followed."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._paths = [""]
        self._followed: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._recorder.begin(getattr(func, "__name__", str(func)), self._paths[-1])
        return func(*args, **(kwargs or {}))

    def follow(self, path: str, module: nn.Module) -> None:
        """From now on, know when `module` and what is in it run; it is a clone, and keeps the hooks."""
        if path in self._followed:
            return
        self._followed.add(path)
        for name, one in module.named_modules(prefix=path):
            if not isinstance(one, (torch.jit.ScriptModule, Scope)):  # the latter aren't called
                one.register_forward_pre_hook(functools.partial(self._enter, name), prepend=True)
                one.register_forward_hook(self._leave, always_call=True)

    def _enter(self, path: str, *_: Any) -> None:
        self._paths.append(path)
        self._recorder.begin(path, path)

    def _leave(self, *_: Any) -> None:
        self._paths.pop()
        self._recorder.begin(self._paths[-1], self._paths[-1])


class RecordedRun(OwnRun):
    """Runs a graph node by node, each a unit; a node that calls a module with parts of its own is told by these."""

    def __init__(self, root: fx.GraphModule, sample: Sample, recorder: Recorder) -> None:
        super().__init__(root, sample)
        self._recorder = recorder
        self._calls = Calls(recorder)
        for one in self.own.values():
            recorder.hold(weights_of(one))

    def run_through(self) -> None:
        """Run every node."""
        for _ in self.steps():
            pass

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        self._recorder.begin(n.name, module_of(n))
        return super().fetch_args_kwargs_from_env(n)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.own[target]
        if is_plain(module):
            return module(*args, **kwargs)
        with self._calls:
            self._calls.follow(target, module)
            return module(*args, **kwargs)
