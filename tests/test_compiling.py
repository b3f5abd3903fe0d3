"""``torch.compile(backend="convsurgeon")``: what dynamo captures is converted, whatever compiles it then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._dynamo.backends.registry import lookup_backend

import convsurgeon


class Residual(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, dilation=dilation))
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout1d(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.drop(self.norm(self.conv(F.pad(x, (self.pad, 0))))))


class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv1d(4, 8, 1), *(Residual(2**i) for i in range(3)))
        self.up = nn.ConvTranspose1d(8, 4, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(x)
        n, c, length = y.shape
        y = y.view(n, 2, c // 2, length).transpose(1, 2).reshape(n, c, length)
        return self.up(F.max_pool1d(y, 2)).mean(-1)


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Keeping:
    """A compiler that keeps the graphs that it is given, and runs them as they are, or as "aot_eager" does."""

    def __init__(self, then: str = "eager") -> None:
        self.graphs: list[fx.GraphModule] = []
        self._then = lookup_backend(then)

    def __call__(self, graph: fx.GraphModule, example_inputs: Any) -> Any:
        self.graphs.append(graph)
        return self._then(graph, example_inputs)

    def convolutions(self) -> set[Any]:
        """The functions that convolve, in all graphs."""
        nodes = (node for graph in self.graphs for node in graph.graph.nodes if node.op == "call_function")
        return {node.target for node in nodes if "conv" in node.target.__name__}


def compiled(model: nn.Module, compiler: Keeping, **options: Any) -> Any:
    return torch.compile(
        model, backend="convsurgeon", options={"compiler": compiler, **options.pop("given", {})}, **options
    )


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_model_is_the_model_and_runs_in_2d(compiler: str, training: bool) -> None:
    model = TCN().train(training)
    keeping = Keeping(compiler)
    fast = compiled(model, keeping)
    for shape in ((2, 4, 16), (3, 4, 24), (3, 4, 40)):
        x, results = torch.randn(shape), []
        for module in (model, fast):
            torch.manual_seed(0)
            model.zero_grad()
            found = module(x)
            found.sum().backward()
            results.append((found.detach(), [p.grad for p in model.parameters()]))
        torch.testing.assert_close(*results)
    assert keeping.convolutions() == {torch.conv2d, torch.conv_transpose2d}


@pytest.mark.slow
def test_inductor_compiles_it() -> None:
    model = TCN().eval()
    x = torch.randn(2, 4, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="convsurgeon")(x), model(x))
        options = {"compiler_options": {"layout_optimization": False}}
        torch.testing.assert_close(torch.compile(model, backend="convsurgeon", options=options)(x), model(x))


def test_a_region_has_two_borders_and_globs_choose() -> None:
    keeping = Keeping()
    x = torch.randn(2, 4, 16)
    compiled(TCN().eval(), keeping)(x)
    changes = [str(n.args[0]) for n in keeping.graphs[0].graph.nodes if n.target in (torch.unsqueeze, torch.squeeze)]
    assert [name for name in changes if "weight" not in name] == ["l_x_", "x", "x_1", "x_2"]  # x: weights, computed
    torch._dynamo.reset()
    chosen = Keeping()
    compiled(TCN().eval(), chosen, given={"exclude": ["blocks.1", "up"]})(x)
    targets = [node.target for node in chosen.graphs[0].graph.nodes]
    assert targets.count(torch.conv1d) == 1
    assert targets.count(torch.conv2d) == 3
    assert torch.conv_transpose1d in targets


def test_graphs_without_convolutions_pass_as_they_are() -> None:
    keeping = Keeping()
    compiled(nn.Linear(3, 3), keeping)(torch.randn(2, 3))
    assert not isinstance(keeping.graphs[0], convsurgeon.ConvertedModule)


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        if y.sum() > 0:
            return self.two(y)
        return self.two(-y)


def test_graph_breaks_and_dynamic_shapes_are_dynamos_own() -> None:
    model, keeping = Breaks().eval(), Keeping()
    fast = compiled(model, keeping, dynamic=True)
    for length in (9, 17, 30):
        x = torch.randn(1, 4, length)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
    assert len(keeping.graphs) >= 2
    assert keeping.convolutions() == {torch.conv2d}


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.one(x)
        with torch.autocast("cpu", torch.bfloat16):
            z = self.two(y)
        return y, z.float()


def autocast_nesting() -> int:
    """How many regions of autocast this thread is in, and one."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting() + 1


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_a_region_of_autocast_is_not_entered_while_the_graph_is_read(compiler: str) -> None:
    model, x = Mixed().eval(), torch.randn(2, 4, 16)
    keeping = Keeping(compiler)
    before = autocast_nesting()
    with torch.no_grad():
        torch.testing.assert_close(compiled(model, keeping)(x), model(x))
    assert autocast_nesting() == before
    assert keeping.convolutions() == {torch.conv2d}


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(Exception, match="options has 'unit'; accepted: compiler"):
        torch.compile(nn.Conv1d(3, 3, 1), backend="convsurgeon", options={"unit": -1})(torch.randn(1, 3, 4))
