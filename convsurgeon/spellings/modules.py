"""Operators spelled as calls of torch's own layers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Modules
from convsurgeon.capture.tracer import HOOKS, computes_as_its_layer
from convsurgeon.converted.scope import take_contents
from convsurgeon.rules.base import Lifted, Refusal
from convsurgeon.runs.observe import Value
from convsurgeon.spellings.base import Call, State, bind

_CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")


@functools.cache
def _signature_of_calls(layer: Any) -> inspect.Signature:
    """How the arguments of a call bind: the layer's forward without self, its first argument called input as always."""
    _, first, *rest = inspect.signature(layer.forward).parameters.values()
    return inspect.Signature([first.replace(name="input"), *rest])


@dataclass(frozen=True, slots=True)
class ModuleSpelling:
    """A layer: its operator, the layer that computes it in 2-D, and which of its attributes are arguments.

    `extra`: the attributes that only the 2-D layer has, with the values that mean what the 1-D one does.
    """

    operator: str
    layer: type[nn.Module]
    lifted: type[nn.Module]
    tensors: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def signature(self) -> inspect.Signature:
        layer: Any = self.layer
        return _signature_of_calls(layer)

    def lifted_name(self, way: Lifted) -> str:
        return self.lifted.__name__

    def read(self, node: fx.Node, modules: Modules) -> Call:
        module = modules[str(node.target)]
        arguments = bind(self.signature, node)
        computed = computed_by_hooks(module) or {}
        for name in self.tensors:
            held = [(one, getattr(module, one)) for one in computed.get(name, (name,))]
            states = [State(f"{node.target}.{one}", Value.of(tensor)) for one, tensor in held if tensor is not None]
            arguments[name] = (states[0] if states else None) if len(states) < 2 else states
        arguments.update({name: getattr(module, name) for name in self.settings})
        return Call(self.operator, arguments, self)

    def lifted_target(self, node: fx.Node, way: Lifted) -> Any:
        return node.target

    def lift_module(self, module: nn.Module, changes: Mapping[str, Any], axis: UnitAxis) -> nn.Module:
        # Not through __init__, which would draw initial weights: the layers of a family have the same attributes.
        lifted = object.__new__(self.lifted if self.lifted is not self.layer else type(module))
        take_contents(lifted, module, attributes=True)
        attributes = vars(lifted)
        attributes.update(self.extra)
        attributes.update((name, changes[name]) for name in self.settings if name in changes)
        if isinstance(module, _ConvNd):
            attributes["kernel_size"] = axis.pair(module.kernel_size, unit=1)
            attributes["output_padding"] = axis.pair(module.output_padding, unit=0)
            pads: Any = module._reversed_padding_repeated_twice
            attributes["_reversed_padding_repeated_twice"] = axis.pads(pads)
            for name in {"weight"} & (computed_by_hooks(module) or {}).keys():
                attributes[name] = axis.lift(getattr(module, name).detach())
        return lifted


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")

