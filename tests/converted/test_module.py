"""The converted module keeps names, state, modes, hooks and metadata, however it is copied, saved or captured."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import convsurgeon
from convsurgeon import ConvertedModule, Origin, Scope


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm1d(channels)
        self.gain = nn.Parameter(torch.ones(1, channels, 1))
        self.weight = nn.Parameter(torch.randn(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(self.norm(self.conv(x)) * self.gain, 0.1, self.training)
        return F.conv1d(y, self.weight) + x


class Model(nn.Module):
    """Aliases, a module that is never called, buffers of both kinds, a frozen parameter, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 5)
        self.blocks = nn.ModuleList([Block(4), Block(4)])
        self.alias = self.blocks[0]
        self.unused = nn.Sequential(nn.Conv1d(3, 3, 3), nn.Linear(3, 2))
        self.register_buffer("scale", torch.full((4, 1), 2.0))
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.head = nn.Linear(4, 3)
        self.head.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x) * self.scale + self.hidden
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-1))


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def module(model: Model) -> ConvertedModule:
    return convsurgeon.convert(model, torch.randn(2, 2, 16)).module


def saved_and_loaded(module: ConvertedModule) -> ConvertedModule:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[ConvertedModule], ConvertedModule]] = {
    "itself": lambda module: module,
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
    "copy of a copy": lambda module: pickle.loads(pickle.dumps(copy.deepcopy(module))),
}


@pytest.mark.parametrize("how", COPIES)
def test_every_copy_is_the_same(model: Model, module: ConvertedModule, how: str) -> None:
    module.register_forward_hook(_plus_one)
    result = COPIES[how](module)
    x = torch.randn(3, 2, 20)
    torch.testing.assert_close(result(x), model(x) + 1)
    assert isinstance(result, ConvertedModule)
    assert type(result).__name__ == "Model"
    assert list(result.state_dict()) == list(model.state_dict())
    assert [name for name, _ in result.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in result.named_buffers()] == [name for name, _ in model.named_buffers()]
    assert [(n, p.requires_grad, p.dtype) for n, p in result.named_parameters()] == [
        (n, p.requires_grad, p.dtype) for n, p in model.named_parameters()
    ]
    assert result.alias is result.blocks[0]
    assert type(result.unused[0]) is nn.Conv1d
    assert isinstance(result.alias, Scope)
    assert [node.meta["convsurgeon"] for node in result.graph.nodes] == [
        node.meta["convsurgeon"] for node in module.graph.nodes
    ]
    assert [node.stack_trace for node in result.graph.nodes] == [node.stack_trace for node in module.graph.nodes]
    assert all("in forward" in node.stack_trace for node in result.graph.find_nodes(op="call_module"))
    assert result.load_state_dict(model.state_dict()) == ([], [])
    torch.testing.assert_close(result(x), model(x) + 1)


def _plus_one(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    return output + 1


def test_the_graph_of_a_thousand_layers_can_be_pickled() -> None:
    model = nn.Sequential(*(nn.Conv1d(1, 1, 1) for _ in range(1000)))
    module = convsurgeon.convert(model, torch.randn(1, 1, 2), verify=False).module
    assert pickle.loads(pickle.dumps(module)).code == module.code


def test_each_node_says_what_it_stands_for(model: Model, module: ConvertedModule) -> None:
    origins = {node.name: node.meta["convsurgeon"] for node in module.graph.nodes}
    assert origins["stem"] == Origin("stem", "conv1d", "2d")
    assert origins["x_2d"] == Origin("x", "border", "2d")
    assert origins["head"] == Origin("head", "", "1d")
    stem = next(node for node in module.graph.nodes if node.name == "blocks_0_conv")
    assert [path for path, _ in stem.meta["nn_module_stack"].values()] == ["blocks.0", "blocks.0.conv"]


def test_a_checkpoint_of_either_shape_loads(model: Model, module: ConvertedModule) -> None:
    one_d = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    one_d |= {name: value.abs() for name, value in one_d.items() if "running_var" in name}
    model.load_state_dict(one_d)
    module.load_state_dict(one_d, strict=True)
    x = torch.randn(1, 2, 16)
    torch.testing.assert_close(module(x), model(x))
    two_d = module.state_dict()
    assert two_d["stem.weight"].shape == (4, 2, 1, 5)
    other = convsurgeon.convert(Model().eval(), x).module
    other.load_state_dict(two_d, strict=True)
    torch.testing.assert_close(other(x), model(x))
    with pytest.raises(RuntimeError, match=r"size mismatch for stem\.weight"):
        module.load_state_dict({**one_d, "stem.weight": torch.randn(4, 2, 3)})


def test_modes_switch_and_stay_per_module(model: Model, module: ConvertedModule) -> None:
    x = torch.randn(2, 2, 16)
    for one in (model, module):
        one.train()
        one.blocks[1].eval()
    assert convsurgeon.verify(model, module, x, gradients=True).passed
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    torch.testing.assert_close(module(x), expected)


def test_it_trains_like_the_original(model: Model) -> None:
    module = convsurgeon.convert(model, torch.randn(2, 2, 16), copy_weights=True).module
    losses = []
    for one in (model.train(), module.train()):
        optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], 0.01, momentum=0.9)
        torch.manual_seed(1)
        for _ in range(4):
            optimizer.zero_grad()
            loss = one(torch.randn(4, 2, 16)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:4] == pytest.approx(losses[4:], rel=1e-4)


