"""Fuzzes the reader of safetensors headers with atheris, against the safetensors library.

pip install atheris; python tests/checkpoints/fuzz_header.py -runs=1000000

Arguments are libFuzzer's. `agrees` is what must hold of every input; pytest runs it on what hypothesis makes up.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import safetensors

from convsurgeon.checkpoints.header import BITS, Header, read_header
from convsurgeon.errors import CheckpointError

STRICTER = re.compile(
    r"stands \d+ times in one object|header begins with .*; expected '\{'|__metadata__ is None|has dtype \{"
    r"|expected an object of dtype, shape and data_offsets|an integer of \d+ digits"
)
"""What we refuse and the library takes: keys that stand twice or that nothing reads, white space before the header, and
other spellings of a value that only serde reads so."""

SEEDS = {
    b"{}": 0,
    b'{"__metadata__":{"format":"pt"}}      ': 0,
    b'{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}': 8,
    b'{"__metadata__":{"a":"b"},"x":{"dtype":"F6_E2M3","shape":[4,1],"data_offsets":[0,3]},'
    b'"y":{"dtype":"BF16","shape":[0],"data_offsets":[3,3]},"z":{"dtype":"C64","shape":[],"data_offsets":[3,11]}}': 11,
}
"""Sound headers, and how many bytes of data belong to them."""
WORDS = (
    *('{"', '":', ',"', "[", "]", "{", "}", ",", ":", "0", "1", "2", "4", "8", "-0", "1e1", "NaN", "null", "true", " "),
    *('"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"a"', '"b"', '"\\ud83d"', '"\\u0061"', "\\n", "\\"),
    *('"F32"', '"F4"', '"F6_E3M2"', '"F8_E8M0"', '"BOOL"', '"I64"', "18446744073709551615", "18446744073709551616"),
    *('{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', '{"dtype":"F32","shape":[],"data_offsets":[0,4]}'),
)


def file_of(header: bytes, data: bytes = b"") -> bytes:
    """A file with that header and that data, sound or not."""
    return len(header).to_bytes(8, "little") + header + data


def agrees(file: bytes) -> str:
    """Whether a file is taken by both, the same way, or refused by both ("taken", "refused"), or by us ("stricter").

    Raises:
        AssertionError: anything else.
    """
    theirs, header = _read_by_the_library(file), _read_by_us(file)
    if isinstance(header, CheckpointError):
        assert str(header).startswith("x.safetensors is not a sound safetensors file: ")
        assert theirs is None or STRICTER.search(str(header)), (header, file)
        return "refused" if theirs is None else "stricter"
    assert _facts(header, file[header.data_begin :]) == theirs, file
    again = header.with_shapes({}) + file[header.data_begin :]
    assert len(again) % 8 == header.data_size % 8
    assert _read_by_the_library(again) == theirs, file
    assert read_header(io.BytesIO(again), len(again), "").tensors == header.tensors
    return "taken"


def _read_by_us(file: bytes) -> Header | CheckpointError:
    try:
        return read_header(io.BytesIO(file), len(file), "x.safetensors")
    except CheckpointError as error:
        return error


def _read_by_the_library(file: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        found = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return None
    return {name: (one["dtype"], one["shape"], bytes(one["data"])) for name, one in found}


def _facts(header: Header, data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {name: (one.dtype, list(one.shape), data[one.begin : one.end]) for name, one in header.tensors.items()}


def file_from(choices: bytes) -> bytes:
    """The file that the fuzzer's bytes stand for: themselves, or a header: of them, of words, or of tensors."""
    kind, rest = choices[:1], choices[1:]
    if kind < b"\x20":
        return rest
    if kind < b"\x80":
        header = rest
    elif kind < b"\xc0":
        header = "".join(WORDS[one % len(WORDS)] for one in rest).encode()
    else:
        header = "{{{}}}".format(",".join(_tensors(rest))).encode()
    return file_of(header, bytes(_data_size(header)))


def _tensors(choices: bytes) -> Iterator[str]:
    """Tensors that follow each other, of 8 bytes each; in some of them, a word stands where another belongs."""
    dtypes, at = list(BITS), 0
    for start in range(0, len(choices) - 7, 8):
        name, kind, rank, *sizes, place, word = choices[start : start + 8]
        shape, dtype = [one % 5 for one in sizes[: rank % 4]], dtypes[kind % len(dtypes)]
        end = at + math.prod(shape) * BITS[dtype] // 8
        fields = [f'"t{name}"', '"dtype"', f'"{dtype}"', '"shape"', json.dumps(shape), str(at), str(end)]
        if place >= 200:
            fields[place % len(fields)] = WORDS[word % len(WORDS)]
        yield '{}:{{{}:{},{}:{},"data_offsets":[{},{}]}}'.format(*fields)
        at = end


def _data_size(header: bytes) -> int:
    """The largest number in the header that could be an offset, so that some of them fit."""
    return max((int(one) for one in re.findall(rb"\d{1,6}", header) if int(one) < 4096), default=0)


def main() -> None:
    """Run libFuzzer, from the seeds on, and count what was tried."""
    import atheris

    counts = {"taken": 0, "refused": 0, "stricter": 0}

    def try_one(choices: bytes) -> None:
        counts[agrees(file_from(choices))] += 1
        if sum(counts.values()) % 100_000 == 0:
            print(counts, flush=True)

    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as folder:
        words, corpus = Path(folder, "words"), Path(folder, "corpus")
        words.write_text("".join(f"{json.dumps(word)}\n" for word in WORDS))
        corpus.mkdir()
        for number, seed in enumerate(SEEDS):
            (corpus / str(number)).write_bytes(b"\x40" + seed)
        atheris.Setup([*sys.argv, f"-dict={words}", str(corpus)], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
