"""Samples as they are written on a command line."""

from __future__ import annotations

import pytest
import torch

from convsurgeon.commands.inputs import Input, sample_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1x80x3000", Input(None, (1, 80, 3000), torch.float32, None)),
        ("7", Input(None, (7,), torch.float32, None)),
        ("tokens=1x12:int64", Input("tokens", (1, 12), torch.int64, None)),
        ("lengths=2:int64=300", Input("lengths", (2,), torch.int64, 300)),
        ("scalar:float64=0.5", Input(None, (), torch.float64, 0.5)),
        ("scalar=5", Input(None, (), torch.float32, 5)),
        ("mask=1x4:bool", Input("mask", (1, 4), torch.bool, None)),
        ("z=2x3:complex64=1+2j", Input("z", (2, 3), torch.complex64, 1 + 2j)),
    ],
)
def test_what_is_read(text: str, expected: Input) -> None:
    assert Input.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--input is ''; accepted"),
        ("1x80xlength", "--input is '1x80xlength'; accepted"),
        ("1x-3", "accepted"),
        ("1x80:float31", "torch has no dtype 'float31'"),
        ("1x80:nn", "torch has no dtype 'nn'"),
        ("1x80=many", "'many' is no real number that float32 holds"),
        ("1x80=1+2j", "'1\\+2j' is no real number that float32 holds"),
        ("1:int64=1.5", "'1.5' is no whole number that int64 holds"),
        ("1:int8=300", "'300' is no whole number that int8 holds"),
        ("1:uint8=-1", "'-1' is no whole number that uint8 holds"),
        ("1:int64=inf", "'inf' is no whole number that int64 holds"),
        ("1:int64=nan", "'nan' is no whole number that int64 holds"),
        ("1:bool=yes", "'yes' is no number"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Input.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:int64=16777217", 16777217),
        ("1:int64=9223372036854775807", 2**63 - 1),
        ("1:int64=-9223372036854775808", -(2**63)),
        ("1:int32=1e6", 1000000),
        ("1:float64=0.1", 0.1),
        ("1:float64=-inf", -float("inf")),
        ("1:complex128=0.1+0.2j", 0.1 + 0.2j),
        ("1:bool=1", True),
        ("1:bool=0", False),
    ],
)
def test_a_value_is_filled_in_as_it_is_written(text: str, expected: complex) -> None:
    """Not through float32."""
    tensor = Input.parse(text).tensor(torch.Generator())
    assert tensor.tolist() == [expected]
    assert type(tensor.item()) is type(expected)


def test_the_sample_is_the_same_each_time() -> None:
    one, two = (sample_of(["2x3x50", "n=4:int64", "mask=2x50:bool", "k=1:int32=3"]) for _ in range(2))
    assert one is not None
    assert two is not None
    assert [tuple(x.shape) for x in one.args] == [(2, 3, 50)]
    assert list(one.kwargs) == ["n", "mask", "k"]
    torch.testing.assert_close(one.args, two.args)
    torch.testing.assert_close(dict(one.kwargs), dict(two.kwargs))
    assert one.kwargs["mask"].all()
    assert one.kwargs["k"].tolist() == [3]
    assert one.kwargs["n"].min() >= 0


def test_it_is_made_on_the_default_device() -> None:
    with torch.device("meta"):
        sample = sample_of(["2x3x50", "n=4:int64", "mask=2x50:bool", "k=1:int32=3"])
    assert sample is not None
    assert {tensor.device.type for tensor in sample.tensors()} == {"meta"}


def test_no_input_is_no_sample_and_a_name_stands_once() -> None:
    assert sample_of([]) is None
    with pytest.raises(ValueError, match="names 'x' twice"):
        sample_of(["x=1x2", "x=1x3"])
