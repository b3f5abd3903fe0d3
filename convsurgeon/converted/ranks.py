"""Generated code that refuses values of another rank than those that a graph was converted with.

Axes that are counted from the left are others in 2-D than of a value with an axis more or less.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from torch import fx

Transform = Callable[[list[str]], list[str]]
Ranks = Mapping[str, tuple[int, ...]]
"""The ranks that an argument may have, by its name: 0 is a number's too."""


def refusing_other_ranks(
    graph: fx.Graph, ranks: Ranks, in_2d: Collection[str]
) -> Callable[[Transform | None], Transform]:
    """What ``graph.on_generate_code`` takes, for code that asks for the ranks of arguments; `in_2d`: those in 2-D.

    It is no node, so that the graph says what is computed alone. Values of a trace aren't asked.
    """
    names = {str(node.target) for node in graph.find_nodes(op="placeholder")}
    asked = [] if _MEANT & names else [name for name in ranks if name in names]
    lines = [line for name in asked for line in _refusal(name, ranks[name], name in in_2d)]
    return lambda before: lambda code: [*lines, *(code if before is None else before(code))]


_MEANT = frozenset({"torch", "isinstance", "ValueError"})
"""What the lines mean by these names, an argument would hide."""


def _refusal(name: str, ranks: tuple[int, ...], in_2d: bool) -> Iterator[str]:
    if max(ranks) == 0:
        was = "was a number"
    else:
        axes = " or ".join(str(rank + in_2d) for rank in ranks)
        was = f"had {axes} {'axis' if axes == '1' else 'axes'}"
    words = (
        f"argument '{name}' {was} in the samples that the model was converted with, and has another number of axes; "
        "convert it with a sample of each as well"
    )
    others = " and ".join(f"{name}.dim() != {rank + in_2d}" for rank in ranks)
    yield f"if isinstance({name}, torch.Tensor) and {others}:\n"
    yield f"    raise ValueError({words!r})\n"
