"""Reads the nodes of a converted graph, in any of their spellings, as sites. Knows no rewrite."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from convsurgeon.capture import fetch, modules_of
from convsurgeon.capture.tracer import has_hooks
from convsurgeon.converted.module import ConvertedModule, axis_of
from convsurgeon.converted.origin import ORIGIN
from convsurgeon.exact.arguments import LAYERS, arguments
from convsurgeon.exact.shapes import Shapes
from convsurgeon.exact.sites import Convolution, Held, Linear, Norm, Pool, Site, Spelled
from convsurgeon.rules.base import Refusal
from convsurgeon.spellings import is_aten

_OPERATORS: dict[type[Site], frozenset[str]] = {
    Convolution: frozenset({"conv", "conv_transpose", "convolution"}),
    Linear: frozenset({"linear"}),
    Norm: frozenset({"batch_norm"}),
    Pool: frozenset({"max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean"}),
}


class Reader:
    """What the nodes of one graph are, with the shapes that they had in the sample.

    `outside`: the ids of tensors that other modules than the graph's hold too.
    """

    def __init__(self, module: ConvertedModule, shapes: Shapes, outside: frozenset[int] = frozenset()) -> None:
        self.module = module
        self._outside = outside
        self.axis = axis_of(module)
        self.is_aten = is_aten(module.graph)
        self._shapes = shapes
        self._modules = modules_of(module)
        self._paths: dict[int, str] = {id(one): path for path, one in reversed(list(self._modules.items()))}
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}
        for parent in {id(one): one for one in self._modules.values()}.values():
            for name, child in parent._modules.items():
                self._places.setdefault(id(child), []).append((parent, name))
        self._names: dict[int, list[str]] = {}
        self._held: dict[int, set[tuple[int, str]]] = {}
        for path, one in self._modules.items():
            for name, tensor in (*one._parameters.items(), *one._buffers.items()):
                if tensor is not None:
                    self._names.setdefault(id(tensor), []).append(f"{path}.{name}".removeprefix("."))
                    self._held.setdefault(id(tensor), set()).add((id(one), name))
        self._reads = self._count_reads()

    def put(self, layer: nn.Module, module: nn.Module) -> None:
        """Let a layer stand wherever a module does."""
        self._places[id(layer)] = self._places.pop(id(module), [])
        for parent, name in self._places[id(layer)]:
            parent._modules[name] = layer

    def path_of(self, module: nn.Module) -> str:
        """The first qualified name of a module."""
        return self._paths[id(module)]

    def _count_reads(self) -> Counter[int]:
        """How often the graph reads each tensor."""
        reads: Counter[int] = Counter()
        for node in self.module.graph.nodes:
            if node.op == "call_module":
                layer = self._modules[str(node.target)]
                tensors = layer._parameters.values() if type(layer) in LAYERS else layer.parameters()
                reads.update(map(id, tensors))
            elif node.op == "get_attr":
                reads[id(fetch(self.module, str(node.target)))] += len(node.users)
        return reads

    def read(self, kind: type[Site], node: fx.Node) -> Site | Refusal | None:
        """The node as a site of that kind; None if it is none, or why it can't be read."""
        found = arguments(node, self._modules)
        if found is None or found[0] not in _OPERATORS[kind]:
            return None
        operator, given = found
        operand = given["input"]
        if not isinstance(operand, fx.Node) or operand not in self._shapes:
            return None
        if kind is Convolution:
            return self._convolution(node, operator, given)
        if kind is Norm:
            return self._norm(node, given)
        if not self.is_2d(operand):
            return Refusal("its operand is not held in 2-D") if kind is Linear else None
        return self._linear(node, given) if kind is Linear else self._pool(node, operator, given)

    def pad(self, node: fx.Node) -> tuple[fx.Node, int, int] | None:
        """What a node puts zeros around, and how many on each side of the length; None where it does something else."""
        found = arguments(node, self._modules)
        if found is None or found[0] != "pad" or not self.is_2d(node):
            return None
        given = found[1]
        pads = list(given["padding"])
        if given.get("mode", "constant") != "constant" or given.get("value") or any(type(p) is not int for p in pads):
            return None
        pads += [0] * (4 - len(pads))
        unit, along = (pads[2:], pads[:2]) if self.axis.position == -2 else (pads[:2], pads[2:4])
        return None if any(unit) or any(pads[4:]) or min(along) < 0 else (given["input"], along[0], along[1])

    def is_2d(self, node: fx.Node) -> bool:
        """Whether the node's value is (N, C, 1, L), or (N, C, L, 1)."""
        origin = node.meta.get(ORIGIN)
        shape = self._shapes.get(node)
        return shape is not None and origin is not None and origin.form == "2d" and self._is_unit(shape.size)

    def _is_unit(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in (3, 4) and shape[self.axis.position] == 1

    def _along(self, value: Any, unit: int) -> int | None:
        """The number for the length out of one for both axes; None if the other isn't `unit`, or they are unknown."""
        if isinstance(value, int):
            return value if unit == 1 or value == 0 else None
        numbers = list(value)
        if len(numbers) == 1:
            numbers *= 2
        if any(type(one) is not int for one in numbers):
            return None
        other, along = numbers if self.axis.position == -2 else reversed(numbers)
        return along if unit == 1 or other == 0 else None

    def _state(self, value: Any, layer: nn.Module | None, name: str) -> Held | Refusal:
        """The tensor of the module tree that an argument is."""
        if layer is not None:
            owner, tensor = layer, value
            if name not in layer._parameters:
                return Refusal(f"its {name} is computed; say fold=True to keep its present value")
        elif isinstance(value, fx.Node) and value.op == "get_attr":
            path, _, name = str(value.target).rpartition(".")
            owner, tensor = self._modules[path], fetch(self.module, str(value.target))
        else:
            return Refusal(f"its {name} is computed in the graph; say fold=True to keep its present value")
        if not isinstance(tensor, torch.Tensor) or tensor.is_complex():
            return Refusal(f"its {name} is not a tensor of real numbers")
        if len(self._held.get(id(tensor), ())) > 1:
            return Refusal(f"its {name} is tied to {' and '.join(self._names[id(tensor)])}, which would part")
        if id(tensor) in self._outside:
            return Refusal(f"its {name} is held outside this part of the model as well, and would part")
        if self._reads[id(tensor)] > 1:
            return Refusal(f"its {name} is read {self._reads[id(tensor)]} times, and would change for every reader")
        return Held(owner, name, tuple(self._names.get(id(tensor), ())), tensor)

    def _weights(self, given: dict[str, Any]) -> tuple[Held, Held | None] | Refusal:
        layer = given.get("layer")
        if layer is not None and has_hooks(layer):
            return Refusal("it has hooks, which may look at its weight")
        weight = self._state(given["weight"], layer, "weight")
        bias = None if given["bias"] is None else self._state(given["bias"], layer, "bias")
        if isinstance(weight, Refusal):
            return weight
        return bias if isinstance(bias, Refusal) else (weight, bias)

    def _convolution(self, node: fx.Node, operator: str, given: dict[str, Any]) -> Convolution | Refusal | None:
        operand = given["input"]
        if not self.is_2d(operand) or not self.is_2d(node):
            return None
        held = self._weights(given)
        if isinstance(held, Refusal):
            return held
        weight, bias = held
        if weight.value.shape[self.axis.position] != 1:
            return None
        transposed = operator == "conv_transpose" or bool(given.get("transposed", False))
        steps = (self._along(given["stride"], 1), self._along(given["dilation"], 1))
        extra = self._along(given.get("output_padding", 0), 0)
        kernel = self.axis.lower(weight.value)
        pads = self._pads(given["padding"], (steps[1] or 0) * (kernel.shape[-1] - 1))
        if None in steps or extra is None or pads is None:
            return Refusal("its arguments are computed, or it pads the unit axis")
        spelled: Spelled = "aten" if isinstance(node.target, OpOverload) else "torch"
        spelled = {"convolution": "convolution"}.get(operator, spelled)  # type: ignore[assignment]
        called = str(node.target) if node.op == "call_module" else ""
        return Convolution(
            node,
            operand,
            self._shapes[operand].size,
            self.axis,
            weight,
            bias,
            "module" if called else spelled,
            transposed,
            steps[0] or 1,
            pads,
            steps[1] or 1,
            given["groups"],
            extra,
            str(given.get("padding_mode", "zeros")) if any(pads) else "zeros",
            given.get("output_size") is not None,
            called,
        )

    def _pads(self, padding: Any, reach: int) -> tuple[int, int] | None:
        """What is added on each side; "same" adds what the kernel takes, the odd one on the right."""
        if padding == "valid":
            return 0, 0
        if padding == "same":
            return reach // 2, reach - reach // 2
        both = self._along(padding, 0)
        return None if both is None else (both, both)

    def _norm(self, node: fx.Node, given: dict[str, Any]) -> Norm | Refusal | None:
        layer = given.get("layer")
        mean, variance, scale, shift = (
            self._value(given[name]) for name in ("running_mean", "running_var", "weight", "bias")
        )
        if any(isinstance(one, fx.Node) for one in (mean, variance, scale, shift)):
            return Refusal("its statistics, or its scale and shift, are computed in the graph")
        trains = layer.training if layer is not None else bool(self._value(given["training"]))
        operand = given["input"]
        before = self.read(Convolution, operand)
        why = before.reason if isinstance(before, Refusal) else ""
        if layer is not None and has_hooks(layer):
            return Refusal("it has hooks, which would no longer run")
        return Norm(
            node,
            operand,
            self._shapes[operand].size,
            self.axis,
            mean,
            variance,
            scale,
            shift,
            given["eps"],
            trains or mean is None,
            before if isinstance(before, Convolution) else None,
            len(operand.users) == 1,
            why,
        )

    def _value(self, argument: Any) -> Any:
        """What an argument is, where the module tree holds it; the node itself where it is computed."""
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            return fetch(self.module, str(argument.target))
        return argument

    def _linear(self, node: fx.Node, given: dict[str, Any]) -> Linear | Refusal:
        held = self._weights(given)
        if isinstance(held, Refusal):
            return held
        operand = given["input"]
        called = str(node.target) if node.op == "call_module" else ""
        spelled: Spelled = "aten" if isinstance(node.target, OpOverload) else "torch"
        return Linear(
            node, operand, self._shapes[operand].size, self.axis, *held, "module" if called else spelled, called
        )

    def _pool(self, node: fx.Node, operator: str, given: dict[str, Any]) -> Pool | Refusal | None:
        operand = given["input"]
        place = (node, operand, self._shapes[operand].size, self.axis)
        if operator == "mean":
            dims = given["dim"]
            axes = {
                dim % len(place[2]) for dim in (dims if isinstance(dims, (tuple, list)) else (dims,)) if dim is not None
            }
            both = {len(place[2]) - 1, len(place[2]) - 2}
            wanted = both if not given["keepdim"] else both - {len(place[2]) + self.axis.position}
            if dims is None or given.get("dtype") is not None or not wanted <= axes <= both:
                return None
            if self._shapes[operand].dtype.is_complex:
                return Refusal("its operand is complex, and torch has no pools of complex numbers")
            return Pool(*place, "mean", keeps=bool(given["keepdim"]))
        kind: Any = "max" if "max" in operator else "average"
        indices = bool(given.get("return_indices", False))
        if operator.startswith("adaptive"):
            asked = given["output_size"]
            sizes = (asked, asked) if isinstance(asked, int) else tuple(asked)
            unit, size = sizes if self.axis.position == -2 else reversed(sizes)
            if type(size) is not int or unit not in (1, None):
                return Refusal("the size that it is asked for is computed, or no pool over the length alone makes it")
            return Pool(*place, kind, size, indices=indices)
        taps, padding = given["kernel_size"], self._along(given["padding"], 0)
        stride = given["stride"] or taps
        numbers = [self._along(one, 1) for one in (taps, stride, given.get("dilation", 1))]
        square = (isinstance(taps, int) and taps > 1) or (not isinstance(taps, int) and taps[self.axis.position] != 1)
        if None in numbers or padding is None or square:
            return None
        return Pool(
            *place,
            kind,
            None,
            numbers[0] or 1,
            numbers[1] or 1,
            padding,
            numbers[2] or 1,
            bool(given["ceil_mode"]),
            given.get("divisor_override") is not None,
            indices,
        )
