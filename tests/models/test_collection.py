"""Every model of the collection is converted whole, proven equal, and goes on living: sizes, files, tools, training."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from models.collection import COLLECTION, MAMBA, VITS, WHISPER, Architecture, channels_first, tokens, transformers
from support import ranks_of_convolutions
from torch import nn
from torch.utils import _pytree as pytree

import convsurgeon

pytest.importorskip("transformers", reason="pip install .[models]")
pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]  # what the packages warn of is theirs

FAMILIES = (*("Wav2Vec2Model", "MambaModel", "SpeechT5HifiGan", "UnivNetModel", "SNAC", "TCN, causal"),)
"""One of each kind, for what takes long: torch.export, torch.onnx and torch.compile."""


def over(names: Iterable[str]) -> Any:
    """A test for each of these architectures; all tests of one run in one process, which converts it once."""
    chosen = [one for one in COLLECTION if one.name in names]
    return pytest.mark.parametrize(
        "architecture", [pytest.param(one, id=one.name, marks=pytest.mark.xdist_group(one.name)) for one in chosen]
    )


every = over([one.name for one in COLLECTION])
each_family = over(FAMILIES)


@functools.cache
def original(architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return architecture.build().eval()


@functools.cache
def converted(architecture: Architecture) -> convsurgeon.Conversion:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convsurgeon.convert(original(architecture), architecture.sample)


def leaves(result: Any) -> list[torch.Tensor]:
    """Every tensor in what a model returns, objects of the packages' own included."""
    found = []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += leaves({key: value for key, value in vars(leaf).items() if isinstance(value, torch.Tensor)})
    return found


def run(module: nn.Module, inputs: dict[str, Any], seed: int = 0) -> list[torch.Tensor]:
    _seed(seed)
    return leaves(module(**copy.deepcopy(inputs)))


def _seed(seed: int) -> None:
    import numpy as np

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


@every
def test_it_is_converted_whole_and_equal(architecture: Architecture) -> None:
    model, conversion = original(architecture), converted(architecture)
    assert conversion.verification is not None
    assert conversion.verification.passed
    before, after = (ranks_of_convolutions(m, **architecture.sample) for m in (model, conversion.module))
    assert len(before) == len(after)
    assert (3, 3) in before
    assert all(weight == 4 for _, weight in after), conversion.plan


@every
def test_it_takes_other_sizes_or_says_why_not(architecture: Architecture) -> None:
    module, other = converted(architecture).module, architecture.other
    with torch.no_grad():
        expected = run(original(architecture), other)
        try:
            found = run(module, other)
        except ValueError as error:
            if "captured for inputs with" not in str(error):
                raise
            found = run(by_islands(architecture).module, other)
    assert_close(found, expected)


def by_islands(architecture: Architecture) -> convsurgeon.Conversion:
    return convsurgeon.convert(original(architecture), architecture.sample, capture="islands")


@every
def test_it_is_pickled_and_copied(architecture: Architecture) -> None:
    module = converted(architecture).module
    with torch.no_grad():
        assert_close(run(copy.deepcopy(module), architecture.sample), run(module, architecture.sample))
    as_the_original(architecture, lambda one: run(pickle.loads(pickle.dumps(one)), architecture.sample))


@every
def test_three_steps_of_training_follow_the_original(architecture: Architecture) -> None:
    module = copy.deepcopy(converted(architecture).module)
    model = original.__wrapped__(architecture)  # built anew: hook-style weights that autograd made can't be copied
    if not any(p.requires_grad for p in model.parameters()):
        pytest.skip("it has nothing to train")
    trains = converted(architecture).plan.capture.mode is None and _runs_in_training(architecture)
    try:
        expected = list(_losses(model.train(trains), architecture.sample))
    except RuntimeError as error:
        pytest.skip(f"the original can't be trained on this sample ({error})"[:120])
    found = list(_losses(module.train(trains), architecture.sample))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def _runs_in_training(architecture: Architecture) -> bool:
    try:
        run(copy.deepcopy(original(architecture)).train(), architecture.sample)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _losses(module: nn.Module, inputs: dict[str, Any]) -> Iterator[float]:
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-3)
    for step in range(3):
        optimizer.zero_grad()
        results = [one for one in run(module, inputs, seed=step) if one.is_floating_point()]
        loss = sum((one.square().mean() for one in results), torch.zeros(()))
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
        yield loss.item()


