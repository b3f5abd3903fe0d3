"""Pools: large ones as chains of small ones, and adaptive ones as those that they are at one length."""

from __future__ import annotations

from itertools import pairwise

from torch import fx

from convsurgeon.exact.base import rewrite
from convsurgeon.exact.checks import of_length
from convsurgeon.exact.sites import Pool
from convsurgeon.exact.writer import Writer
from convsurgeon.rules.base import Refusal


@rewrite("split_pool", reads=Pool, limit=8)
def split_pool(pool: Pool, write: Writer) -> fx.Node | Refusal | None:
    """A max pool longer than the limit is a chain of shorter ones of stride 1, the last with its stride.

    The largest of K is the largest of k2 out of those of k1 neighbours, K = k1 + k2 - 1. The padding is shared out, no
    pool with more than half its window. An average over K = k1 k2 that are as far apart is one over k2 averages.

    Limits: no dilation, ceil_mode, indices or divisor; an average has no padding, its stride is its size, and its size
    is a product of numbers within the limit.
    """
    if pool.kind == "mean" or pool.size is not None or pool.taps <= write.limit:
        return None
    if pool.dilation > 1 or pool.ceil or pool.indices or pool.divides:
        return Refusal("it has a dilation, ceil_mode, indices or a divisor of its own")
    value = pool.input
    if pool.kind == "average":
        factors = _factors(pool.taps, write.limit)
        if pool.padding or pool.stride != pool.taps:
            return Refusal("averages that are padded, or overlap, are no averages of averages")
        if not factors:
            return Refusal(f"{pool.taps} is no product of numbers up to {write.limit}")
        for factor in factors:
            value = write.pool("average", value, factor, factor)
        return value
    left, padding = pool.taps - 1, pool.padding
    while left > 0:
        taps = min(write.limit, left + 1)
        own = min(padding, taps // 2)
        left, padding = left - (taps - 1), padding - own
        value = write.pool("max", value, taps, 1 if left else pool.stride, own)
    return value


@rewrite("split_pool_stride", reads=Pool, limit=3)
def split_pool_stride(pool: Pool, write: Writer) -> fx.Node | Refusal | None:
    """A max pool of a stride s1 s2 longer than the limit is one of stride s2 over one of stride s1, and so on.

    The largest of K = k1 + (k2 - 1) s1 is the largest out of those of k1 that begin s1 apart, where k1 is s1 or more;
    k1 is more than that where K asks for it, or all of the padding, which is the first pool's. An average over K = s
    that are as far apart is one over averages.

    Limits: the stride is a product of numbers within the limit; no dilation, ceil_mode, indices or divisor; an average
    has no padding, and its stride is its size.
    """
    if pool.kind == "mean" or pool.size is not None or pool.stride <= write.limit:
        return None
    if pool.dilation > 1 or pool.ceil or pool.indices or pool.divides:
        return Refusal("it has a dilation, ceil_mode, indices or a divisor of its own")
    steps = _factors(pool.stride, write.limit)
    if not steps:
        return Refusal(f"its stride is {pool.stride}, which is no product of numbers up to {write.limit}")
    if pool.kind == "average" and (pool.padding or pool.stride != pool.taps):
        return Refusal("averages that are padded, or overlap, are no averages of averages")
    value, taps, padding = pool.input, pool.taps, pool.padding
    for step in steps[:-1]:
        behind = max(1, (taps - max(step, 2 * padding)) // step + 1)
        own = taps - (behind - 1) * step
        value, taps, padding = write.pool(pool.kind, value, own, step, padding), behind, 0
    return write.pool(pool.kind, value, taps, steps[-1], padding)


def _factors(number: int, limit: int) -> list[int]:
    """The number as a product of numbers up to the limit, the largest that fit; [] if it is none."""
    found = []
    while number > 1:
        factor = next((one for one in range(min(limit, number), 1, -1) if number % one == 0), 1)
        if factor == 1:
            return []
        found.append(factor)
        number //= factor
    return found


@rewrite("fix_pool", reads=Pool)
def fix_pool(pool: Pool, write: Writer) -> fx.Node | Refusal | None:
    """An adaptive pool, or a mean over the length, is at one length a plain pool.

    To L' of L elements, window i begins at floor(i L / L') and ends at ceil((i + 1) L / L'): those are windows of one
    size, equally far apart, in particular where L' divides L. The length is fixed by that: the graph refuses others.

    Limits: the windows are of one size and equally far apart; no indices.
    """
    if pool.kind != "mean" and pool.size is None:
        return None
    if pool.indices:
        return Refusal("it returns indices")
    size = pool.size or 1
    windows = [(at * pool.length // size, -(-(at + 1) * pool.length // size)) for at in range(size)]
    taps = {stop - start for start, stop in windows}
    steps = {after[0] - before[0] for before, after in pairwise(windows)} or set(taps)
    if len(taps) > 1 or len(steps) > 1:
        return Refusal(f"to {size} of {pool.length} elements its windows are of several sizes, or unequally far apart")
    if steps == {0}:
        return Refusal("all of its windows are the same, and no pool has a stride of 0")
    fixed = write.call(of_length, pool.input, pool.length, pool.axis.of_length)
    found = write.pool("max" if pool.kind == "max" else "average", fixed, taps.pop(), steps.pop())
    if pool.keeps:
        return found
    return write.reshape(found, pool, pool.shape[-3])
