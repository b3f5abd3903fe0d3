"""The result: a GraphModule with the original's tree, names, aliases, hooks and metadata, however it is copied."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import fx, nn

from convsurgeon.axis import UnitAxis
from convsurgeon.clones.cloning import clone_module, share_parameters
from convsurgeon.converted.forms import HasForms
from convsurgeon.converted.frozen_attributes import FROZEN, tell_if_frozen
from convsurgeon.converted.frozen_graph import FrozenGraph, copied_graph, freeze_graph, thaw_graph
from convsurgeon.converted.given_in_1d import in_2d
from convsurgeon.converted.hiding import restoring_names
from convsurgeon.converted.own_state import KeepsState, as_its_kind, lend_methods, pickles_in_its_own_way
from convsurgeon.converted.ranks import Ranks, refusing_other_ranks
from convsurgeon.converted.reaching import reaching_directly
from convsurgeon.converted.scope import OwnModes, leave_weight_norm, set_own_modes, take_contents, tell_if_in_graph
from convsurgeon.errors import UnsupportedError

Mode = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a converted module knows of its conversion.

    `own_modes`: the modules that ``train(mode)`` leaves in another mode than it is given, as the original's does.
    `inputs` and `outputs` name those that are 4-D, outputs by their path in what is returned. `stands_for`: the class
    of the submodule in whose place it stands, in a model that is still its own Python. `direct`: whether the generated
    code reaches submodules directly. `saves_as`: the original's class, if it saves or loads state in its own way.
    `ranks`: those that arguments had, in 1-D. `filled`: whether tuning has filled up kernels, or repeated biases.
    """

    captured_mode: Mode | None
    axis: UnitAxis
    own_modes: OwnModes
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stands_for: type[nn.Module] | None = None
    direct: bool = False
    saves_as: type[nn.Module] | None = None
    ranks: Ranks = field(default_factory=dict)
    filled: bool = False


class ConvertedModule(KeepsState, HasForms, fx.GraphModule):
    """A GraphModule that keeps what a stock one drops.

    Modules that forward never calls, aliases, hooks on the root, node metadata and the class survive `copy.deepcopy`,
    pickling and `torch.save`. ``train()`` and ``eval()`` raise `UnsupportedError` if the graph is frozen to the other
    mode.
    """

    __jit_unused_properties__: ClassVar = [  # type: ignore[misc]
        *getattr(fx.GraphModule, "__jit_unused_properties__", ()),
        *("_facts", "_version", "captured_mode", "own_modes", "unit_axis", "inputs_in_2d"),
    ]

    @classmethod
    def build(
        cls,
        tree: nn.Module,
        graph: fx.Graph,
        class_name: str,
        facts: Facts,
    ) -> ConvertedModule:
        """A converted module with the contents of `tree` (modules, parameters, buffers, hooks, mode) and `graph`.

        Raises:
            UnsupportedError: the original holds something under a name that every GraphModule needs.
        """
        if taken := hidden_state(tree):
            raise UnsupportedError(
                f"{class_name}.{taken[0]} has a name that torch.fx.GraphModule uses for itself; rename it in the model"
            )
        result = cls(nn.Module(), fx.Graph(), class_name)
        take_contents(result, tree)
        leave_weight_norm(result, {str(node.target) for node in graph.find_nodes(op="get_attr")})
        result.__dict__["_convsurgeon"] = facts
        result.graph = graph
        lend_methods(result, facts.stands_for, facts.saves_as)
        return result

    @property
    def _facts(self) -> Facts:
        facts: Facts = self.__dict__["_convsurgeon"]
        return facts

    def _saves_as(self) -> type[nn.Module] | None:
        facts: Facts | None = self.__dict__.get("_convsurgeon")
        return None if facts is None else facts.saves_as

    @property
    def captured_mode(self) -> Mode | None:
        """The mode that the graph is frozen to, None where it follows ``train()`` and ``eval()``."""
        return self._facts.captured_mode

    @property
    def own_modes(self) -> OwnModes:
        """What ``train(mode)`` of the original's leaves in another mode than it is given."""
        return self._facts.own_modes

    @property
    def unit_axis(self) -> Literal[-2, -1]:
        """Where the unit axis stands in 2-D values."""
        return self._facts.axis.position

    @property
    def inputs_in_2d(self) -> tuple[str, ...]:
        """The names of the inputs that are 4-D."""
        return self._facts.inputs

    def __getattr__(self, name: str) -> Any:
        """What is no attribute here, as the class that this module stands for defines it: methods, properties."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            facts: Facts | None = self.__dict__.get("_convsurgeon")
            kind = None if facts is None else facts.stands_for
            if kind is None or name.startswith("__") or not hasattr(kind, name):
                raise
            found = inspect.getattr_static(kind, name)
            return found.__get__(self, kind) if hasattr(found, "__get__") else found

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, by the property of the class that this module stands for where that has one.

        Where the graph holds it at another value, warn.
        """
        facts: Facts | None = vars(self).get("_convsurgeon")
        found = None if facts is None else inspect.getattr_static(facts.stands_for, name, None)
        if isinstance(found, property) and found.fset is not None and not hasattr(type(self), name):
            found.fset(self, value)
            return
        tell_if_frozen(self, name, value)
        tell_if_in_graph(self, name, value)
        super().__setattr__(name, in_2d(self, name, value) if isinstance(value, torch.Tensor) else value)

    def mark_filled(self) -> None:
        """Note that some of its weights are no weights of the original's, which training would part."""
        self.__dict__["_convsurgeon"] = replace(self._facts, filled=True)

    def reach_directly(self) -> None:
        """Generate code that reaches submodules faster, from now on; it can't be scripted."""
        self.__dict__["_convsurgeon"] = replace(self._facts, direct=True)
        self.recompile()

    def recompile(self) -> Any:
        """Generate ``forward`` from the graph; one that changes the grad mode puts it back even where it fails."""
        facts: Facts | None = self.__dict__.get("_convsurgeon")
        with ExitStack() as transforms:
            transforms.enter_context(self._graph.on_generate_code(restoring_names(self._graph)))
            if facts is not None and facts.direct:
                transforms.enter_context(self._graph.on_generate_code(reaching_directly(self, self._graph)))
            if facts is not None:
                refusing = refusing_other_ranks(self._graph, facts.ranks, facts.inputs)
                transforms.enter_context(self._graph.on_generate_code(refusing))
            code = super().recompile()
        if any(node.target is torch._C._set_grad_enabled for node in self._graph.nodes):
            kind: Any = type(self)
            kind.forward = _restoring_grad_mode(kind.forward)
        return code

    def train(self, mode: bool = True) -> ConvertedModule:
        """Set the mode, as ``nn.Module.train`` does; of a module that isn't to be trained, warn.

        Raises:
            UnsupportedError: the graph could only be captured in the other mode.
        """
        asked = "train" if mode else "eval"
        if self.captured_mode not in (None, asked):
            raise UnsupportedError(
                f"this graph was captured in {self.captured_mode} mode only, since the model takes another path in "
                f"{asked} mode; put the original in {asked} mode and convert it again"
            )
        if mode and self._facts.filled:
            warnings.warn(
                "this module was tuned in evaluation mode, by rewrites that fill up kernels or repeat biases: trained, "
                "it becomes another model than the original would; to train it, tune it in training mode",
                stacklevel=2,
            )
        super().train(mode)
        set_own_modes(self, self.own_modes.get(mode, {}))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ConvertedModule:
        result = _new()
        memo[id(self)] = result
        return _fill(result, type(self).__name__, copy.deepcopy(_contents(self), memo), copied_graph(self._graph))

    def __copy__(self) -> ConvertedModule:
        return _fill(_new(), type(self).__name__, _contents(self), copied_graph(self._graph))

    def _replicate_for_data_parallel(self) -> ConvertedModule:
        """As ``nn.Module`` does, for `nn.DataParallel`: a GraphModule's own keeps parameters where tensors are put."""
        replica: ConvertedModule = object.__new__(type(self))
        emptied = {"_parameters": {}, "_buffers": self._buffers.copy(), "_modules": self._modules.copy()}
        vars(replica).update(vars(self) | emptied | {"_is_replica": True})
        return replica

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (), (type(self).__name__, _contents(self), freeze_graph(self._graph)), None, None, _restore


