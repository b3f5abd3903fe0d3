"""Padding, into the convolution that it stands before, and out of it."""

from __future__ import annotations

from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.surroundings import writes_between
from convsurgeon.exact.writer import Writer
from convsurgeon.rules.base import Refusal


@rewrite("merge_padding", reads=Convolution)
def merge_padding(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """Zeros before a convolution are its own padding, where there are as many on both sides in the end.

    Limits: zeros, as many on the left as on the right.
    """
    found = write.reader.pad(conv.input)
    if found is None or conv.transposed:
        return None
    operand, left, right = found
    left, right = left + conv.pads[0], right + conv.pads[1]
    if conv.padding_mode != "zeros":
        return Refusal(f"its own padding_mode is {conv.padding_mode!r}")
    if left != right:
        return Refusal(f"{left} on the left and {right} on the right, and a convolution pads both sides alike")
    if writes_between(conv.input, conv.node, write):
        return Refusal("something is written in place between the zeros and it")
    write.absorbed.append(conv.input)
    return write.same(conv, operand, padding=write.pair(left, 0))


@rewrite("separate_padding", reads=Convolution)
def separate_padding(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution's own padding is a pad before a convolution that has none.

    In any padding_mode: "circular", "reflect" and "replicate" pad the length likewise.
    """
    if conv.transposed or conv.pads == (0, 0):
        return None
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return write.same(conv, write.pad(conv.input, *conv.pads, mode), padding=(0, 0))
