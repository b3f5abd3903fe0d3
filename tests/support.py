"""What the tests look at that no module reports itself: which convolutions ran, where values change form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

import convsurgeon


class _Convolutions(TorchDispatchMode):
    """Notes the rank of the input and of the weight of every convolution that ATen is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranks: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in func.overloadpacket.__name__:
            self.ranks.append((args[0].ndim, args[1].ndim))
        return func(*args, **(kwargs or {}))


def ranks_of_convolutions(module: nn.Module, *args: Any, **kwargs: Any) -> list[tuple[int, int]]:
    """The ranks of (input, weight) of every convolution that `module` computes when it is called.

    ATen's convolution sees batched inputs: 3 and 3 is a 1-D convolution, 4 and 4 a 2-D one.
    """
    with torch.no_grad(), _Convolutions() as seen:
        module(*args, **kwargs)
    return seen.ranks


def form_changes(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that change a value's rank by one: what a runtime would see as a border, whatever the plan says."""
    return [node for node in module.graph.nodes if node.target in (torch.unsqueeze, torch.squeeze)]


def shapes_of_state(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The state_dict's names and shapes."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def converted_and_equal(model: nn.Module, *args: Any, **options: Any) -> convsurgeon.Conversion:
    """Convert `model` on the sample `args`, and check apart from the package's own proof that nothing is 1-D or wrong.

    The same convolutions run, each of them in 2-D, and on the sample the results are close. Both models run from the
    same random state; a model in training mode has its statistics updated.
    """
    conversion = convsurgeon.convert(model, args, **options)
    assert_computes_the_same(conversion.module, model, *args)
    before, after = ranks_of_convolutions(model, *args), ranks_of_convolutions(conversion.module, *args)
    assert set(before) == {(3, 3)}
    assert after == [(4, 4)] * len(before)
    return conversion


def assert_computes_the_same(candidate: nn.Module, reference: nn.Module, *args: Any) -> None:
    """Both modules give close results for `args`, from the same random state."""
    state = torch.get_rng_state()
    with torch.no_grad():
        expected = reference(*args)
        torch.set_rng_state(state)
        torch.testing.assert_close(candidate(*args), expected)


def assert_same(a: Any, b: Any) -> None:
    """Two states hold the same, in the same order, to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class Decays(nn.Module):
    """Its forward writes a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.conv.weight.mul_(0.9)
        return self.conv(x)


class DecaysBehindTorchsBack(Decays):
    """Likewise, where no version tells of it, and from the second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.conv.weight.data.mul_(self.scale)
        self.scale.fill_(0.9)
        return self.conv(x)


def states_of(conversion: convsurgeon.Conversion, model: nn.Module) -> list[dict[str, Any]]:
    """Copies of what the original and the converted module hold."""
    return [copy.deepcopy(module.state_dict()) for module in (model, conversion.module)]


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
