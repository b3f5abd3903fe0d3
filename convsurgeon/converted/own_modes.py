"""The ``train`` of a model's own: what it does beside setting modes, on memory that may be the user's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convsurgeon.clones.cloning import clone_module, own, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.scope import OwnModes, Scope
from convsurgeon.errors import UnsupportedError


def own_modes(model: nn.Module) -> dict[str, OwnModes]:
    """What the model's own ``train`` leaves in another mode than it is given, such as frozen norms, under "".

    And that of each submodule with a ``train`` of its own, under its name: it may be called on that one alone.
    """
    names = [name for name, part in model.named_modules() if _sets_modes(part)]
    if not names:
        return {}
    clone, found = clone_module(model, share_parameters), {}
    # it may merge an adapter into the weights
    with preserved_random_state(), torch.no_grad(), WriteGuard(model):
        for name in dict.fromkeys(["", *names]):
            # a converted or exported part is of one mode, and so is the result; what of a model's own may not be
            # trained alone, and is never asked to by the model, refuses that by whatever error it likes
            refusals = Exception if name else (UnsupportedError, NotImplementedError)
            found[name] = _left_by_train(clone.get_submodule(name), refusals)
    return found


def _left_by_train(module: nn.Module, refusals: type[Exception] | tuple[type[Exception], ...]) -> OwnModes:
    found = {}
    for mode in (True, False):
        try:
            module.train(mode)
        except refusals:
            continue
        found[mode] = {name: one.training for name, one in module.named_modules() if one.training is not mode}
    return found


def in_training(model: nn.Module) -> nn.Module:
    """A clone of `model` in training mode, which shares parameters where nothing of the model's own sets the mode."""
    return clone_module(model, own if sets_modes_itself(model) else share_parameters).train()


def sets_modes_itself(model: nn.Module) -> bool:
    """Whether a module has a ``train`` of its own, by its class or hung on it."""
    return any(map(_sets_modes, model.modules()))


def _sets_modes(module: nn.Module) -> bool:
    """Whether ``train`` of this one module is its own, or a converted module's that knows of such."""
    if isinstance(module, (ConvertedModule, Scope)):
        return bool(module.own_modes)
    kind: Any = type(module)
    return kind.train is not nn.Module.train or "train" in vars(module)
