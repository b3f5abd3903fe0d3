"""The header of a safetensors file: what the library takes is read the same way, and everything else is refused."""

from __future__ import annotations

import io
import json
import re
import struct
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from fuzz_header import BITS, SEEDS, STRICTER, WORDS, agrees, file_of
from hypothesis import event, given, settings
from hypothesis import strategies as st

from convsurgeon.checkpoints.header import Header, StoredTensor, read_header
from convsurgeon.errors import CheckpointError


def entry(dtype: Any = "F32", shape: Any = (2, 1), data_offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def file_with(content: Any, data: int = 8) -> bytes:
    return file_of(json.dumps(content).encode(), bytes(data))


def read(file: bytes) -> Header:
    return read_header(io.BytesIO(file), len(file), "m.safetensors")


def test_what_a_header_says() -> None:
    text = json.dumps({"b": entry(), "__metadata__": {"format": "pt"}, "a": entry("I64", [3], [8, 32])}).encode()
    header = read(file_of(text, bytes(32)))
    assert list(header.tensors) == ["b", "a"]
    assert header.tensors["a"] == StoredTensor("I64", (3,), 8, 32)
    assert header.shapes == {"b": (2, 1), "a": (3,)}
    assert header.metadata == {"format": "pt"}
    assert (header.data_begin, header.data_size) == (8 + len(text), 32)


def test_nothing_behind_the_header_is_read() -> None:
    file = io.BytesIO(file_with({"w": entry()}))
    header = read_header(file, len(file.getvalue()), "m.safetensors")
    assert file.tell() == header.data_begin


def test_no_tensors_and_empty_ones() -> None:
    assert read(file_of(b"{}")).tensors == {}
    empty = read(file_with({"b": entry("F32", [0, 3], [4, 4]), "a": entry("F32", [], [0, 4])}, 4))
    assert empty.shapes == {"b": (0, 3), "a": ()}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "it has 0 bytes; the length of the header alone takes 8"),
        (b"\x02\0\0\0\0\0\0", "it has 7 bytes"),
        (file_of(b""), "it begins with .*, a header of 0 bytes; accepted: 1 to 100000000"),
        (struct.pack("<Q", 100_000_001), "it begins with .*, a header of 100000001 bytes; accepted: 1 to 100000000"),
        (b"PK\x03\x04\0\0\0\x80", r"it begins with b'PK.*', a header of 92\d* bytes"),
        (struct.pack("<Q", 3) + b"{}", "its header takes 3 bytes, and 2 follow: it was cut off"),
        (file_of(b"[]"), r"its header begins with b'\[\]'; expected '{'"),
        (file_of(b" {}"), "its header begins with b' {}'; expected '{'"),
        (file_of(b'\xef\xbb\xbf{"a":1}'), "its header begins with .*; expected '{'"),
        (file_of(b'{"\xff":1}'), "not UTF-8: invalid start byte at byte 2 of its JSON"),
        (file_of(b'{"a":'), r"not JSON: Expecting value: line 1 column 6 \(char 5\)"),
        (file_of(b"{} {}"), "not JSON: Extra data"),
        (file_of(b'{"a":' + b"[" * 100_000), "its JSON is nested too deeply"),
        (file_of(b'{"a":' * 100_000), "its JSON is nested too deeply"),
        (file_of(b'{"a":1,"b":2,"a":3}'), "the key 'a' stands 2 times in one object of its JSON"),
        (file_of(b'{"a":{"shape":[],"shape":[1]}}'), "the key 'shape' stands 2 times"),
        (file_of(b'{"__metadata__":{"k":"v","k":"w"}}'), "the key 'k' stands 2 times"),
        (file_of(b'{"a":NaN}'), "NaN in its JSON"),
        (file_of(b'{"a":-Infinity}'), "-Infinity in its JSON"),
        (file_of(b'{"a":' + b"9" * 5000 + b"}"), "an integer of 5000 digits in its JSON"),
        (file_of(b'{"\\ud800":{}}'), r"'\\ud800' in its JSON is not Unicode"),
        (file_of(b'{"__metadata__":{"k":"\\udc00"}}'), r"'\\udc00' in its JSON is not Unicode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_header_that_is_none(file: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"m\.safetensors is not a sound safetensors file: {words}"):
        read(file)
    assert agrees(file) in ("refused", "stricter")


@pytest.mark.parametrize("metadata", [None, [], "pt", 1])
def test_metadata_that_is_no_object(metadata: Any) -> None:
    words = re.escape(f"__metadata__ is {metadata!r}; expected an object")
    with pytest.raises(CheckpointError, match=words):
        read(file_with({"__metadata__": metadata}, 0))


@pytest.mark.parametrize("value", [None, 1, ["a"], {"a": "b"}, True])
def test_metadata_that_is_no_text(value: Any) -> None:
    words = re.escape(f"__metadata__ has {value!r} under 'k'; expected a string")
    with pytest.raises(CheckpointError, match=words):
        read(file_with({"__metadata__": {"k": value}}, 0))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ([], r"is \[\]; expected an object of dtype, shape and data_offsets"),
        ({"dtype": "F32", "shape": [2]}, "is {.*}; expected an object of dtype, shape and data_offsets"),
        (entry(strides=[1]), "is {.*'strides'.*}; expected an object of dtype, shape and data_offsets"),
        (entry("F128"), "has dtype 'F128'; accepted: F4, F6_E2M3, .*U64"),
        (entry(["F32"]), r"has dtype \['F32'\]; accepted: F4"),
        (entry(shape=[2.0]), r"has shape \[2.0\]; expected a list of integers from 0"),
        (entry(shape=[True, 2]), r"has shape \[True, 2\]; expected a list"),
        (entry(shape=[-1, -2]), r"has shape \[-1, -2\]; expected a list"),
        (entry(shape=[2**64]), r"has shape \[18446744073709551616\]; expected a list"),
        (entry(shape=2), "has shape 2; expected a list"),
        (entry(shape={"0": 2}), "has shape {'0': 2}; expected a list"),
        (entry(shape=[2**63, 2, 0], data_offsets=[0, 0]), "more elements than 64 bits can count"),
        (entry(data_offsets=[0]), r"has data_offsets \[0\]; expected two integers from 0, begin and end"),
        (entry(data_offsets=[0, 8, 8]), "has data_offsets .*; expected two integers"),
        (entry(data_offsets=[-8, 0]), "has data_offsets .*; expected two integers"),
        (entry(data_offsets=[0, 8.0]), "has data_offsets .*; expected two integers"),
        (entry(data_offsets=[False, 8]), "has data_offsets .*; expected two integers"),
        (entry(data_offsets="08"), "has data_offsets '08'; expected two integers"),
        (entry(data_offsets=[8, 0]), r"its data_offsets \[8, 0\] span -8 bytes"),
        (entry(shape=[3]), r"of shape \[3\] in F32 takes 12 bytes; its data_offsets \[0, 8\] span 8 bytes"),
        (entry("F64"), "in F64 takes 16 bytes"),
        (entry("F4", [3], [0, 1]), r"of shape \[3\] in F4 takes 12 bits, no whole bytes; .* span 1 bytes"),
        (entry("F6_E3M2", [2], [0, 1]), "in F6_E3M2 takes 12 bits, no whole bytes"),
        (entry(data_offsets=[8, 16]), "leave a hole: they begin at byte 8, not at 0"),
        (entry("F64", [2], [0, 16]), "end at byte 16, and 8 bytes follow the header: it was cut off"),
    ],
)
def test_a_tensor_that_is_none(tensor: Any, words: str) -> None:
    file = file_with({"conv.weight": tensor})
    with pytest.raises(CheckpointError, match=rf"m\.safetensors is not a sound .*tensor 'conv\.weight' .*{words}"):
        read(file)
    assert agrees(file) in ("refused", "stricter")


