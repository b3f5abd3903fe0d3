"""Writes an assignment of layouts into a converted module: copies between operators, and weights as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from convsurgeon.capture import fetch
from convsurgeon.converted.module import ConvertedModule
from convsurgeon.converted.origin import ORIGIN, Origin
from convsurgeon.exact import REWRITES
from convsurgeon.exact.arguments import arguments
from convsurgeon.rules import RULES
from convsurgeon.spellings import is_aten
from convsurgeon.tuning.layouts import Layout
from convsurgeon.tuning.survey import is_convolution, weight_laid_out, weight_of
from convsurgeon.tuning.traits import form_of

aten = torch.ops.aten
RULE = "layout"
"""What nodes name as their rule that are there for the layout alone."""


@dataclass(frozen=True, slots=True)
class Layouts:
    """What is chosen, by the names of nodes: the layout in which operators take their operands, and values are made.

    `strict`: the operands, as (node, operand), that have to be laid out as they were, and how. `writes`: something is
    written in place, so that a value is copied where it is read, and not where it is made.
    """

    takes: Mapping[str, Layout]
    makes: Mapping[str, Layout]
    strict: Mapping[tuple[str, str], Layout]
    writes: bool = False


def write_layouts(module: ConvertedModule, layouts: Layouts) -> int:
    """Write them into the module, in place; returns how many copies stand in its graph for them."""
    writer = _Writer(module, layouts)
    for node in list(module.graph.nodes):
        writer.visit(node)
    writer.align_gradients()
    writer.lay_out_weights()
    module.graph.lint()
    module.recompile()
    return len(writer.copies)


class _Writer:
    def __init__(self, module: ConvertedModule, layouts: Layouts) -> None:
        self._module = module
        self._layouts = layouts
        self._graph = module.graph
        self._aten = is_aten(module.graph)
        self.copies: dict[tuple[fx.Node, Layout, fx.Node | None], fx.Node] = {}

    def takes(self, node: fx.Node) -> Layout | None:
        """The layout of a node's operands; that of what it was rewritten from, if it was."""
        own = self._layouts.takes.get(node.name)
        return own or (self._layouts.takes.get(node.meta[ORIGIN].node) if self._is_rewritten(node) else None)

    def _is_rewritten(self, node: fx.Node) -> bool:
        origin = node.meta.get(ORIGIN)
        return origin is not None and origin.rule in REWRITES

    def visit(self, node: fx.Node) -> None:
        takes = self.takes(node)
        if takes == "last" and self._is_layout_alone(node):
            self._relay(node)
        for operand in node.all_input_nodes:
            made = self._layouts.makes.get(operand.name)
            wanted = self._layouts.strict.get((node.name, operand.name), takes)
            if made is not None and wanted is not None and self._may_differ(node, operand, made, wanted):
                node.replace_input_with(operand, self._copy(operand, wanted, node))
        if takes == "last" and self._is_rewritten(node) and node.meta[ORIGIN].node == node.name:
            self._tell_strides(node)

    def _may_differ(self, node: fx.Node, operand: fx.Node, made: Layout, wanted: Layout) -> bool:
        """Whether a value needs bringing into a layout; what fails on another has it said, where it isn't as it was."""
        relied = (node.name, operand.name) in self._layouts.strict and self.takes(operand) == "last"
        return made != wanted or (relied and wanted == "plain")

    def _is_layout_alone(self, node: fx.Node) -> bool:
        origin = node.meta.get(ORIGIN)
        made = origin is not None and origin.rule != "" and (origin.node != node.name or origin.rule in REWRITES)
        return made and node.target in ("contiguous", "clone", aten.contiguous.default, aten.clone.default)

    def _relay(self, node: fx.Node) -> None:
        """What made a value contiguous makes it channels_last."""
        node.target = "contiguous" if node.op == "call_method" else aten.contiguous.default
        node.kwargs = {"memory_format": torch.channels_last}

    def _tell_strides(self, value: fx.Node) -> None:
        """Give what was folded the strides that torch knows channels_last by."""
        readers = list(value.users)
        told = self._told(value, value.next)
        for reader in readers:
            reader.replace_input_with(value, told)

    def _told(self, value: fx.Node, before: fx.Node) -> fx.Node:
        """A view of the value with the strides that torch knows channels_last by.

        Any view may give an axis of one element another stride, and torch looks at that of the batch.
        """
        with self._graph.inserting_before(before):
            first = self._create("permute", value, aten.permute.default, [0, 2, 3, 1])
            same = self._create("reshape_as", first, aten.reshape_as.default, first)
            return self._create("permute", same, aten.permute.default, [0, 3, 1, 2])

    def _copy(self, value: fx.Node, layout: Layout, reader: fx.Node) -> fx.Node:
        key = (value, layout, reader if self._layouts.writes else None)
        if key not in self.copies:
            at = reader if self._layouts.writes else value.next
            while at.op == "placeholder":
                at = at.next
            with self._graph.inserting_before(at):
                self.copies[key] = self._written(value, layout)
        return self.copies[key]

    def _written(self, value: fx.Node, layout: Layout) -> fx.Node:
        if layout == "plain":
            return self._create("contiguous", value, aten.contiguous.default)
        if form_of(value) == "2d":
            new = self._create("contiguous", value, aten.contiguous.default)
            new.kwargs = {"memory_format": torch.channels_last}
            return new
        turned = self._create("transpose", value, aten.transpose.int, 1, 2)
        return self._create("transpose", self._written(turned, "plain"), aten.transpose.int, 1, 2)

    def _create(self, method: str, value: fx.Node, overload: Any, *rest: Any) -> fx.Node:
        given = (value, *rest)
        by_overload = self._aten or overload is aten.slice.Tensor
        new = self._graph.call_function(overload, given) if by_overload else self._graph.call_method(method, given)
        origin: Origin = value.meta[ORIGIN]
        new.meta = {key: held for key, held in value.meta.items() if key in ("stack_trace", "nn_module_stack")}
        new.meta[ORIGIN] = Origin(origin.node, RULE, origin.form)
        return new

    def align_gradients(self) -> None:
        """Where a layout changes behind what trusts its gradient's strides, these are made anew.

        See `convsurgeon.planning.gradients`; operators between have gradients in the order of their results'.
        """
        reached: dict[fx.Node, fx.Node] = {}
        turned: dict[fx.Node, None] = {}
        for node in self._graph.nodes:
            origin = node.meta.get(ORIGIN)
            rule = "" if origin is None else origin.rule
            trusting = [reached[one] for one in node.all_input_nodes if one in reached]
            if trusting and (rule == RULE or rule in REWRITES):
                turned |= dict.fromkeys(trusting)
            if rule in RULES and RULES[rule].trusts_gradient:
                reached[node] = node
            elif trusting and not is_convolution(node, self._module):
                reached[node] = trusting[0]
        for node in turned:
            with self._graph.inserting_after(node):
                aligned = self._create("narrow", node, aten.slice.Tensor, 0)
            node.replace_all_uses_with(aligned)
            aligned.args = (node, 0)

    def lay_out_weights(self) -> None:
        """The weights of convolutions that compute in channels_last; one that something else reads stays.

        Where torch doesn't take the operand for channels_last, it computes the gradient of such a weight wrong, of one
        with groups (slow_conv2d, aten/src/ATen/native/ConvolutionMM2d.cpp).
        """
        last: dict[fx.Node, nn.Parameter] = {}
        for node in self._graph.nodes:
            if self.takes(node) == "last" and is_convolution(node, self._module):
                weight = weight_of(node, self._module)
                if weight is not None and weight.ndim == 4:
                    last[node] = weight
        read = [node for node in self._graph.nodes if node.op == "get_attr" and not last.keys() >= node.users.keys()]
        elsewhere = {id(fetch(self._module, str(node.target))) for node in read}
        new = {id(one): weight_laid_out(one, "last") for one in last.values() if id(one) not in elsewhere}
        for node, weight in last.items():
            operand = node.all_input_nodes[0]
            if id(weight) in new and weight.shape[1] > 1 and self._has_groups(node) and not self._is_known(operand):
                node.replace_input_with(operand, self._told(operand, node))
        for holder in self._module.modules():
            for name, parameter in holder._parameters.items():
                if id(parameter) in new:
                    holder._parameters[name] = new[id(parameter)]

    def _is_known(self, value: fx.Node) -> bool:
        """Whether torch takes a value that lies in channels_last for that."""
        return is_convolution(value, self._module) or value in self.copies.values()

    def _has_groups(self, node: fx.Node) -> bool:
        """Whether a convolution has groups; one that can't be read is taken for that."""
        if node.op == "call_module":
            return cast(int, self._module.get_submodule(str(node.target)).groups) > 1
        read = arguments(node, {})
        return read is None or read[1]["groups"] > 1
