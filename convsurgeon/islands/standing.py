"""How an island stands in the place of a submodule, wherever the model's own Python holds it."""

from __future__ import annotations

from torch import fx, nn

from convsurgeon.converted.scope import take_contents


def become(module: nn.Module, other: nn.Module) -> None:
    """Let `module` be what `other` is, which is used up.

    The model may hold it in lists, dicts, partials or objects of its own beside its tree: as the object stays the same
    one, none of them has to be found.
    """
    vars(module).clear()
    take_contents(module, other, attributes=True)
    object.__setattr__(module, "__class__", type(other))
    if isinstance(module, fx.GraphModule):
        module.graph.owning_module = module


def can_become_another(module: nn.Module) -> bool:
    """Whether objects of this class can change it: Python lets only those that hold nothing but a ``__dict__``."""
    try:
        object.__setattr__(object.__new__(type(module)), "__class__", nn.Module)
    except TypeError:
        return False
    return True
