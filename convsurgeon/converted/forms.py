"""Inputs and outputs of a converted module, in the shapes of the original and in its own."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from convsurgeon.converted.ranks import Ranks
from convsurgeon.converted.structure import named_leaves


class HasForms:
    """Takes and returns 4-D values where ``io="2d"`` made them so."""

    _facts: Any
    graph: fx.Graph
    forward: Any

    def call_1d(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with inputs, and get outputs, in the shapes of the original, whatever ``io`` it has."""
        if not self._facts.inputs and not self._facts.outputs:
            return self(*args, **kwargs)  # type: ignore[operator]
        args, kwargs = self.inputs_2d(*args, **kwargs)
        return self.outputs_1d(self(*args, **kwargs))  # type: ignore[operator]

    def inputs_2d(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The original's arguments as this module takes them: 4-D where ``io="2d"`` made them so."""
        bound = inspect.signature(self.forward).bind(*args, **kwargs)
        lift = self._facts.axis.lift
        if isinstance(self.graph._codegen, fx.graph._PyTreeCodeGen):
            leaves, spec = pytree.tree_flatten(tuple(bound.arguments.values()))
            names = [node.target for node in self.graph.find_nodes(op="placeholder")]
            lifted = {i for i, name in enumerate(names) if name in self._facts.inputs}
            leaves = [lift(leaf) if i in lifted else leaf for i, leaf in enumerate(leaves)]
            bound.arguments.update(zip(bound.arguments, pytree.tree_unflatten(leaves, spec), strict=True))
        else:
            for name in self._facts.inputs:
                if isinstance(bound.arguments.get(name), torch.Tensor):
                    bound.arguments[name] = lift(bound.arguments[name])
        return bound.args, bound.kwargs

    def outputs_1d(self, outputs: Any) -> Any:
        """What this module returns, in the shapes of the original; a slice lays out their gradients anew."""
        lower, lifted, sliced = self._facts.axis.lower, self._facts.outputs, torch.ops.aten.slice.Tensor
        leaves = [lower(sliced(leaf, 0)) if f"output{path}" in lifted else leaf for path, leaf in named_leaves(outputs)]
        return pytree.tree_unflatten(leaves, pytree.tree_structure(outputs))


def ranks_of(module: HasForms) -> Ranks:
    """The ranks that its arguments had, in 1-D; an attribute would take a name that a submodule may have."""
    ranks: Ranks = module._facts.ranks
    return ranks


def ranks_taken(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The ranks that a module's arguments may have, as it takes them; none of what wasn't converted."""
    if not isinstance(module, HasForms):
        return {}
    lifted = module._facts.inputs
    return {name: tuple(rank + (name in lifted) for rank in ranks) for name, ranks in ranks_of(module).items()}
