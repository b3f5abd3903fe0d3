"""Dilations: a kernel with gaps over the length becomes a dense one over rows of it."""

from __future__ import annotations

from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.nodes import Folding
from convsurgeon.exact.sharing import folded_before
from convsurgeon.exact.sites import Convolution
from convsurgeon.exact.surroundings import writes_in_place
from convsurgeon.exact.writer import Numbers, Writer
from convsurgeon.rules.base import Refusal


@rewrite("fold_dilation", reads=Convolution)
def fold_dilation(conv: Convolution, write: Writer) -> fx.Node | Refusal | None:
    """A convolution of dilation d is one without over the length seen as (L/d, d), with a kernel (K, 1).

    y[d r + j] = sum_k w[k] x[d (r + k) + j]: each column is a length of its own. The length is filled up with zeros to
    a multiple of d, and what comes of these is cut off behind. Padding by multiples of d stays the convolution's. What
    was folded by d before, with only pointwise operators or zeros in front since, isn't unfolded in between: what
    would be cut off stays behind the end, and no padding on the right has to hide it.

    Limits: zero padding, stride 1; not transposed (see crop_padding).
    """
    if conv.transposed or conv.dilation == 1:
        return None
    if conv.padding_mode != "zeros":
        return Refusal(f"its padding_mode is {conv.padding_mode!r}; separate_padding takes that out of it")
    if conv.taps == 1:
        padding = write.pair(conv.pads[0], 0)
        numbers = Numbers(stride=write.steps(conv.stride), padding=padding, groups=conv.groups)
        return write.convolution(conv, conv.input, numbers)
    if conv.stride > 1:
        return Refusal(f"its stride is {conv.stride}, and steps of {conv.dilation} and {conv.stride} make no rows")
    factor, (left, right) = conv.dilation, conv.pads
    inside = left // factor if left == right and left % factor == 0 else 0
    before = folded_before(conv.input, factor, write) if left == right == 0 else None
    folding = before or _folded(conv, left - inside * factor, right - inside * factor, write)
    numbers = Numbers(conv.kernel.unsqueeze(-1), padding=(inside, 0), groups=conv.groups)
    result = write.convolution(conv, folding.value, numbers)
    length = folding.length + (2 * inside - conv.taps + 1) * factor
    unfolded = write.unfold(result, conv, write.size(result, -2) * factor)
    cropped = write.crop(unfolded, 0, length)
    rows = folding.rows + 2 * inside - conv.taps + 1
    write.memory.unfoldings[cropped] = Folding(result, factor, folding.root, rows, length)
    return cropped


def _folded(conv: Convolution, left: int, right: int, write: Writer) -> Folding:
    """The operand with so many zeros on both sides, filled up to whole rows; the same for all who ask for it."""
    key = (conv.input, left, right, conv.dilation)
    made = write.memory.made.get(key)
    # what nothing reads was erased, and its fold with it
    if made is None or made.value._erased or writes_in_place(write):
        length = write.length(conv.input)
        rows = (length + (left + right + conv.dilation - 1)) // conv.dilation
        padded = write.pad_to(conv.input, left, length, rows * conv.dilation)
        root = write.fold(padded, conv, rows, conv.dilation)
        total = length + (left + right) if left + right else length
        write.memory.made[key] = Folding(root, conv.dilation, root, 0, total)
    return write.memory.made[key]