def test_minus_zero_is_no_integer() -> None:
    with pytest.raises(CheckpointError, match=r"has shape \[-0\.0\]; expected a list of integers from 0"):
        read(file_of(b'{"w":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'))


@pytest.mark.parametrize(
    ("offsets", "data", "words"),
    [
        (([0, 8], [4, 12]), 12, "the data of tensor 'b' overlap those before: they begin at byte 4, not at 8"),
        (([0, 8], [0, 8]), 8, "the data of tensor 'b' overlap those before: they begin at byte 0, not at 8"),
        (([0, 8], [12, 20]), 20, "the data of tensor 'b' leave a hole: they begin at byte 12, not at 8"),
        (
            ([8, 16], [0, 8]),
            15,
            "the data of tensor 'a' end at byte 16, and 15 bytes follow the header: it was cut off",
        ),
        (([8, 16], [0, 8]), 17, "1 bytes follow the data of its tensors; expected the end of the file"),
    ],
)
def test_data_that_do_not_follow_each_other(offsets: tuple[list[int], list[int]], data: int, words: str) -> None:
    file = file_with({"a": entry(data_offsets=offsets[0]), "b": entry(data_offsets=offsets[1])}, data)
    with pytest.raises(CheckpointError, match=words):
        read(file)
    assert agrees(file) == "refused"