def test_it_is_exported_traced_and_compiled(model: Model, module: ConvertedModule) -> None:
    x = torch.randn(2, 2, 16)
    expected = model(x)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(module, x)(x), expected)
    torch.testing.assert_close(torch.compile(module, backend="aot_eager")(x), expected)
    torch.testing.assert_close(fx.symbolic_trace(module)(x), expected)


@pytest.mark.parametrize("lift", ["regions", "ops"])
def test_converting_twice_changes_nothing(model: Model, lift: str) -> None:
    x = torch.randn(2, 2, 16)
    once = convsurgeon.convert(model, x, lift=lift)
    twice = convsurgeon.convert(once.module, x, lift=lift)
    assert twice.module.code == once.module.code
    assert not twice.plan.lifted
    assert {k: v.shape for k, v in twice.module.state_dict().items()} == {
        k: v.shape for k, v in once.module.state_dict().items()
    }
    torch.testing.assert_close(twice.module(x), model(x))


def test_a_part_of_the_graph_can_not_be_called_alone(module: ConvertedModule) -> None:
    with pytest.raises(convsurgeon.UnsupportedError, match="this Block was captured into the graph"):
        module.blocks[0](torch.randn(1, 4, 8))


def test_a_graph_module_is_taken_as_it_is(model: Model) -> None:
    x = torch.randn(2, 2, 16)
    graph = fx.symbolic_trace(model)
    conversion = convsurgeon.convert(graph, x)
    assert conversion.plan.capture.how == "graph"
    torch.testing.assert_close(conversion.module(x), model(x))
    assert len(conversion.plan.convolutions) == 5


def test_a_class_whose_module_can_not_be_imported_is_pickled_by_its_name() -> None:
    class Block(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    Block.__module__, Block.__qualname__ = "ran_from_a_string", "Block"
    module = convsurgeon.convert(nn.Sequential(Block(nn.Conv1d(2, 2, 3))), torch.randn(2, 2, 9)).module
    assert torch.equal(pickle.loads(pickle.dumps(module))(x := torch.randn(2, 2, 9)), module(x))


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_graph_that_names_a_memory_format_is_pickled(protocol: int) -> None:
    class Contiguous(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).contiguous(memory_format=torch.contiguous_format)

    x = torch.randn(2, 3, 9)
    module = convsurgeon.convert(Contiguous(nn.Conv1d(3, 4, 3)).eval(), x).module
    assert torch.equal(pickle.loads(pickle.dumps(module, protocol))(x), module(x))


def test_data_parallel_replicates_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_each(tensors: list[torch.Tensor], devices: list[int], detach: bool = False) -> list[list[torch.Tensor]]:
        return [[one.detach() if detach else one * 1 for one in tensors] for _ in devices]

    replicating = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(replicating, "_broadcast_coalesced_reshape", on_each)
    x = torch.randn(2, 2, 16)
    module = convsurgeon.convert(model.eval(), x).module
    for replica in replicating.replicate(module, [0, 1]):
        assert type(replica) is type(module)
        assert torch.equal(replica(x), module(x))
        replica(x).sum().backward()
    gradient = module.get_parameter("blocks.0.gain").grad
    assert gradient is not None


@pytest.mark.parametrize("branches", [False, True])
def test_weight_norm_that_is_in_the_graph_is_not_taken_off(branches: bool) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with pytest.warns(FutureWarning, match="weight_norm"):
                self.conv = nn.utils.weight_norm(nn.Conv1d(3, 4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y * 2 if branches and float(y.detach().sum()) > 1e9 else y

    model, x = Normed().eval(), torch.randn(2, 3, 9)
    module = convsurgeon.convert(model, x).module
    with pytest.raises(ValueError, match="weight_norm of 'weight' not found"):
        nn.utils.remove_weight_norm(module.conv)
    torch.testing.assert_close(module(x), model(x))


def test_a_hook_on_what_went_into_the_graph_is_told_of() -> None:
    model = nn.Sequential(Block(2), nn.Conv1d(2, 2, 3)).eval()
    module = convsurgeon.convert(model, torch.randn(2, 2, 9)).module
    place, layer = module.get_submodule("0"), module.get_submodule("0.conv")
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        with pytest.warns(UserWarning, match=r"Scope\[Block\] isn't called(.|\n)*neither is its hook"):
            getattr(place, register)(lambda *_: None)
    seen: list[torch.Size] = []
    layer.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    module(torch.randn(2, 2, 9))
    assert seen == [(2, 2, 1, 9)]


def test_a_module_that_is_set_in_place_of_what_went_into_the_graph_is_told_of() -> None:
    model = nn.Sequential(Block(2), nn.Conv1d(2, 2, 3)).eval()
    module = convsurgeon.convert(model, torch.randn(2, 2, 9)).module
    with pytest.warns(UserWarning, match=r"Scope\[Block\] isn't called(.|\n)*to set another '0' changes nothing"):
        setattr(module, "0", Block(2))