def as_the_original(architecture: Architecture, tool: Callable[[nn.Module], list[torch.Tensor]]) -> None:
    """What a tool makes of the converted model computes the same, unless the tool doesn't take the original either."""
    try:
        found = tool(converted(architecture).module)
    except Exception as error:  # a tool may fail in any way; it is then asked whether it takes the original
        try:
            tool(original(architecture))
        except Exception:
            pytest.skip(f"nor does it take the original ({type(error).__name__})")
        raise
    with torch.no_grad():
        assert_close(found, run(converted(architecture).module, architecture.sample))


def complete(module: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a graph in order: torch.export binds those of a GraphModule by place."""
    if not isinstance(module, torch.fx.GraphModule):
        return inputs
    bound = inspect.signature(module.forward).bind(**inputs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if type(value) not in (dict, tuple)}


@each_family
def test_torch_export_takes_it(architecture: Architecture) -> None:
    def exported(module: nn.Module) -> list[torch.Tensor]:
        given = complete(module, architecture.sample)
        return run(torch.export.export(module, (), given, strict=False).module(), given)

    as_the_original(architecture, exported)


@each_family
def test_onnxruntime_runs_it(architecture: Architecture) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def exported(module: nn.Module) -> list[torch.Tensor]:
        program = torch.onnx.export(module, (), kwargs=architecture.sample, dynamo=True, verbose=False)
        assert program is not None
        file = io.BytesIO()
        program.save(file)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        given = [one.numpy() for one in pytree.tree_leaves(architecture.sample) if isinstance(one, torch.Tensor)]
        return [torch.from_numpy(one) for one in session.run(None, dict(zip(names, given, strict=False)))]

    as_the_original(architecture, exported)


@each_family
def test_torch_compile_takes_it(architecture: Architecture) -> None:
    def compiled(module: nn.Module) -> list[torch.Tensor]:
        torch._dynamo.reset()
        with torch.no_grad():
            return run(torch.compile(module, backend="aot_eager"), architecture.sample)

    as_the_original(architecture, compiled)


@pytest.mark.parametrize("name", ["Wav2Vec2Model", "SpeechT5HifiGan", "TCN, causal"])
def test_the_backend_for_torch_compile_converts_it(name: str) -> None:
    architecture = next(one for one in COLLECTION if one.name == name)
    targets: list[str] = []

    def keep(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        targets.extend(str(getattr(node.target, "__name__", "")) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("inductor")(graph, example_inputs)

    torch._dynamo.reset()
    compiled = torch.compile(original(architecture), backend="convsurgeon", options={"compiler": keep})
    with torch.no_grad():
        assert_close(run(compiled, architecture.sample), run(original(architecture), architecture.sample))
    assert "conv2d" in targets
    assert not {"conv1d", "conv_transpose1d"} & set(targets)


def test_whisper_generates_the_same_tokens() -> None:
    model = _made("WhisperForConditionalGeneration", "WhisperConfig", **{**WHISPER, "use_cache": True})
    sound = channels_first("input_features", 20)(2, 100)
    module = convsurgeon.convert(model, {**sound, "decoder_input_ids": tokens(2, 3)}, capture="islands").module
    expected = model.generate(**sound, max_new_tokens=8, do_sample=False)
    torch.testing.assert_close(module.generate(**sound, max_new_tokens=8, do_sample=False), expected)
    assert {weight for _, weight in ranks_of_convolutions(_Generates(module), **sound)} == {4}


def test_mamba_generates_with_its_cache() -> None:
    model = _made("MambaForCausalLM", "MambaConfig", **MAMBA)
    module = convsurgeon.convert(model, {"input_ids": tokens(2, 12)}, capture="islands").module
    given = {"input_ids": tokens(2, 5), "max_new_tokens": 8, "do_sample": False, "use_cache": True}
    torch.testing.assert_close(module.generate(**given), model.generate(**given))
    torch.testing.assert_close(module.generate(**given), model.generate(**{**given, "use_cache": False}))


def test_vits_speaks_the_same_samples() -> None:
    model = _made("VitsModel", "VitsConfig", **VITS)
    module = convsurgeon.convert(model, {"input_ids": tokens(1, 6)}, capture="islands").module
    for length in (6, 11):
        spoken = []
        for one in (model, module):
            torch.manual_seed(0)
            with torch.no_grad():
                spoken.append(one(input_ids=tokens(1, length)).waveform)
        torch.testing.assert_close(*spoken)


def _made(name: str, config: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return transformers(name, config, **options)().eval()


class _Generates(nn.Module):
    """Calls generate where a module is called."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        return found
