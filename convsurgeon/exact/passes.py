"""Goes over a converted graph with the rewrites that are asked for. Knows no equation."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import fx, nn

from convsurgeon.alone import alone
from convsurgeon.collector import paused_collector
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN, Origin
from convsurgeon.exact.base import REWRITES, Cost, Left, Notes, Rewritten, Wanted
from convsurgeon.exact.nodes import Memory
from convsurgeon.exact.reader import Reader
from convsurgeon.exact.shapes import Shapes, add_shapes, cost_of, name_in, shapes_of
from convsurgeon.exact.sites import Norm, Site
from convsurgeon.exact.strides import is_seen, lies_otherwise
from convsurgeon.exact.undoing import all_or_nothing
from convsurgeon.exact.writer import Writer
from convsurgeon.parts import Part
from convsurgeon.rules.base import Refusal
from convsurgeon.samples import Sample, as_samples
from convsurgeon.spellings import module_of

_ORDER = (
    *("fold_batch_norm", "merge_padding", "fix_pool", "linear_as_convolution"),
    *("crop_padding", "transposed_as_convolution", "ungroup_dense", "ungroup_split", "repeat_inputs"),
    *("fold_dilation", "fold_into_channels", "fold_stride", "split_kernel"),
    *("split_pool_stride", "split_pool", "convolution_as_product", "separate_padding"),
)
"""The order in which rewrites are done, however they are asked for: makers of sites before their readers."""

_SIZES = ("size", torch.ops.aten.sym_size.int)


@alone
@paused_collector()
def rewrite_exactly(
    module: ConvertedModule, names: Sequence[str], sample: Any, *, select: Sequence[str] = ("*",)
) -> Notes:
    """Rewrite a converted module in place, by the exact rewrites of these names, and tell what was done.

    Where it raises, or is interrupted, the module stays as it was.

    Args:
        module: what `convsurgeon.convert` returns as ``module``, where that is one graph.
        names: of `REWRITES`; some take a number, as ``"split_kernel:7"``. They are done in an order of their own.
        sample: one sample, as for `convsurgeon.convert`: inputs in the original's shapes. It runs once.
        select: globs on qualified module names, of the places to rewrite.

    Returns:
        The notes: each place that was rewritten or left, with the reason.

    Raises:
        TypeError: `module` isn't a converted one, or `select` is one string.
        ValueError: a name isn't known, or there is no sample.
    """
    if not isinstance(module, ConvertedModule):
        raise TypeError(f"module is a {type(module).__name__}; accepted: the module of a conversion, as one graph")
    if isinstance(select, str):
        raise TypeError(f"select is the string {select!r}; give a list of globs, [{select!r}]")
    samples = as_samples(sample)
    wanted = wanted_of(names, samples)
    if not wanted:
        return Notes()
    shapes = shapes_of(module, samples[0])
    with all_or_nothing(module):
        return _rewrite(module, wanted, shapes, select, frozenset())


def _rewrite(
    module: ConvertedModule, wanted: Sequence[Wanted], shapes: Shapes, select: Sequence[str], outside: frozenset[int]
) -> Notes:
    """Rewrite in place; `shapes` become those of the graph as it is then. `outside`: ids of what others hold too."""
    notes = Notes()
    for one in wanted:
        notes += _Pass(module, one, shapes, select, outside).run()
    if notes.rewritten:
        module.graph.lint()
        module.recompile()
    return notes


def wanted_of(names: Sequence[str], samples: Sequence[Sample]) -> tuple[Wanted, ...]:
    """The rewrites that these names ask for, in the order in which they are done.

    Raises:
        TypeError: it is one string.
        ValueError: a name isn't known, or there is no sample to tell shapes by.
    """
    if isinstance(names, str):
        raise TypeError(f"exact is the string {names!r}; give a list of names, [{names!r}]")
    wanted = sorted(map(Wanted.of, names), key=lambda one: _ORDER.index(one.rewrite.name))
    if wanted and not samples:
        raise ValueError("exact rewrites are asked for, and there is no sample to tell shapes by; give a sample")
    return tuple(wanted)


def rewrite_parts(
    module: nn.Module,
    parts: Iterable[Part],
    wanted: Sequence[Wanted],
    *,
    select: Sequence[str] = ("*",),
    known: dict[str, Shapes] | None = None,
) -> Notes:
    """Rewrite each part of a converted model that is a graph: the whole, or the islands in it.

    `select`: globs on names in the whole model, of the places to rewrite. `known`: the shapes of the parts that were
    rewritten before, by their paths; a part runs once to tell them, and they are kept here for the next time.
    """
    known = {} if known is None else known
    notes, shared = Notes(), _shared(module) if wanted else {}
    for part in parts if wanted else ():
        graph = module.get_submodule(part.path)
        assert isinstance(graph, ConvertedModule)  # what `rewrite` puts in a part's place
        inside = [_inside(pattern, part.path) for pattern in select]
        if part.path not in known:
            known[part.path] = shapes_of(graph, part.samples[0])
        own = {id(one) for one in graph.modules()}
        outside = frozenset(tensor for tensor, holders in shared.items() if not holders <= own)
        notes += _rewrite(graph, wanted, known[part.path], inside, outside).inside(part.path)
    return notes


def _shared(module: nn.Module) -> dict[int, set[int]]:
    """The ids of the tensors that several modules hold, with those of the modules."""
    holders: dict[int, set[int]] = {}
    for one in module.modules():
        for held in (*one._parameters.values(), *one._buffers.values()):
            if held is not None:
                holders.setdefault(id(held), set()).add(id(one))
    return {tensor: several for tensor, several in holders.items() if len(several) > 1}


def _inside(pattern: str, path: str) -> str:
    """A glob on names in the whole model, for those in the part at `path`, whose own name there is none."""
    for prefix in (path, glob.escape(path)):
        if path and pattern == prefix:
            return ""
        pattern = pattern.removeprefix(f"{prefix}.")
    return pattern


@dataclass(slots=True)
class _Done:
    """One place that was rewritten, before it is known what it costs."""

    node: str
    name: str
    was: str
    baked: tuple[str, ...]
    before: Cost
    new: list[fx.Node]


class _Pass:
    """One rewrite, over all of a graph."""

    def __init__(
        self, module: ConvertedModule, wanted: Wanted, shapes: Shapes, select: Sequence[str], outside: frozenset[int]
    ) -> None:
        self._module = module
        self._outside = outside
        self._wanted = wanted
        self._shapes = shapes
        self._select = select
        self._memory = Memory()
        self._done: list[_Done] = []
        self._left: list[Left] = []
        self._frozen = False

    def run(self) -> Notes:
        """The notes; `shapes` are afterwards those of the graph as it is then."""
        name = self._wanted.rewrite.name
        reader = Reader(self._module, self._shapes, self._outside)
        for node in list(self._module.graph.nodes):
            if node._erased or not self._is_selected(node):
                continue
            site = reader.read(self._wanted.rewrite.reads, node)
            if isinstance(site, Refusal):
                self._leave(node, site)
            elif site is not None:
                self._try(site, reader)
        if not self._done:
            return Notes((), tuple(self._left))
        if self._frozen:
            facts = vars(self._module)["_convsurgeon"]
            vars(self._module)["_convsurgeon"] = replace(facts, captured_mode="eval")
        news = [[node for node in one.new if not node._erased] for one in self._done]
        add_shapes(self._shapes, self._module, chain.from_iterable(news))
        rewritten = []
        for one, new in zip(self._done, news, strict=True):
            counted = Counter(_told(self._module, new, self._shapes)).items()
            became = " + ".join(name if count == 1 else f"{count} x {name}" for name, count in counted)
            after = cost_of(self._module, new, self._shapes)
            rewritten.append(Rewritten(name, one.node, one.name, one.was, became, one.baked, one.before, after))
        return Notes(tuple(rewritten), tuple(self._left))

    def _is_selected(self, node: fx.Node) -> bool:
        return any(fnmatchcase(module_of(node), pattern) for pattern in self._select)

    def _leave(self, node: fx.Node, refusal: Refusal, was: str = "") -> None:
        was = was or name_in(self._module, node)
        self._left.append(Left(self._wanted.rewrite.name, node.name, module_of(node), was, refusal.reason))

    def _try(self, site: Site, reader: Reader) -> None:
        graph, old = self._module.graph, site.node
        was, name = str(site), module_of(old)
        ours = [old, site.convolution.node] if isinstance(site, Norm) and site.convolution is not None else [old]
        before = cost_of(self._module, ours, self._shapes)
        write = Writer(reader, self._wanted.limit, self._memory)
        last = old.prev
        with graph.inserting_before(old):
            result = self._wanted.rewrite.apply(site, write)
            if isinstance(result, Refusal):
                self._leave(old, result, was)
                return
            if result is None:
                return
            replaced = write.passed[-1] if write.passed else old
            lies = lies_otherwise(result, _between(last, old), self._module)
            if lies is not None and is_seen(replaced, lies, self._module):
                known = self._memory.unfoldings.get(result)
                result = write.contiguous(result) if lies == "cut" else write.in_order(result)
                if known is not None:
                    self._memory.unfoldings[result] = known
        new = _between(last, old)
        before += cost_of(self._module, write.passed, self._shapes)
        self._sign(old, new)
        result.meta[ORIGIN] = replace(replaced.meta[ORIGIN], rule=self._wanted.rewrite.name)
        self._replace(replaced, result, [*write.absorbed, *write.passed[:-1], old])
        self._frozen |= write.frozen
        self._done.append(_Done(result.name, name, was, tuple(write.baked), before, new))

    def _sign(self, old: fx.Node, new: Iterable[fx.Node]) -> None:
        """Say of the new nodes where they come from; what is folded is in neither form, and said to be 1-D.

        One that is the copy of another keeps the trace of that.
        """
        origin: Origin = old.meta[ORIGIN]
        numbers: set[fx.Node] = set()
        for node in new:
            known = node.meta or old.meta
            node.meta = {key: value for key, value in known.items() if key in ("stack_trace", "nn_module_stack")}
            operands = node.all_input_nodes
            if node.target in _SIZES or (operands and numbers.issuperset(operands)):
                numbers.add(node)
            is_2d = node not in self._memory.folded and node not in numbers and node.op != "get_attr"
            node.meta[ORIGIN] = Origin(origin.node, self._wanted.rewrite.name, "2d" if is_2d else "1d")

    def _replace(self, old: fx.Node, result: fx.Node, absorbed: list[fx.Node]) -> None:
        """Let `result` stand for `old`, under its name, and erase what nothing reads any longer."""
        self._shapes[result] = self._shapes[old]
        old.replace_all_uses_with(result)
        name, operands = old.name, old.all_input_nodes
        self._module.graph.erase_node(old)
        result.name = name
        waiting = [*absorbed, *operands, result]
        while waiting:
            node = waiting.pop(0)
            if node._erased or node.users or node.op in ("placeholder", "output"):
                continue
            origin = node.meta.get(ORIGIN)
            ours = origin is not None and origin.rule in REWRITES
            if node in absorbed or ours or node.op == "get_attr":
                waiting += node.all_input_nodes
                self._module.graph.erase_node(node)


def _between(last: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes behind `last` and before `end`."""
    found = []
    node = last.next
    while node is not end:
        found.append(node)
        node = node.next
    return found


def _told(module: ConvertedModule, nodes: Iterable[fx.Node], shapes: Shapes) -> Iterable[str]:
    """What operators a place has become, in words; reading weights and sizes is left out."""
    for node in nodes:
        if node.op == "get_attr" or node not in shapes:
            continue
        name = name_in(module, node)
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        kernel = getattr(layer, "kernel_size", None)
        yield f"{name} {kernel[0]}x{kernel[1]}" if isinstance(kernel, tuple) else name