def test_a_file_that_ends_before_its_size() -> None:
    file = file_with({"w": entry()})
    with pytest.raises(CheckpointError, match=rf"it ended at byte 20, and had {len(file)} bytes before"):
        read_header(io.BytesIO(file[:20]), len(file), "m.safetensors")


def test_messages_stay_short() -> None:
    with pytest.raises(CheckpointError) as caught:
        read(file_with({"n" * 10**6: entry(shape=list(range(10**6)))}))
    assert len(str(caught.value)) < 1000


def test_the_dtypes_are_those_of_the_library() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(file_with({"w": entry("no such dtype")}))
    assert set(re.findall("`([A-Z0-9_]+)`", str(caught.value))) == set(BITS)


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_has_its_size(dtype: str) -> None:
    assert agrees(file_with({"w": entry(dtype, [4], [0, BITS[dtype] // 2])}, BITS[dtype] // 2)) == "taken"


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt", "ключ": 'a "quoted"\\\n\t\x01\x7f/ \u2028 🎉'}])
def test_there_and_back_is_the_same_to_the_byte(metadata: dict[str, str] | None) -> None:
    tensors = {
        "conv.weight": torch.randn(4, 3, 5),
        'a "name"\\\n\x1f\x7f/': torch.ones(2, 3, dtype=torch.bfloat16),
        "имя🎉": torch.ones(1, 2, 3, dtype=torch.int8),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "empty": torch.ones(0, 2, 1),
    }
    file = safetensors.torch.save(tensors, metadata)
    header = read(file)
    assert header.shapes == {name: tuple(tensors[name].shape) for name in header.tensors}
    moved = header.with_shapes({"conv.weight": (4, 3, 1, 5), "имя🎉": (1, 2, 1, 3), "in.another.shard": (1,)})
    lifted = read(moved + file[header.data_begin :])
    assert lifted.tensors["conv.weight"] == StoredTensor(
        "F32", (4, 3, 1, 5), header.tensors["conv.weight"].begin, header.tensors["conv.weight"].end
    )
    assert lifted.metadata == header.metadata == metadata
    assert list(lifted.tensors) == list(header.tensors)
    assert lifted.data_begin % 8 == 0
    assert lifted.with_shapes({"conv.weight": (4, 3, 5), "имя🎉": (1, 2, 3)}) == file[: header.data_begin]


def test_what_another_writer_ordered_keeps_its_order() -> None:
    header = read(
        file_of(
            b'{ "b": {"shape": [2], "data_offsets": [4, 12], "dtype": "F32"}, "__metadata__": {"z": "\\u00e9", "a": ""}'
            b', "a": {"data_offsets": [0, 4], "dtype": "F32", "shape": []} }\n\n',
            bytes(12),
        )
    )
    expected = (
        '{"b":{"shape":[2,1],"data_offsets":[4,12],"dtype":"F32"},"__metadata__":{"z":"é","a":""},'
        '"a":{"data_offsets":[0,4],"dtype":"F32","shape":[]}}'
    ).encode()
    written = header.with_shapes({"b": (2, 1)})
    assert written[8:].rstrip(b" ") == expected
    assert int.from_bytes(written[:8], "little") == len(written) - 8
    assert len(written) % 8 == 0


def test_a_shape_for_other_data_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'w' has shape \[2, 1\], and can't have the new shape \[3\]"):
        read(file_with({"w": entry()})).with_shapes({"w": (3,)})


def test_a_header_that_grows_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    header = read(file_with({"w": entry()}))
    monkeypatch.setattr("convsurgeon.checkpoints.header.LARGEST", len(header.text))
    with pytest.raises(CheckpointError, match=r"the header takes \d+ bytes, and safetensors allows"):
        header.with_shapes({"w": (1,) * 50 + (2,)})


@given(st.binary(max_size=200))
def test_random_bytes(some: bytes) -> None:
    event(agrees(some))
    event(agrees(file_of(some)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file in which a few bytes are others, or gone, or new: anywhere, or in its header of the right length."""
    seed, data = draw(st.sampled_from(list(SEEDS.items())))
    part = bytearray(seed if (inside := draw(st.booleans())) else file_of(seed, bytes(data)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(part)))
        part[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return file_of(bytes(part), bytes(data)) if inside else bytes(part)


@settings(max_examples=500)
@given(damaged())
def test_sound_files_with_bytes_changed(file: bytes) -> None:
    event(agrees(file))


NAMES = st.one_of(st.sampled_from(["a", "b", "dtype", "__metadata__", ""]), st.text(max_size=3))
JSON = st.recursive(
    st.one_of(
        st.sampled_from(WORDS[9:20]),
        st.integers().map(str),
        st.floats().map(json.dumps),
        st.text(max_size=3).map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda one: f"[{','.join(one)}]"),
        st.lists(st.tuples(NAMES, inner), max_size=3).map(lambda one: _object(one)),
    ),
    max_leaves=5,
)


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}"


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Tensors in any order, and at most one thing wrong: a value, a key too many or too few, a size, an offset."""
    tensors, at = [], 0
    for _ in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(list(BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        size = BITS[dtype] * torch.Size(shape).numel() // 8
        fields = [("dtype", json.dumps(dtype)), ("shape", json.dumps(shape)), ("data_offsets", f"[{at},{at + size}]")]
        tensors.append((draw(NAMES), draw(st.permutations(fields))))
        at += size
    if draw(st.booleans()):
        keys = st.lists(st.tuples(NAMES, st.text(max_size=3).map(json.dumps)), max_size=2)
        tensors.append(("__metadata__", draw(keys)))
    if tensors and draw(st.booleans()):
        _, fields = draw(st.sampled_from(tensors))
        fields.insert(draw(st.integers(0, len(fields))), (draw(NAMES), draw(JSON)))
        if draw(st.booleans()):
            key, _ = fields.pop(draw(st.integers(0, len(fields) - 1)))
            fields.append((key, draw(JSON)))
    order = draw(st.permutations(tensors))
    text = _object([(name, _object(fields)) for name, fields in order]) + draw(st.sampled_from(["", " ", "\n", "}"]))
    return file_of(text.encode(), bytes(max(at + draw(st.sampled_from([0, 0, 0, 1, -1])), 0)))


@settings(max_examples=1000)
@given(headers())
def test_wrong_headers_made_of_right_parts(file: bytes) -> None:
    event(agrees(file))


@pytest.mark.parametrize(
    "file",
    [
        file_of(b" {}"),
        file_of(b'{"__metadata__":null}'),
        file_of(b'{"a":{"dtype":{"F32":null},"shape":[0],"data_offsets":[0,0]}}'),
        file_of(b'{"a":["F32",[0],[0,0]]}'),
        file_of(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":1}}'),
        file_of(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":' + b"1" * 30 + b"}}"),
        file_of(b'{"__metadata__":{"a":"b","a":"c"}}'),
    ],
)
def test_what_the_library_takes_and_we_do_not(file: bytes) -> None:
    assert safetensors.deserialize(file) is not None
    with pytest.raises(CheckpointError, match=STRICTER):
        read(file)
