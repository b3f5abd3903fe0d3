"""How operators are written in a graph: one table a spelling, each read into (operator, arguments by name) and back."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from convsurgeon.capture import Modules
from convsurgeon.capture.tracer import has_hooks
from convsurgeon.rules.base import Refusal
from convsurgeon.spellings.aten import ATEN_ALONE, aten_spelling, is_aten, packets_of
from convsurgeon.spellings.base import Call, Spelling, State, respell
from convsurgeon.spellings.functions import ATTRIBUTES, FUNCTIONS, METHODS, name_of
from convsurgeon.spellings.modules import MODULES, ModuleSpelling, module_spelling

__all__ = [
    "ATEN_ALONE",
    "ATTRIBUTES",
    "FUNCTIONS",
    "METHODS",
    "MODULES",
    "Call",
    "ModuleSpelling",
    "Spelling",
    "State",
    "has_state",
    "is_aten",
    "is_torchs_own",
    "module_of",
    "operator_name",
    "packets_of",
    "read",
    "respell",
]


def read(node: fx.Node, modules: Modules) -> Call | Refusal | None:
    """The node as an operator with named arguments; None if no table knows it, or why this one can't be read."""
    spelling: Any = None
    if node.op == "call_function":
        attribute = ATTRIBUTES.get(node.args[1]) if node.target is getattr else None  # type: ignore[arg-type]
        spelling = attribute or FUNCTIONS.get(node.target) or aten_spelling(node.target)
    elif node.op == "call_method":
        spelling = METHODS.get(str(node.target))
    elif node.op == "call_module":
        spelling = module_spelling(modules[str(node.target)])
        if isinstance(spelling, Refusal):
            return spelling
    if spelling is None:
        return None
    try:
        call: Call = spelling.read(node, modules)
    except TypeError as error:
        return Refusal(f"its arguments can't be read: {error}")
    return call


def operator_name(node: fx.Node, modules: Modules) -> str:
    """What a person would call this node's operator: ``Conv1d``, ``softmax``, ``view``."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    if node.op == "call_method":
        return str(node.target)
    return name_of(node.target)


def module_of(node: fx.Node) -> str:
    """The qualified name of the called module, or of the one whose forward calls; "" is the model itself."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def is_torchs_own(node: fx.Node) -> bool:
    """Whether the node calls torch itself, so that what it dispatched to on one sample is what it always does.

    A function of the user's that was kept whole (``fx.wrap``) may look at ranks and lengths, and is not.
    """
    if node.op != "call_function":
        return True
    if node.target is operator.getitem:
        return False  # a slice that covers the sample is a view of everything, and on another length it isn't
    home = getattr(node.target, "__module__", None)
    if home is None:  # torch's own functions in C++ have none, but belong to a class or module of torch's
        home = getattr(getattr(node.target, "__self__", None), "__module__", None) or "torch"
    return home.split(".")[0] in ("torch", "_operator", "math", "builtins")


def has_state(node: fx.Node, modules: Modules) -> bool:
    """Whether the node calls a module that holds more than single numbers, or that something else hooks into."""
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    return (
        not type(module).__module__.startswith("torch.nn.modules.")
        or any(True for _ in module.children())
        or any(tensor.numel() != 1 for tensor in (*module.parameters(), *module.buffers()))
        or has_hooks(module)
    )