MODULES: tuple[ModuleSpelling, ...] = (
    ModuleSpelling("conv1d", nn.Conv1d, nn.Conv2d, ("weight", "bias"), _CONVOLUTION),
    ModuleSpelling(
        "conv_transpose1d",
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        ("weight", "bias"),
        (*_CONVOLUTION, "output_padding"),
    ),
    ModuleSpelling("batch_norm", nn.BatchNorm1d, nn.BatchNorm2d),
    ModuleSpelling("batch_norm", nn.SyncBatchNorm, nn.SyncBatchNorm),
    ModuleSpelling("instance_norm", nn.InstanceNorm1d, nn.InstanceNorm2d),
    ModuleSpelling("group_norm", nn.GroupNorm, nn.GroupNorm),
    ModuleSpelling("local_response_norm", nn.LocalResponseNorm, nn.LocalResponseNorm),
    ModuleSpelling("layer_norm", nn.LayerNorm, nn.LayerNorm, ("weight", "bias"), ("normalized_shape",)),
    ModuleSpelling("rms_norm", nn.RMSNorm, nn.RMSNorm, ("weight",), ("normalized_shape",)),
    ModuleSpelling("max_pool1d", nn.MaxPool1d, nn.MaxPool2d, (), (*_POOL, "dilation", "return_indices")),
    ModuleSpelling("avg_pool1d", nn.AvgPool1d, nn.AvgPool2d, (), _POOL, (("divisor_override", None),)),
    ModuleSpelling("lp_pool1d", nn.LPPool1d, nn.LPPool2d, (), ("kernel_size", "stride")),
    ModuleSpelling("adaptive_avg_pool1d", nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, (), ("output_size",)),
    ModuleSpelling(
        "adaptive_max_pool1d", nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, (), ("output_size", "return_indices")
    ),
    ModuleSpelling("max_unpool1d", nn.MaxUnpool1d, nn.MaxUnpool2d, (), ("kernel_size", "stride", "padding")),
    ModuleSpelling("pad1d", nn.ZeroPad1d, nn.ZeroPad2d, (), ("padding",)),
    ModuleSpelling("pad1d", nn.ConstantPad1d, nn.ConstantPad2d, (), ("padding",)),
    ModuleSpelling("pad1d", nn.ReflectionPad1d, nn.ReflectionPad2d, (), ("padding",)),
    ModuleSpelling("pad1d", nn.ReplicationPad1d, nn.ReplicationPad2d, (), ("padding",)),
    ModuleSpelling("pad1d", nn.CircularPad1d, nn.CircularPad2d, (), ("padding",)),
    ModuleSpelling("interpolate", nn.Upsample, nn.Upsample, (), ("size", "scale_factor", "mode", "align_corners")),
    ModuleSpelling("softmax", nn.Softmax, nn.Softmax, (), ("dim",)),
    ModuleSpelling("log_softmax", nn.LogSoftmax, nn.LogSoftmax, (), ("dim",)),
    ModuleSpelling("softmin", nn.Softmin, nn.Softmin, (), ("dim",)),
    ModuleSpelling("glu", nn.GLU, nn.GLU, (), ("dim",)),
    ModuleSpelling("dropout", nn.Dropout, nn.Dropout),
    ModuleSpelling("alpha_dropout", nn.AlphaDropout, nn.AlphaDropout),
    ModuleSpelling("feature_dropout", nn.Dropout1d, nn.Dropout2d),
    ModuleSpelling("feature_dropout", nn.Dropout2d, nn.Dropout2d),
    ModuleSpelling("feature_alpha_dropout", nn.FeatureAlphaDropout, nn.FeatureAlphaDropout),
    ModuleSpelling("rrelu", nn.RReLU, nn.RReLU),
    ModuleSpelling("prelu", nn.PReLU, nn.PReLU, ("weight",)),
    ModuleSpelling("linear", nn.Linear, nn.Linear),
    ModuleSpelling("flatten", nn.Flatten, nn.Flatten, (), ("start_dim", "end_dim")),
    ModuleSpelling("unflatten", nn.Unflatten, nn.Unflatten, (), ("dim",)),
    ModuleSpelling("channel_shuffle", nn.ChannelShuffle, nn.ChannelShuffle),
    ModuleSpelling("identity", nn.Identity, nn.Identity),
)


def computed_by_hooks(module: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """What the hooks of `module` compute in front of each call: a parameter's name, and those that it is computed from.

    Spectral norm reads a weight as a matrix, and pruning masks it: both do the same to it in 2-D. None where there are
    other hooks.
    """
    hooks = list(module._forward_pre_hooks.values())
    others = sum(bool(vars(module).get(kind)) for kind in HOOKS if kind != "_forward_pre_hooks")
    found: dict[str, tuple[str, ...]] = {}
    for hook in hooks:
        if isinstance(hook, SpectralNorm):
            found[hook.name] = (f"{hook.name}_orig",)
        elif isinstance(hook, BasePruningMethod):
            found[hook._tensor_name] = (f"{hook._tensor_name}_orig", f"{hook._tensor_name}_mask")
    return None if others or len(found) < len(hooks) else found


def module_spelling(module: nn.Module) -> ModuleSpelling | Refusal | None:
    """The row of this layer, None if there is none, or why this one can't be replaced."""
    row = next((row for row in MODULES if isinstance(module, row.layer)), None)
    if row is None:
        return None
    name, layer, kind = type(module).__name__, row.layer, type(module)
    computed = computed_by_hooks(module)
    if computed is None:
        return Refusal(f"this {name} has hooks, which would see 2-D values")
    if not computes_as_its_layer(module) or kind.forward is not layer.forward:
        named = f"{kind.__module__}.{name}" if name == layer.__name__ else name
        return Refusal(f"{named} computes something of its own on top of {layer.__name__}")
    if any(name not in module._parameters and name not in computed for name in row.tensors):
        return Refusal(f"its parameters are computed ({name}), and it is called as a whole")
    return row
