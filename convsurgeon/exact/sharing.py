"""Values that were folded before: what stands between two folded convolutions is computed without unfolding."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from convsurgeon.exact.nodes import Folding
from convsurgeon.exact.surroundings import again, is_pointwise, writes_in_place, zeros_before
from convsurgeon.exact.writer import Writer


def folded_before(node: fx.Node, factor: int, write: Writer) -> Folding | None:
    """The value of `node` as it is folded by `factor`, computed from what was folded before it; None if nothing was.

    Pointwise operators are the same on rows, and zeros in front are rows of zeros, if they are a multiple of `factor`.
    Nothing is shared in a graph that writes to values.
    """
    if writes_in_place(write):
        return None
    return _folded(node, factor, write) if _can_fold(node, factor, write) is not None else None


def _can_fold(node: fx.Node, factor: int, write: Writer) -> tuple[fx.Node, int] | None:
    """Which fold `node` comes from, and how many rows it has more than that one."""
    known = write.memory.unfoldings.get(node)
    if known is not None:
        return (known.root, known.rows) if known.factor == factor else None
    padded = zeros_before(node, write)
    if padded is not None:
        operand, zeros = padded
        found = _can_fold(operand, factor, write) if zeros % factor == 0 else None
        return None if found is None else (found[0], found[1] + zeros // factor)
    if not is_pointwise(node, write):
        return None
    each = {_can_fold(operand, factor, write) for operand in node.all_input_nodes}
    return each.pop() if len(each) == 1 else None


def _folded(node: fx.Node, factor: int, write: Writer) -> Folding:
    known = write.memory.unfoldings.get(node)
    if known is not None:
        return known
    padded = zeros_before(node, write)
    if padded is not None:
        operand, zeros = padded
        before = _folded(operand, factor, write)
        value, rows = write.pad_rows(before.value, zeros // factor), before.rows + zeros // factor
        found = replace(before, value=value, rows=rows, length=before.length + zeros)
    else:
        operands = {operand: _folded(operand, factor, write) for operand in node.all_input_nodes}
        value = write.keep_folded(again(node, {operand: one.value for operand, one in operands.items()}))
        found = replace(next(iter(operands.values())), value=value)
    write.absorbed.append(node)
    write.memory.unfoldings[node] = found
    return found
