"""The header of a safetensors file: read, checked, and written again with other shapes; knows nothing of the data.

A file is the header's length in 8 bytes, the header in JSON, and the data of the tensors, one after the other:
https://huggingface.co/docs/safetensors. What the safetensors library refuses is refused here, and what it lets pass
though two readers may read it differently (a key twice, keys that nothing reads).
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import IO, Any

from convsurgeon.checkpoints.strict_json import LARGEST, checking, read_object
from convsurgeon.errors import CheckpointError

_PREFIX = 8
"""Bytes of the header's length; the data begin at a multiple of it."""
_METADATA = "__metadata__"
BITS = {
    dtype: bits
    for bits, dtypes in {
        4: "F4",
        6: "F6_E2M3 F6_E3M2",
        8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        16: "I16 U16 F16 BF16",
        32: "I32 U32 F32",
        64: "C64 F64 I64 U64",
    }.items()
    for dtype in dtypes.split()
}
"""How many bits an element takes, of every dtype that the format has."""
_WORD = 2**64
"""What no number of the header reaches: readers hold them in 64 bits."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What the header says of one tensor; its data are the bytes [begin, end) behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header that has been checked: its tensors in its own order, and where in the file their data are.

    `text` is its JSON as it was read: what isn't moved is written as it stood there.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] | None
    data_begin: int
    data_size: int
    text: bytes = field(repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def with_shapes(self, new: Mapping[str, tuple[int, ...]]) -> bytes:
        """The first bytes of a file with the same data, up to where they begin, in which some tensors have new shapes.

        As the safetensors library writes it: compact JSON, spaces up to a multiple of 8 bytes. Names of `new` that
        aren't here are those of other shards.

        Raises:
            CheckpointError: a new shape has another number of elements, or the header would be larger than the format
                allows.
        """
        content = json.loads(self.text)
        for name in self.tensors.keys() & new.keys():
            before, after = self.tensors[name].shape, new[name]
            if math.prod(before) != math.prod(after):
                raise CheckpointError(
                    f"tensor {name!r:.200} has shape {list(before)}, and can't have the new shape {list(after)}; "
                    "is it in another shard too?"
                )
            content[name]["shape"] = after
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _PREFIX)
        if len(text) > LARGEST:
            raise CheckpointError(
                f"with the new shapes the header takes {len(text)} bytes, and safetensors allows {LARGEST}; "
                "split the tensors over several files"
            )
        return len(text).to_bytes(_PREFIX, "little") + text


def read_header(file: IO[bytes], size: int, name: str) -> Header:
    """The header of a safetensors file of `size` bytes that stands at its beginning; `name` is what errors call it.

    Raises:
        CheckpointError: it is not what the format demands, or doesn't fit the size; says where.
        OSError: the file can't be read.
    """
    prefix = file.read(_PREFIX)
    with checking(name, "safetensors file"):
        length = _length(prefix, size)
    text = file.read(length)
    with checking(name, "safetensors file"):
        if len(text) < length:
            raise ValueError(f"it ended at byte {_PREFIX + len(text)}, and had {size} bytes before")
        return _header(text, size - _PREFIX - length)


def _length(prefix: bytes, size: int) -> int:
    """The length of the header."""
    if len(prefix) < _PREFIX:
        raise ValueError(f"it has {len(prefix)} bytes; the length of the header alone takes {_PREFIX}")
    length = int.from_bytes(prefix, "little")
    if not 0 < length <= LARGEST:
        raise ValueError(f"it begins with {prefix!r}, a header of {length} bytes; accepted: 1 to {LARGEST}")
    if _PREFIX + length > size:
        raise ValueError(f"its header takes {length} bytes, and {size - _PREFIX} follow: it was cut off")
    return length


def _header(text: bytes, data_size: int) -> Header:
    if not text.startswith(b"{"):
        raise ValueError(f"its header begins with {text[:8]!r}; expected '{{'")
    content = read_object(text)
    metadata = _metadata(content.pop(_METADATA)) if _METADATA in content else None
    tensors = {name: _tensor(name, entry) for name, entry in content.items()}
    _require_coverage(tensors, data_size)
    return Header(tensors, metadata, _PREFIX + len(text), data_size, text)


def _metadata(content: object) -> dict[str, str]:
    if not isinstance(content, dict):
        raise ValueError(f"{_METADATA} is {content!r:.200}; expected an object")
    for key, value in content.items():
        if not isinstance(value, str):
            raise ValueError(f"{_METADATA} has {value!r:.200} under {key!r:.200}; expected a string")
    return content


def _tensor(name: str, entry: Any) -> StoredTensor:
    where = f"tensor {name!r:.200}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} is {entry!r:.200}; expected an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{where} has dtype {dtype!r:.200}; accepted: {', '.join(BITS)}")
    if not _are_counts(shape):
        raise ValueError(f"{where} has shape {shape!r:.200}; expected a list of integers from 0")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where} has data_offsets {offsets!r:.200}; expected two integers from 0, begin and end")
    if any(count >= _WORD for count in accumulate(shape, operator.mul)):
        raise ValueError(f"{where} has shape {shape!r:.200}: more elements than 64 bits can count")
    bits, (begin, end) = math.prod(shape) * BITS[dtype], offsets
    if bits != 8 * (end - begin):
        taken = f"{bits // 8} bytes" if bits % 8 == 0 else f"{bits} bits, no whole bytes"
        raise ValueError(
            f"{where} of shape {shape!r:.200} in {dtype} takes {taken}; its data_offsets [{begin}, {end}] span "
            f"{end - begin} bytes"
        )
    return StoredTensor(dtype, tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(one) is int and 0 <= one < _WORD for one in values)


def _require_coverage(tensors: Mapping[str, StoredTensor], data_size: int) -> None:
    """The format demands that the data of the tensors follow each other, from the header to the end of the file."""
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            fault = "overlap those before" if tensor.begin < at else "leave a hole"
            raise ValueError(
                f"the data of tensor {name!r:.200} {fault}: they begin at byte {tensor.begin}, not at {at}"
            )
        if tensor.end > data_size:
            raise ValueError(
                f"the data of tensor {name!r:.200} end at byte {tensor.end}, and {data_size} bytes follow the header: "
                "it was cut off"
            )
        at = tensor.end
    if at < data_size:
        raise ValueError(f"{data_size - at} bytes follow the data of its tensors; expected the end of the file")
