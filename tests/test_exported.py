"""An exported program comes out as one, with the same signature and constraints; and other tools take it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ranks_of_convolutions
from torch import nn
from torch.export import Dim, ExportedProgram, export
from torch.utils import _pytree as pytree

import convsurgeon


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)
        self.register_buffer("shift", torch.randn(1, 8, 1))

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        y = torch.relu(self.norm(self.conv(x)) + self.shift)
        return {"up": self.up(y) * scale, "mean": (y.mean(-1), [y])}


def exported(model: nn.Module, **options: Any) -> ExportedProgram:
    shapes = {"x": {0: Dim("batch", max=64), 2: Dim("length", min=4, max=512)}, "scale": None}
    return export(model, (torch.randn(2, 4, 16),), {"scale": 2.0}, dynamic_shapes=shapes, **options)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_a_program_comes_out_as_one(decomposed: bool, unit_axis: Any) -> None:
    program = exported(Model().eval())
    if decomposed:
        program = program.run_decompositions()
    conversion = convsurgeon.convert(program, unit_axis=unit_axis)
    assert conversion.plan.capture.how == "graph"
    result = conversion.exported_program
    assert [spec.arg.name for spec in result.graph_signature.input_specs] == [
        spec.arg.name for spec in program.graph_signature.input_specs
    ]
    assert result.graph_signature.parameters == program.graph_signature.parameters
    assert list(result.state_dict) == list(program.state_dict)
    assert result.range_constraints == program.range_constraints
    assert result.call_spec == program.call_spec
    assert pytree.tree_structure(result.example_inputs) == program.call_spec.in_spec
    assert result.state_dict["conv.weight"].shape == ((8, 4, 1, 3) if unit_axis == -2 else (8, 4, 3, 1))
    for shape in ((2, 4, 16), (3, 4, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(result.module()(x, scale=2.0), program.module()(x, scale=2.0))
        torch.testing.assert_close(conversion.module(x, scale=2.0), program.module()(x, scale=2.0))
    assert set(ranks_of_convolutions(result.module(), x, scale=2.0)) == {(4, 4)}
    with pytest.raises(ValueError, match="captured for inputs with"):
        conversion.module(torch.randn(2, 4, 600), scale=2.0)


def test_a_program_that_writes_buffers_still_does() -> None:
    program = exported(Model().train())
    for given in (program, program.run_decompositions()):
        conversion = convsurgeon.convert(given)
        assert conversion.plan.capture.mode == "train"
        result = conversion.exported_program
        x = torch.randn(2, 4, 16)
        ours, theirs = result.module(), given.module()
        torch.testing.assert_close(ours(x, scale=2.0), theirs(x, scale=2.0))
        state = conversion.weight_map.to_1d(ours.state_dict())
        torch.testing.assert_close(state, dict(theirs.state_dict()))
        assert state["norm.num_batches_tracked"] > 0


class Writes(nn.Module):
    """Writes to its input, and to a buffer, which it returns as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.register_buffer("mean", torch.zeros(4, 1))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x.mul_(2)
        y = self.conv(x)
        self.mean.mul_(0.5).add_(1)
        self.count.add_(1)
        return y + self.mean, self.mean, self.count


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch's own, in its export
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("unit_axis", [-2, -1])
def test_a_program_that_writes_its_input_and_returns_what_it_writes(decomposed: bool, unit_axis: Any) -> None:
    model, x = Writes().eval(), torch.randn(2, 4, 8)
    with torch.no_grad():
        program = export(model, (x.clone(),))
        program = program.run_decompositions() if decomposed else program
        result = convsurgeon.convert(program, x.clone(), unit_axis=unit_axis).exported_program
        for before, after in zip(
            program.graph_signature.output_specs, result.graph_signature.output_specs, strict=True
        ):
            assert (after.kind, after.target) == (before.kind, before.target)
        ours, theirs = result.module(), program.module()
        for _ in range(2):
            given, expected = x.clone(), x.clone()
            torch.testing.assert_close(ours(given), theirs(expected))
            torch.testing.assert_close(given, expected)


