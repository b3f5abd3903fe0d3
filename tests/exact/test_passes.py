"""What rewriting tells, shares, refuses and leaves intact."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact_support import CAPTURES, rewritten, wide
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import convsurgeon
from convsurgeon.exact import REWRITES, passes, rewrite_exactly

EVERYTHING = ["split_kernel:7", "fold_stride", "fold_dilation", "fold_batch_norm", "transposed_as_convolution"]


def network() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(1, 8, 40, 4),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 8, 9, padding="same"),
        nn.Conv1d(8, 8, 3, dilation=2, groups=2),
        nn.Tanh(),
        nn.ConvTranspose1d(8, 4, 5, 2, 2, 1),
    ).double()
    model[1].running_mean.normal_(), model[1].running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    return model.eval()


def test_the_first_layer_of_m5_costs_as_much_without_its_stride() -> None:
    model = nn.Sequential(nn.Conv1d(1, 32, 80, 4), nn.BatchNorm1d(32), nn.ReLU()).eval()
    x = torch.randn(1, 1, 16000)
    conversion = convsurgeon.convert(model, x)
    notes = rewrite_exactly(conversion.module, ["fold_stride"], x)
    (note,) = notes.rewritten
    assert (note.before.macs, note.after.macs) == (10_191_360, 10_191_360)
    assert note.was == "conv2d(1, 32, 80, stride=4)"
    assert note.became == "pad + 2 x reshape + Conv2d 20x4"
    assert notes.baked == note.baked == ("0.weight",)
    assert "baked: 0.weight" in str(notes)
    assert notes.to_json()["rewritten"][0]["after"]["macs"] == 10_191_360
    assert convsurgeon.verify(model, conversion.module, x).passed


@CAPTURES
def test_everything_together(capture: Any) -> None:
    model, x = network(), wide(2, 1, 301)
    module, notes = rewritten(model, x, EVERYTHING, lengths=(200, 202, 333), capture=capture)
    assert {note.rewrite for note in notes.rewritten} == {name.partition(":")[0] for name in EVERYTHING}
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(other(x), model(x), rtol=1e-12, atol=1e-12, check_stride=False)
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-12, atol=1e-12, check_stride=False)
    assert copy.deepcopy(module).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    module(x).sum().backward()
    assert {name for name, one in module.named_parameters() if one.grad is None} == {"1.weight", "1.bias"}
    assert set(model.state_dict()) <= set(module.state_dict())


@CAPTURES
def test_a_folded_graph_can_be_rewritten_from_decomposed_operators(capture: Any) -> None:
    model, x = nn.Sequential(nn.Conv1d(2, 4, 7, 3, dilation=1), nn.ConvTranspose1d(4, 2, 4, 2)).double(), wide(2, 2, 50)
    program = torch.export.export(model, (x,)).run_decompositions()
    conversion = convsurgeon.convert(program)
    assert "aten.convolution" in str(conversion.module.graph)
    notes = rewrite_exactly(conversion.module, ["fold_stride", "transposed_as_convolution"], x)
    assert len(notes.rewritten) == 2
    torch.testing.assert_close(conversion.module(x), model(x), rtol=1e-12, atol=1e-12, check_stride=False)


def test_the_original_is_left_as_it_is() -> None:
    model, x = network(), wide(2, 1, 301)
    before = {name: (tensor.clone(), tensor.shape) for name, tensor in model.state_dict().items()}
    rewritten(model, x, EVERYTHING)
    assert all(torch.equal(tensor, before[name][0]) for name, tensor in model.state_dict().items())


class Gated(nn.Module):
    """A causal block of two dilated convolutions, gated, as in a temporal network."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.gate = (nn.Conv1d(3, 4, 3, dilation=4).double() for _ in range(2))
        self.last = nn.Conv1d(4, 2, 2, dilation=4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(x, (8, 0))
        x = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
        return self.last(nn.functional.pad(x, (4, 0)))


@CAPTURES
def test_folded_convolutions_share_their_folds(capture: Any) -> None:
    module, notes = rewritten(Gated(), wide(2, 3, 50), ["fold_dilation"], lengths=range(20, 40), capture=capture)
    assert len(notes.rewritten) == 3
    reshapes = [node for node in module.graph.nodes if "reshape" in str(node.target)]  # type: ignore[union-attr]
    assert len(reshapes) == 2


def test_a_fold_is_not_shared_where_padding_behind_would_see_what_is_cut_off() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3, dilation=2), nn.ReLU(), nn.Conv1d(2, 2, 3, dilation=2, padding=2)).double()
    module, _ = rewritten(model, wide(2, 2, 50), ["fold_dilation"], lengths=range(20, 40))
    assert sum("reshape" in str(node.target) for node in module.graph.nodes) == 4  # type: ignore[union-attr]


