"""The ``torch.compile`` backend: graphs that dynamo captures are converted before another backend compiles them.

There, weights are inputs of the graph, the facts of every value are in the nodes' metadata, and nothing is verified: a
recompile calls this again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.backends.registry import lookup_backend

from convsurgeon.capture import Capture, modules_of
from convsurgeon.clones.cloning import clone_module, share
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.collector import paused_collector
from convsurgeon.converted.frozen_graph import copied_graph
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.parts import Part
from convsurgeon.planning import Selection, make_plan
from convsurgeon.rewrite import rewrite
from convsurgeon.rules import RULES
from convsurgeon.runs.observe import UNKNOWN, Facts, NodeFacts, Overloads, Value, items_of
from convsurgeon.spellings import Call, read

_OPTIONS: dict[str, Any] = {
    "compiler": "inductor",
    "compiler_options": None,
    "lift": "regions",
    "unit_axis": -2,
    "square": False,
    "include": ("*",),
    "exclude": (),
}

_NO_HINT = 8191
"""Stands for a size that nobody knows before the graph runs."""


def backend(graph_module: fx.GraphModule, example_inputs: Sequence[Any], *, options: Any = None) -> Any:
    """Convert the 1-D convolutions of a graph, and what stands between them, and compile the result.

    ``torch.compile(model, backend="convsurgeon", options={"compiler": "inductor"})``.

    Args:
        graph_module: what dynamo captured.
        example_inputs: what it is called with, weights among them.
        options: ``compiler``, the name of the backend that compiles the result ("inductor"), and ``compiler_options``
            for it; ``lift``, ``unit_axis``, ``square``, ``include`` and ``exclude`` as those of `convsurgeon.convert`.
            Globs are matched with the names of the modules whose forward calls an operator.

    Raises:
        ValueError: an option that there is none of.
    """
    given = dict(options or {})
    unknown = given.keys() - _OPTIONS.keys()
    if unknown:
        raise ValueError(f"options has {sorted(unknown)[0]!r}; accepted: {', '.join(_OPTIONS)}")
    chosen = {**_OPTIONS, **given}
    compiler, compiler_options = chosen.pop("compiler"), chosen.pop("compiler_options")
    converted = _converted(graph_module, **chosen)
    keyword = "config_patches" if compiler == "inductor" else "options"  # torch.compile hands inductor its own so
    more = {} if compiler_options is None else {keyword: compiler_options}
    return lookup_backend(compiler)(converted, list(example_inputs), **more)


@paused_collector()
def _converted(
    graph_module: fx.GraphModule, *, include: Sequence[str], exclude: Sequence[str], **options: Any
) -> fx.GraphModule:
    """The graph in 2-D; the same object where there is no 1-D convolution in it."""
    modules = modules_of(graph_module)
    calls = (read(node, modules) for node in graph_module.graph.nodes)
    if not any(isinstance(call, Call) and call.operator in _CONVOLUTIONS for call in calls):
        return graph_module
    capture = Capture(clone_module(graph_module, share), _named(graph_module.graph), "graph")
    facts = facts_of(capture.graph)
    plan = make_plan(capture, facts, io="1d", selection=Selection.unchecked(include, exclude), **options)
    module = rewrite(graph_module, [(Part(capture, facts, ()), plan)], plan, copy_weights=False)
    assert isinstance(module, ConvertedModule)
    module.meta = dict(graph_module.meta)
    given = zip(graph_module.graph.find_nodes(op="placeholder"), module.graph.find_nodes(op="placeholder"), strict=True)
    for old, new in given:
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source
    return module


_CONVOLUTIONS = frozenset(operator for operator, rule in RULES.items() if rule.must)


def _named(graph: fx.Graph) -> fx.Graph:
    """A copy of the graph whose nodes name modules as the model does: ``conv`` for ``L['self'].conv``."""
    copied = copied_graph(graph)
    for node in copied.nodes:
        stack: Mapping[str, Any] = node.meta.get("nn_module_stack", {})
        node.meta["nn_module_stack"] = {key: (_name(str(path)), kind) for key, (path, kind) in stack.items()}
    return copied


def _name(path: str) -> str:
    path = re.sub(r"\._modules\['([^']+)'\]", r".\1", path)
    return re.sub(r"^(L\['[^']+'\]|L__self__)[._]*", "", path)


def facts_of(graph: fx.Graph) -> Facts:
    """The facts of every node from its metadata, and what it dispatches to, from a run of it alone without data."""
    facts: Facts = {}
    with preserved_random_state(), torch.no_grad(), Overloads(nn.Module()) as dispatched:
        for node in graph.nodes:
            seen = node.meta.get("example_value")
            known = _without_data(seen)
            facts[node] = NodeFacts(
                value=Value.of(known) if isinstance(known, torch.Tensor) else None,
                result=int if isinstance(seen, torch.SymInt) else type(seen),
                items=items_of(known),
                resized=_run_alone(node, dispatched),
                overloads=frozenset(dispatched.seen),
            )
    return facts


def _hint(size: Any) -> int:
    """A size as it is in the call that dynamo saw; asking the symbol itself would fix it."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else _NO_HINT


def _run_alone(node: fx.Node, dispatched: Overloads) -> tuple[fx.Node, ...]:
    """Run a node, so that `dispatched` sees its overloads; returns the operands whose own shape it may change."""
    operands = {operand: _without_data(operand.meta.get("example_value")) for operand in node.all_input_nodes}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), operands.__getitem__)
    dispatched.reset()  # making the operands dispatched as well
    computes = "example_value" in node.meta or any(isinstance(one, torch.Tensor) for one in operands.values())
    if not computes:  # it changes the state of the thread, as entering autocast does
        return ()
    try:
        if node.op == "call_method":
            getattr(args[0], str(node.target))(*args[1:], **kwargs)
        elif node.op == "call_function" and callable(node.target):
            node.target(*args, **kwargs)
    except Exception:  # an operator may ask for data: it is then told to be any
        dispatched.seen = {UNKNOWN}
    return dispatched.resized(operands)


def _without_data(seen: Any) -> Any:
    if isinstance(seen, torch.Tensor):
        shape, stride = (tuple(map(_hint, sizes)) for sizes in (seen.shape, seen.stride()))
        return torch.empty_strided(shape, stride, dtype=seen.dtype, device="meta")
    if isinstance(seen, (tuple, list)):
        return [*map(_without_data, seen)] if isinstance(seen, list) else tuple(map(_without_data, seen))
    return _hint(seen) if isinstance(seen, torch.SymInt) else seen
