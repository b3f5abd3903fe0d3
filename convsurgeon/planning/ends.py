"""Where regions begin and end: the borders between the chosen forms, and the inputs and outputs that are 4-D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import fx

from convsurgeon.axis import UnitAxis
from convsurgeon.capture import Capture
from convsurgeon.converted.structure import named_leaves
from convsurgeon.planning.plan import Border, Port
from convsurgeon.planning.values import Forms
from convsurgeon.rules import Lowered
from convsurgeon.runs.observe import Facts, has_form
from convsurgeon.spellings import module_of, operator_name


class Ends:
    """The ends of the regions that `forms` make; with `open_ends`, outputs are taken in the form they have."""

    def __init__(self, capture: Capture, facts: Facts | None, axis: UnitAxis, forms: Forms, *, open_ends: bool) -> None:
        self._capture = capture
        self._facts = facts
        self._axis = axis
        self._forms = forms
        self._open_ends = open_ends

    def borders(self) -> Iterator[Border]:
        """The borders, in the order of the graph."""
        flowing: set[fx.Node] = set()
        for value in self._capture.graph.nodes:
            if value.op == "placeholder" or any(operand in flowing for operand in value.all_input_nodes):
                flowing.add(value)
            two_d = value in self._forms.two_d
            step = self._forms.lifted.get(value)
            if step is not None and not two_d and not isinstance(step.lifted, Lowered):
                yield self._border(value, "lower", [value], constant=value not in flowing)
            changes = [user for user in value.users if self._takes_2d(user, value) is not two_d]
            if changes and has_form(value, self._facts, self._axis):
                yield self._border(value, "lower" if two_d else "lift", changes, constant=value not in flowing)

    def _takes_2d(self, user: fx.Node, value: fx.Node) -> bool:
        if user.op == "output" and self._open_ends:
            return value in self._forms.two_d
        return user in self._forms.lifted and value in self._forms.lifted[user].operands

    def _border(
        self, value: fx.Node, direction: Literal["lift", "lower"], users: Sequence[fx.Node], *, constant: bool
    ) -> Border:
        seen = None if self._facts is None else self._facts[value].value
        shape, nbytes = (None, None) if seen is None else (seen.shape, seen.nbytes)
        reason = self._why_lifted(value, users) if direction == "lift" else self._why_lowered(value, users)
        return Border(value.name, direction, shape, nbytes, tuple(user.name for user in users), reason, constant)

    def _why_lifted(self, value: fx.Node, users: Sequence[fx.Node]) -> str:
        if value.op == "placeholder":
            source = "an input"
        elif value.op == "get_attr":
            source = "a tensor that is used in 1-D too"
        elif value in self._forms.lifted:
            source = f"{self._name(value)} is computed in 2-D, alone"
        else:
            source = f"{self._name(value)} stays 1-D"
        return f"{source}; {self._names(users)} takes it in 2-D"

    def _why_lowered(self, value: fx.Node, users: Sequence[fx.Node]) -> str:
        if users == [value]:
            return "it is converted alone"
        if users[0].op == "output":
            return "an output"
        return f"{self._names(users)} stays 1-D"

    def _names(self, nodes: Sequence[fx.Node]) -> str:
        return self._name(nodes[0]) + (f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else "")

    def _name(self, node: fx.Node) -> str:
        """A node as people know it: the module that it calls, or whose forward calls it, and its operator."""
        if node.op == "output":
            return "the output"
        operator, module = operator_name(node, self._capture.modules), self._capture.qualified(module_of(node))
        if not module:
            return node.name if node.name.startswith(operator) else f"{node.name} ({operator})"
        return f"{module} ({operator})" if node.op == "call_module" else f"{operator} in {module}"

    def ports(self) -> Iterator[Port]:
        """The inputs and outputs that are held in 2-D; an output is named by where it stands in what is returned."""
        graph = self._capture.graph
        for node in graph.find_nodes(op="placeholder"):
            if node in self._forms.two_d:
                yield self._port("input", str(node.target), node)
        (output,) = graph.find_nodes(op="output")
        for path, leaf in named_leaves(graph.process_outputs(output.args[0])):
            if leaf in self._forms.two_d:
                yield self._port("output", f"output{path}", leaf)

    def _port(self, kind: Literal["input", "output"], name: str, node: fx.Node) -> Port:
        assert self._facts is not None
        value = self._facts[node].value
        assert value is not None
        return Port(kind, name, value.shape, self._axis.lifted_shape(value.shape))