def test_a_fold_is_not_shared_through_what_writes_in_place() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 2, 3, dilation=2), nn.ReLU(inplace=True), nn.Conv1d(2, 2, 3, dilation=2)
    ).double()
    module, _ = rewritten(model, wide(2, 2, 50), ["fold_dilation"], lengths=range(20, 40))
    assert sum("reshape" in str(node.target) for node in module.graph.nodes) == 4  # type: ignore[union-attr]


def test_a_fold_is_not_shared_by_those_who_read_before_and_after_a_write() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.other, self.last = (nn.Conv1d(2, 2, 3, dilation=2).double() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            bent = torch.tanh(x)
            one = self.one(x)
            x += 1
            return one + self.other(x) + self.last(bent)

    model, x = Writing(), wide(2, 2, 50)
    expected = model(x)
    module = convsurgeon.convert(model, x, verify=False).module
    rewrite_exactly(module, ["fold_dilation"], x)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12, check_stride=False)


def test_a_view_behind_sees_the_layout_of_the_original() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3, dilation=2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).view(2, -1)

    rewritten(Flat(), wide(2, 2, 21), ["fold_dilation"], lengths=(22, 23))


class Behind(nn.Module):
    def __init__(self, conv: nn.Module, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.read = conv, read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.conv(x))


OTHERWISE: dict[str, Callable[[], nn.Module]] = {
    "crop_padding": lambda: nn.ConvTranspose1d(2, 4, 4, 2, 1),
    "transposed_as_convolution": lambda: nn.ConvTranspose1d(2, 4, 4, 2, 1),
    "fold_dilation": lambda: nn.Conv1d(2, 4, 3, dilation=2),
    "convolution_as_product": lambda: nn.Sequential(nn.Conv1d(2, 1, 3), nn.Conv1d(1, 4, 3, padding=1)),
    "fold_into_channels:4": lambda: nn.Conv1d(2, 4, 4, 2),
    "fold_into_channels:8": lambda: nn.Conv1d(2, 4, 4, 2),
}
READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "outputs": lambda y: y,
    "in place": lambda y: y.relu_(),
    "view": lambda y: y.view(y.shape[0], -1),
    "view, in place": lambda y: y.relu_().view(y.shape[0], -1),
    "view of a pool": lambda y: F.max_pool1d(torch.relu(y), 2).view(y.shape[0], -1),
    "stride": lambda y: y * torch.relu(y).stride(1),
    "as_strided": lambda y: torch.relu(y).as_strided((2, 3, 4), (7, 5, 1)),
    "write to a reshape": lambda y: (y.reshape(-1).mul_(2), y)[1],
    "dropout": lambda y: F.dropout(F.max_pool1d(y, 2), 0.5, True),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OTHERWISE)
def test_what_reads_strides_behind_a_rewrite_reads_those_of_the_original(name: str, reader: str) -> None:
    torch.manual_seed(0)
    model, x = Behind(OTHERWISE[name](), READERS[reader]).eval(), torch.randn(2, 2, 43)
    conversion = convsurgeon.convert(model, x, exact=[name])
    assert conversion.exact.rewritten
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(conversion.module(x), expected, check_stride=True)


def test_no_copy_stands_behind_a_rewrite_where_nothing_reads_strides() -> None:
    cut = nn.Sequential(nn.Conv1d(2, 2, 3, dilation=2), nn.ReLU(inplace=True), nn.Conv1d(2, 2, 3))
    turned = Behind(nn.Conv1d(2, 4, 3), lambda y: F.linear(torch.relu(y), torch.ones(5, 7)))
    for model, name in ((cut, "fold_dilation"), (turned, "convolution_as_product")):
        conversion = convsurgeon.convert(model.eval(), torch.randn(2, 2, 9), exact=[name])
        (note,) = conversion.exact.rewritten
        assert not {"contiguous", "clone"} & set(note.became.split()), note