def axis_of(module: ConvertedModule) -> UnitAxis:
    """The unit axis as the module was planned; an attribute would take a name that a submodule may have."""
    return module._facts.axis


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of a converted model that shares the storage of its parameters, and whose graphs can be changed."""
    copied = clone_module(module, share_parameters)
    for one in copied.modules():
        if isinstance(one, ConvertedModule):
            name = type(one).__name__
            one.__class__ = type(_new())  # the clone's is the original's, which holds the code
            _fill(one, name, {}, copied_graph(one._graph))
    return copied


def _restoring_grad_mode(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def restoring(*args: Any, **kwargs: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return forward(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(before)

    return restoring


_TAKEN = frozenset({*dir(ConvertedModule), *vars(fx.GraphModule({}, fx.Graph())), "meta", "shape_env"}) - frozenset(
    {*dir(nn.Module), *vars(nn.Module())}
)
"""The names of a GraphModule's own attributes, which would hide a submodule, parameter or buffer."""


def hidden_state(module: nn.Module) -> list[str]:
    """The submodules, parameters and buffers of a module that a GraphModule in its place would hide."""
    return [name for name in (*module._modules, *module._parameters, *module._buffers) if name in _TAKEN]


def hidden_attributes(module: nn.Module) -> list[str]:
    """The other attributes that it would hide."""
    return [] if isinstance(module, fx.GraphModule) else [name for name in vars(module) if name in _TAKEN]


def _contents(module: ConvertedModule) -> dict[str, Any]:
    """What is copied and pickled beside the graph: of what the class that it stands for leaves out, nothing."""
    kind = module._facts.stands_for
    held: Any = vars(module)
    if kind is not None and pickles_in_its_own_way(kind):
        state = as_its_kind(module, kind).__getstate__()
        held = {**state, **_own(vars(module))} if isinstance(state, dict) else held
    return {key: value for key, value in held.items() if key not in ("_graph", "_in_spec", "_out_spec")}


def _own(held: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key in ("_convsurgeon", FROZEN)}


def _fill(module: ConvertedModule, name: str, contents: Mapping[str, Any], graph: fx.Graph) -> ConvertedModule:
    type(module).__name__ = name
    module.__dict__.update(contents)
    kind = module._facts.stands_for
    if contents and kind is not None and pickles_in_its_own_way(kind):
        as_its_kind(module, kind).__setstate__(contents)
    module.graph = graph
    lend_methods(module, kind, module._facts.saves_as)
    return module


def _new() -> ConvertedModule:
    return ConvertedModule.__new__(ConvertedModule)


def _restore(module: ConvertedModule, state: tuple[str, dict[str, Any], FrozenGraph]) -> None:
    name, contents, graph = state
    _fill(module, name, contents, thaw_graph(graph))
