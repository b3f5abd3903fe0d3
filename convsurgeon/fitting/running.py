"""Runs clones of a model for a `Recorder`, which it tells what call of the model's begins; what runs, it can't know."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from convsurgeon.cloning import clone_module, copied, share_parameters
from convsurgeon.fitting.recording import Recorder
from convsurgeon.observe import GraphRun
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
            if not isinstance(one, torch.jit.ScriptModule):
                one.register_forward_pre_hook(functools.partial(self._enter, name), prepend=True)
                one.register_forward_hook(self._leave, always_call=True)

    def _enter(self, path: str, *_: Any) -> None:
        self._paths.append(path)
        self._recorder.begin(path, path)

    def _leave(self, *_: Any) -> None:
        self._paths.pop()
        self._recorder.begin(self._paths[-1], self._paths[-1])


class RecordedRun(GraphRun):
    """Runs a graph node by node, each a unit; a node that calls a module with parts of its own is told by these.

    The modules and tensors that it runs on are clones of those that the graph reads: cloning the whole tree of a large
    converted model takes longer than running it.
    """

    def __init__(self, root: fx.GraphModule, sample: Sample, recorder: Recorder) -> None:
        super().__init__(root, root.graph, sample)
        self._recorder = recorder
        self._calls = Calls(recorder)
        self._own: dict[str, Any] = {}
        for node in root.graph.nodes:
            if node.op in ("call_module", "get_attr") and node.target not in self._own:
                self._own[node.target] = self._cloned(super().fetch_attr(node.target))

    def run_through(self) -> None:
        """Run every node."""
        for _ in self.steps():
            pass

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        self._recorder.begin(n.name, module_of(n))
        return super().fetch_args_kwargs_from_env(n)

    def fetch_attr(self, target: str) -> Any:
        return self._own[target]

    def _cloned(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value if isinstance(value, nn.Parameter) else copied(value)
            self._recorder.hold((value,))
        elif isinstance(value, nn.Module) and _is_plain(value):
            value = _plain_clone(value)
            self._recorder.hold(
                one for one in (*value._parameters.values(), *value._buffers.values()) if one is not None
            )
        elif isinstance(value, nn.Module):
            value = clone_module(value, share_parameters)
            self._recorder.hold((*value.parameters(), *value.buffers()))
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if _is_plain(module):
            return module(*args, **kwargs)
        with self._calls:
            self._calls.follow(target, module)
            return module(*args, **kwargs)


def _is_plain(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers, without parts or hooks: its forward keeps nothing but buffers."""
    return (
        type(module).__module__.startswith("torch.nn.modules.")
        and not module._modules
        and not module._forward_pre_hooks
        and not module._forward_hooks
    )


def _plain_clone(module: nn.Module) -> nn.Module:
    """A layer of its own with the same parameters, and copies of the buffers."""
    clone = object.__new__(type(module))
    buffers = {name: None if one is None else copied(one) for name, one in module._buffers.items()}
    clone.__dict__.update(module.__dict__, _buffers=buffers)
    return clone