def test_only_selected_places_are_rewritten() -> None:
    model, x = nn.Sequential(nn.Conv1d(1, 2, 8, 4), nn.Conv1d(2, 2, 8, 4)), torch.randn(1, 1, 200)
    module = convsurgeon.convert(model, x).module
    assert [note.name for note in rewrite_exactly(module, ["fold_stride"], x, select=["1"]).rewritten] == ["1"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv1d(2, 2, 8, 4), nn.Conv1d(2, 2, 8, 4)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.one(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv(x))


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (nn.Conv1d(2, 2, 8, 4, 2, padding_mode="reflect"), "fold_stride", "separate_padding takes that out of it"),
        (nn.Conv1d(2, 2, 8, 4, dilation=2), "fold_stride", "its dilation is 2"),
        (nn.Conv1d(2, 2, 8, 4, dilation=2), "fold_dilation", "its stride is 4"),
        (nn.ConvTranspose1d(2, 2, 20), "split_kernel", "it is transposed; transposed_as_convolution"),
        (nn.Conv1d(18, 18, 3, groups=18), "ungroup_split", "it has 18 groups"),
        (weight_norm(nn.Conv1d(2, 2, 8, 4)), "fold_stride", "its weight is computed in the graph; say fold=True"),
        (Tied(), "fold_stride", "its weight is tied to one.weight and other.weight"),
        (Twice(), "fold_stride", "its weight is read 2 times"),
        (nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)), "fold_batch_norm", "put the model in eval mode"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2), nn.Conv1d(2, 2, 3)), "fold_batch_norm", "no convolution"),
        (nn.Sequential(nn.Conv1d(2, 2, 1), nn.AvgPool1d(11), nn.Conv1d(2, 2, 1)), "split_pool", "11 is no product"),
        (nn.Sequential(nn.Conv1d(2, 2, 1), nn.AvgPool1d(9, 2), nn.Conv1d(2, 2, 1)), "split_pool", "or overlap"),
        (nn.Sequential(nn.Conv1d(2, 2, 1), nn.MaxPool1d(9, dilation=2), nn.Conv1d(2, 2, 1)), "split_pool", "dilation"),
    ],
)
def test_what_is_refused_and_why(model: nn.Module, name: str, reason: str) -> None:
    channels = 18 if "18" in reason else 2
    x = torch.randn(2, channels, 200)
    module = convsurgeon.convert(model if not isinstance(model, nn.Conv1d) else nn.Sequential(model), x).module
    notes = rewrite_exactly(module, [name], x)
    assert not notes.rewritten
    assert reason in "; ".join(str(one) for one in notes.left)


def test_a_layer_that_is_rewritten_twice_can_be_pickled() -> None:
    model, x = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.BatchNorm1d(4)).eval(), torch.randn(2, 2, 12)
    conversion = convsurgeon.convert(model, x, exact=["fold_batch_norm"])
    assert len(conversion.exact.rewritten) == 2
    torch.testing.assert_close(pickle.loads(pickle.dumps(conversion.module))(x), model(x))


def test_a_convolution_with_other_readers_keeps_its_norm() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x + self.norm(x)

    x = torch.randn(2, 2, 20)
    notes = rewrite_exactly(convsurgeon.convert(Both().eval(), x).module, ["fold_batch_norm"], x)
    assert "read elsewhere" in notes.left[0].reason


def test_loading_the_originals_state_where_weights_are_baked_raises() -> None:
    model, x = nn.Sequential(nn.Conv1d(1, 2, 8, 4)), torch.randn(1, 1, 200)
    module = convsurgeon.convert(model, x).module
    rewrite_exactly(module, ["fold_stride"], x)
    with pytest.raises(convsurgeon.CheckpointError, match="load the state into the original and convert that again"):
        module.load_state_dict(model.state_dict())
    module.load_state_dict(copy.deepcopy(module.state_dict()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fold_strides", "known: convolution_as_product, crop_padding"),
        ("fold_stride:3", "fold_stride takes no number"),
        ("split_kernel:one", "the number is 2 or more"),
    ],
)
def test_wrong_names_are_told(name: str, message: str) -> None:
    x = torch.randn(1, 1, 20)
    module = convsurgeon.convert(nn.Sequential(nn.Conv1d(1, 2, 8, 4)), x).module
    with pytest.raises(ValueError, match=message):
        rewrite_exactly(module, [name], x)