def test_a_program_can_be_saved_and_decomposed() -> None:
    result = convsurgeon.convert(exported(Model().eval())).exported_program
    file = io.BytesIO()
    torch.export.save(result, file)
    file.seek(0)
    x = torch.randn(2, 4, 16)
    torch.testing.assert_close(torch.export.load(file).module()(x, scale=2.0), result.module()(x, scale=2.0))
    names = {node.target for node in result.run_decompositions().graph.nodes}
    assert torch.ops.aten.convolution.default in names


def test_an_input_may_have_a_name_of_pythons() -> None:
    model, x = nn.Conv1d(4, 8, 3).eval(), torch.randn(1, 4, 16)
    program = convsurgeon.convert(export(model, (x,))).exported_program
    assert [spec.arg.name for spec in program.graph_signature.input_specs][-1] == "input"
    torch.testing.assert_close(program.module()(x), model(x))


def test_inputs_and_outputs_may_be_2d() -> None:
    program = exported(Model().eval())
    conversion = convsurgeon.convert(program, io="2d")
    result = conversion.exported_program
    x = torch.randn(2, 4, 16)
    found = result.module()(x.unsqueeze(-2), scale=2.0)
    torch.testing.assert_close(conversion.module.outputs_1d(found), program.module()(x, scale=2.0))


def test_a_module_has_no_program() -> None:
    conversion = convsurgeon.convert(nn.Conv1d(3, 3, 1).eval(), torch.randn(1, 3, 8))
    with pytest.raises(AttributeError, match="no ExportedProgram came in"):
        _ = conversion.exported_program


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(x)


def test_a_region_without_gradient_stays_in_a_program_and_is_told_and_is_opened_in_a_model() -> None:
    x = torch.randn(1, 4, 16)
    model = Frozen().eval()
    conversion = convsurgeon.convert(export(model, (x,)))
    kept = conversion.plan.kept[0]
    assert "a region of its own, which stays as it is, with 1 convolution in it" in kept.reason
    torch.testing.assert_close(conversion.exported_program.module()(x), model(x))
    whole = convsurgeon.convert(model, x, capture="export")
    assert ranks_of_convolutions(whole.module, x) == [(4, 4), (4, 4)]
    whole.module(x).sum().backward()
    assert whole.module.stem.weight.grad is None
    assert whole.module.head.weight.grad is not None


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_module_of_a_program_keeps_its_guards_and_mode(mode: str, compiled: bool) -> None:
    given = exported(Model().train(mode == "train")).module()
    model: Any = torch.compile(given) if compiled else given
    conversion = convsurgeon.convert(model, convsurgeon.Sample((torch.randn(2, 4, 16),), {"scale": 2.0}))
    assert conversion.plan.lifted
    assert conversion.module.captured_mode == mode
    conversion.module(torch.randn(3, 4, 9), scale=2.0)
    with pytest.raises(AssertionError, match="Guard failed"):
        conversion.module(torch.randn(2, 4, 600), scale=2.0)
    assert given._forward_pre_hooks


def test_a_module_of_a_program_without_guards_is_refused() -> None:
    with pytest.raises(convsurgeon.UnsupportedError, match="convert the program itself"):
        convsurgeon.convert(exported(Model().eval()).module(check_guards=False), torch.randn(2, 4, 16))


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x).mean(-1, keepdim=True))
        return y


@pytest.mark.parametrize("length", [Dim("length", min=4, max=512), None])
def test_the_length_that_a_pool_is_fixed_to_is_asserted_in_a_program(length: Any, tmp_path: Path) -> None:
    model, x = Averaged().eval(), torch.randn(2, 4, 16)
    program = export(model, (x,), dynamic_shapes={"x": {2: length}})
    conversion = convsurgeon.convert(program, x, exact=["fix_pool"])
    result = conversion.exported_program.module()
    torch.testing.assert_close(result(x), model(x))
    if length is not None:
        with pytest.raises(AssertionError, match="14"):
            result(torch.randn(2, 4, 17))
    conversion.export(tmp_path / "model.pt2")
