"""Every sample of 1-D convolutions that PyTorch tests itself with, in every dtype that it lists for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import converted_and_equal, shapes_of_state
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleInfo, ModuleInput, module_db
from torch.testing._internal.opinfo.core import ErrorInput, OpInfo, SampleInput

import convsurgeon

# pytest makes errors of warnings; torch gives these for the samples themselves
pytestmark = [
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths and odd dilation:UserWarning"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature under active development:UserWarning"),
]

LAYERS = [
    info
    for info in module_db
    if info.module_cls in (nn.Conv1d, nn.ConvTranspose1d, nn.LazyConv1d, nn.LazyConvTranspose1d)
]
FUNCTIONS = [info for info in op_db if info.name in ("nn.functional.conv1d", "nn.functional.conv_transpose1d")]

MAY_BE_REFUSED_BY_TORCH = {
    ("nn.ConvTranspose1d", torch.complex32),  # the database notes it as absent from the CPU, where torch 2.13 has it
}


def entries(infos: list[Any]) -> list[Any]:
    """(entry, dtype) of every dtype that an entry lists for the CPU."""
    return [
        pytest.param(info, dtype, id=f"{info.name}-{str(dtype).removeprefix('torch.')}")
        for info in infos
        for dtype in sorted(info.supported_dtypes("cpu"), key=str)
    ]


def runs(model: nn.Module, *args: Any) -> bool:
    """Whether torch computes this at all."""
    try:
        model(*args)
    except (RuntimeError, ValueError):
        return False
    return True


class Tally:
    """How many samples were converted, and how many torch itself refuses; told by ``pytest -s`` and in JUnit's XML."""

    def __init__(self, entry: str, dtype: torch.dtype) -> None:
        self.entry, self.dtype = entry, dtype
        self.converted = self.refused = 0

    def settle(self, record_property: Callable[[str, object], None]) -> None:
        """Record the numbers, and require that every sample was converted, but for what is listed above."""
        record_property("samples converted", self.converted)
        record_property("samples that torch refuses", self.refused)
        print(f"{self.entry}, {self.dtype}: {self.converted} samples converted, {self.refused} refused by torch")
        assert self.converted + self.refused > 0
        if (self.entry, self.dtype) not in MAY_BE_REFUSED_BY_TORCH:
            assert self.refused == 0


def built(info: ModuleInfo, given: ModuleInput, dtype: torch.dtype) -> nn.Module:
    """The layer of one sample, as PyTorch's own tests build it; a lazy one is called once, to learn its shape."""
    layer = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs).to(dtype)
    if info.is_lazy:
        layer(*given.forward_input.args, **given.forward_input.kwargs)
    return layer


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("whole", [True, False], ids=["as the model", "inside a model"])
@pytest.mark.parametrize(("info", "dtype"), entries(LAYERS))
def test_every_sample_of_a_layer_is_converted(
    info: ModuleInfo,
    dtype: torch.dtype,
    whole: bool,
    training: bool,
    unit_axis: int,
    record_property: Callable[[str, object], None],
) -> None:
    tally = Tally(info.name, dtype)
    for given in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training):
        assert not given.forward_input.kwargs
        args = given.forward_input.args
        layer = built(info, given, dtype)
        model = (layer if whole else nn.Sequential(layer)).train(training)
        if not runs(model, *args):
            tally.refused += 1
            continue
        conversion = converted_and_equal(model, *args, unit_axis=unit_axis)
        assert conversion.module.training is training
        assert shapes_of_state(conversion.module) == {
            entry.name: entry.shape_2d for entry in conversion.weight_map.entries
        }
        assert [entry.moves for entry in conversion.weight_map.entries] == [True, False]
        tally.converted += 1
    tally.settle(record_property)


class Call(nn.Module):
    """A function as a model: tensors come in as arguments, settings stand in forward."""

    def __init__(self, function: Callable[..., torch.Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self.function(input, weight, bias, **self.settings)


def call_of(info: OpInfo, sample: SampleInput) -> tuple[nn.Module, tuple[Any, ...]]:
    """The model of one sample, and its arguments."""
    (weight, bias) = sample.args
    return Call(info.op, sample.kwargs), (sample.input, weight, bias)


@pytest.mark.parametrize("options", [{}, {"unit_axis": -1}, {"lift": "ops"}], ids=["regions", "unit_axis=-1", "ops"])
@pytest.mark.parametrize(("info", "dtype"), entries(FUNCTIONS))
def test_every_sample_of_a_function_is_converted(
    info: OpInfo, dtype: torch.dtype, options: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    tally = Tally(info.name, dtype)
    for sample in info.sample_inputs("cpu", dtype):
        model, args = call_of(info, sample)
        if not runs(model, *args):
            tally.refused += 1
            continue
        converted_and_equal(model, *args, **options)
        tally.converted += 1
    tally.settle(record_property)


ERRORS = [
    pytest.param(info, error, id=f"{info.name}-{i}: {error.error_regex}")
    for info in FUNCTIONS
    if info.error_inputs_func is not None
    for i, error in enumerate(info.error_inputs("cpu"))
]


def test_the_database_lists_errors_of_conv1d_and_of_no_other_entry() -> None:
    assert [info.name for info in FUNCTIONS if info.error_inputs_func is not None] == ["nn.functional.conv1d"]
    assert [info.name for info in LAYERS if info.module_error_inputs_func is not None] == []
    assert len(ERRORS) > 0


@pytest.mark.parametrize(("info", "error"), ERRORS)
def test_an_error_is_told_when_the_model_is_converted(info: OpInfo, error: ErrorInput) -> None:
    model, args = call_of(info, error.sample_input)
    with pytest.raises(error.error_type, match=error.error_regex):
        model(*args)
    with pytest.raises(ValueError, match="sample_inputs: Call can't run on") as told:
        convsurgeon.convert(model, args)
    assert isinstance(told.value.__cause__, error.error_type)


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize(("info", "error"), ERRORS)
def test_an_error_stays_an_error_in_a_model_that_was_converted_without_a_sample(
    info: OpInfo, error: ErrorInput, unit_axis: int
) -> None:
    model, args = call_of(info, error.sample_input)
    converted = convsurgeon.convert(model, verify=False, unit_axis=unit_axis).module
    with pytest.raises(error.error_type):
        converted(*args)


@pytest.mark.parametrize("unit_axis", [-2, -1])
@pytest.mark.parametrize(("info", "error"), ERRORS)
def test_arguments_that_the_original_refuses_are_refused_after_conversion(
    info: OpInfo, error: ErrorInput, unit_axis: int
) -> None:
    """Converted on a sample that is right, with default settings, and called with the wrong tensors.

    Where only the settings were wrong, the same tensors run in both, if they have the ranks of the sample.
    """
    _, args = call_of(info, error.sample_input)
    model = Call(info.op, {})
    right = (torch.randn(1, 1, 4), torch.randn(1, 1, 2), torch.randn(1))
    converted = converted_and_equal(model, *right, unit_axis=unit_axis).module
    of_these_ranks = all(one is None or one.dim() == like.dim() for one, like in zip(args, right, strict=True))
    assert runs(converted, *args) is (of_these_ranks and runs(model, *args))