@CAPTURES
@pytest.mark.parametrize("place", ["_sign", "_replace", "run"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_what_is_interrupted_leaves_the_module_as_it_was(
    capture: str, place: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network(), torch.randn(2, 1, 400).double()
    module: Any = convsurgeon.convert(model, x, capture=capture).module
    before, code, expected = dict(module.state_dict(keep_vars=True)), module.code, module(x)
    calls, real = itertools.count(), getattr(passes._Pass, place)

    def interrupted(*args: Any) -> Any:
        if next(calls) == after:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(passes._Pass, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            rewrite_exactly(module, EVERYTHING, x)
    held = module.state_dict(keep_vars=True)
    assert list(held) == list(before)
    assert all(held[name] is tensor for name, tensor in before.items())
    assert module.code == code
    assert torch.equal(module(x), expected)
    assert module.captured_mode is convsurgeon.convert(model, x, capture=capture).module.captured_mode
    module.load_state_dict(model.state_dict())
    assert rewrite_exactly(module, EVERYTHING, x).rewritten
    torch.testing.assert_close(module(x), expected)


def test_every_rewrite_states_its_equation() -> None:
    assert all(one.equation.endswith(".") for one in REWRITES.values())


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_a_dilation_of_one_tap_keeps_its_padding_mode(mode: str) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1, padding=1, dilation=2, padding_mode=mode), nn.Tanh()).double()
    _, notes = rewritten(model, wide(2, 4, 12), ["fold_dilation"], lengths=(13,))
    assert "separate_padding takes that out of it" in notes.left[0].reason


class Centred(nn.Module):
    """A convolution, and a mean that is written as NumPy writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 8, stride=2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y - y.mean(axis=-1, keepdims=True)  # type: ignore[call-overload, no-any-return]


def test_an_operator_in_a_spelling_that_is_not_known_leaves_the_rest_to_be_rewritten() -> None:
    _, notes = rewritten(Centred(), wide(2, 2, 40), ["fold_stride"], lengths=(41,))
    assert [one.name for one in notes.rewritten] == ["conv"]


class Unread(nn.Module):
    """Two dilated convolutions of one value, of which nothing reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.main = (nn.Conv1d(2, 4, 3, dilation=2).double() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.aux(x)
        out: torch.Tensor = self.main(x)
        return out


@CAPTURES
def test_a_fold_that_was_erased_with_what_nothing_reads_is_made_anew(capture: Any) -> None:
    rewritten(Unread(), wide(2, 2, 21), ["fold_dilation"], capture=capture)


class Filters(nn.Module):
    """Fixed filters in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.randn(4, 1, 16).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(x, self.kernel, stride=4)


@pytest.mark.parametrize("name", ["fold_stride", "split_kernel:8"])
def test_a_weight_in_a_plain_attribute_is_rewritten(name: str) -> None:
    _, notes = rewritten(nn.Sequential(Filters(), nn.Tanh()), wide(2, 1, 100), [name], lengths=(90,))
    assert notes.rewritten


class Biased(nn.Module):
    """A convolution without a bias beside a parameter of the name that one would get."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.kernel_bias = nn.Parameter(torch.randn(4, 2, 3)), nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean.normal_()  # type: ignore[operator, union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(nn.functional.conv1d(x, self.kernel))
        return out + self.kernel_bias[:, None]


def test_a_bias_that_is_added_takes_no_name_that_is_taken() -> None:
    rewritten(Biased().double().eval(), wide(2, 2, 20), ["fold_batch_norm"])


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(3)])
def test_an_adaptive_pool_of_one_element_to_several_stays(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 5), pool, nn.Conv1d(4, 2, 1)).double()
    _, notes = rewritten(model, wide(2, 2, 5), ["fix_pool"])
    assert "no pool has a stride of 0" in notes.left[0].reason


def test_a_string_selects_nothing() -> None:
    x = torch.randn(1, 1, 20)
    module = convsurgeon.convert(nn.Sequential(nn.Conv1d(1, 2, 8, 4)), x).module
    with pytest.raises(TypeError, match="give a list of globs"):
        rewrite_exactly(module, ["fold_stride"], x, select="0")


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_mean_of_complex_numbers_stays() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3, dtype=torch.complex64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(x)
            return out.mean(-1)

    conversion = convsurgeon.convert(Mean().eval(), torch.randn(2, 2, 20, dtype=torch.complex64), exact=["fix_pool"])
    assert "no pools of complex numbers" in conversion.exact.left[0].reason
