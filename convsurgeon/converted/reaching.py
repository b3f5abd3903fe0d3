"""Generated code that reaches submodules in the dictionaries that hold them.

``nn.Module.__getattr__`` is Python, called for every step of ``self.resblocks.0.convs1.0.weight``: 3.1 us, and 0.6 us
by the dictionaries (torch 2.13). The last name stays an attribute, for a weight may come to be computed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from convsurgeon.converted.hiding import of_target, rewritten

Transform = Callable[[list[str]], list[str]]


def reaching_directly(module: nn.Module, graph: fx.Graph) -> Callable[[Transform | None], Transform]:
    """What ``graph.on_generate_code`` takes, for code that is to run in `module`."""
    nodes = [node for node in graph.nodes if node.op in ("call_module", "get_attr")]
    written = {node.name: (of_target("self", str(node.target)), _reached(module, node)) for node in nodes}

    def transformed(lines: list[str]) -> list[str]:
        return [rewritten(line, written) for line in lines]

    return lambda before: transformed if before is None else lambda lines: transformed(before(lines))


def _reached(module: nn.Module, node: fx.Node) -> str:
    """What a node calls, or gets, as code."""
    at: nn.Module | None = module
    code = "self"
    for atom in (path := str(node.target).split("."))[: None if node.op == "call_module" else -1]:
        if at is None or atom not in at._modules:
            return of_target("self", str(node.target))
        at, code = at._modules[atom], f"{code}._modules[{atom!r}]"
    return code if node.op == "call_module" else of_target(code, path[-1])
