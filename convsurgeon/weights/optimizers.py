"""Moves an optimizer from the original's parameters to the converted model's, so that training goes on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from convsurgeon.errors import CheckpointError
from convsurgeon.weights.placement import bare_name
from convsurgeon.weights.state import moved_state
from convsurgeon.weights.weight_map import WeightMap

Group = dict[str, Any]


def moved_optimizer(
    weight_map: WeightMap, optimizer: torch.optim.Optimizer, module: nn.Module
) -> torch.optim.Optimizer:
    """An optimizer of the same class over the parameters of `module`; see `WeightMap.move_optimizer`.

    Raises:
        CheckpointError: which parameter is which can't be told, or the class can't be built anew.
    """
    parameters = dict(module.named_parameters())
    names = _names(weight_map, optimizer, parameters)
    state = copy.deepcopy(optimizer.state_dict())
    groups: list[Group] = []
    named = ["param_names" in group for group in state["param_groups"]]
    for group, own, is_named in zip(state["param_groups"], names, named, strict=True):
        group["param_names"] = list(own)
        groups.append({"params": [(name, parameters[name]) if is_named else parameters[name] for name in own]})
    moved = moved_state(weight_map, state, "2d")
    for group, is_named in zip(moved["param_groups"], named, strict=True):
        if not is_named:
            del group["param_names"]
    result = _like(optimizer, groups)
    result.load_state_dict(moved)
    return result


def _like(optimizer: torch.optim.Optimizer, groups: list[Group]) -> torch.optim.Optimizer:
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    try:
        return kind(groups, **options)
    except Exception as error:  # a class of the user's may raise anything
        raise CheckpointError(
            f"a {kind.__name__} can't be built from its parameter groups and defaults ({error}); build one over the "
            "converted module's parameters, and load weight_map.to_2d(optimizer.state_dict()) into it"
        ) from error


def _names(
    weight_map: WeightMap, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> list[list[str]]:
    """The names of each group's parameters: by the optimizer's own, by the memory that both models share, or by order.

    Raises:
        CheckpointError: none of these tells.
    """
    groups: Sequence[Group] = optimizer.param_groups
    count = sum(len(group["params"]) for group in groups)
    ways = (_own_names(groups), _by_memory(groups, parameters), _by_order(groups, weight_map.parameters, parameters))
    for names in ways:
        flat = [name for group in names for name in group]
        if len(flat) == count and set(flat) <= parameters.keys():
            return names
    raise CheckpointError(
        f"the optimizer's {count} parameters in {len(groups)} group(s) can't be told apart: they have no names, share "
        f"no memory with the module, and aren't the {len(weight_map.parameters)} of {weight_map.model} in order and "
        "with the values that these have; move the optimizer right after converting, or build it over "
        "model.named_parameters()"
    )


def _own_names(groups: Sequence[Group]) -> list[list[str]]:
    return [list(group.get("param_names", ())) for group in groups]


def _by_memory(groups: Sequence[Group], parameters: dict[str, nn.Parameter]) -> list[list[str]]:
    names = {_place(parameter): name for name, parameter in parameters.items() if parameter.numel()}
    return [list(_known(names, group)) for group in groups]


def _known(names: dict[Any, str], group: Group) -> Iterator[str]:
    return (names[_place(one)] for one in group["params"] if _place(one) in names)


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel())


def _by_order(groups: Sequence[Group], names: Sequence[str], parameters: dict[str, nn.Parameter]) -> list[list[str]]:
    """The model's order, if what stands there has the same values: the module is a copy of the original."""
    own = {bare_name(name): name for name in parameters}
    if len(groups) != 1 or not set(names) <= own.keys():
        return []
    pairs = zip(groups[0]["params"], names, strict=False)
    return (
        [[own[name] for name in names]] if all(_same_values(one, parameters[own[name]]) for one, name in pairs) else []
    )


def _same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    flat, moved = one.detach().reshape(-1), other.detach().reshape(-1)
    return flat.shape == moved.shape and bool(torch.equal(flat.to(moved), moved))
