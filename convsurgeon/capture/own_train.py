"""Whether a model's own ``train`` changes what forward computes with: an adapter that is merged for evaluation."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import nn

from convsurgeon.capture.state import noticed
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.clones.guard import WriteGuard
from convsurgeon.clones.rng import preserved_random_state
from convsurgeon.converted.own_modes import sets_modes_itself


def training_changes_more(model: nn.Module) -> bool:
    """Whether ``model.train()`` writes to parameters or changes attributes, beside the modes; `model` itself stays."""
    if not sets_modes_itself(model):
        return False
    clone = clone_module(model, share_parameters)
    flags = [(module, module.training) for module in clone.modules()]
    with preserved_random_state(), torch.no_grad(), WriteGuard(model) as guard, noticed(clone) as left:
        with suppress(NotImplementedError):  # an exported part is of one mode
            clone.train()
        for module, flag in flags:
            module.training = flag
    return left.changed or guard.saw_writes
