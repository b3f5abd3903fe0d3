"""Computed weights as plain ones: what a parametrization or a hook makes of a convolution's weight is kept instead."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convsurgeon.clones.cloning import clone_module, share_parameters

M = TypeVar("M", bound=nn.Module)


def folded(model: M) -> M:
    """A clone of `model` whose convolutions hold the weights that theirs compute now; the rest is shared as in a clone.

    Spectral norm makes no step of its power iteration, whatever the mode.
    """
    clone = clone_module(model, share_parameters)
    for module in list(clone.modules()):
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            modes = {one: one.training for one in module.modules()}
            nn.Module.train(module, False)
            with torch.no_grad():
                _fold(module)
            for one, mode in modes.items():
                one.training = mode
    return clone


def _fold(module: nn.Module) -> None:
    if is_parametrized(module):
        _unparametrize(module)
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, WeightNorm):
            trains = _trains(module, f"{hook.name}_g", f"{hook.name}_v")
            remove_weight_norm(module, hook.name)
            getattr(module, hook.name).requires_grad_(trains)
        elif isinstance(hook, SpectralNorm):
            trains = _trains(module, f"{hook.name}_orig")
            remove_spectral_norm(module, hook.name)
            getattr(module, hook.name).requires_grad_(trains)
        elif isinstance(hook, BasePruningMethod):
            hook.remove(module)
            del module._forward_pre_hooks[key]


def _trains(module: nn.Module, *names: str) -> bool:
    """Whether anything that a weight is computed from is trained."""
    return any(getattr(module, name).requires_grad for name in names)


def _unparametrize(module: nn.Module) -> None:
    """As ``remove_parametrizations`` does, which also takes the property from the class: it is the original's too."""
    values = {
        name: nn.Parameter(getattr(module, name).clone(), any(p.requires_grad for p in computed.parameters()))
        for name, computed in module.get_submodule("parametrizations").named_children()
    }
    del module._modules["parametrizations"]
    module.__class__ = type(module).__mro__[1]
    for name, value in values.items():
        module.register_parameter(name, value)
