"""`include` and `exclude`: globs on the names of modules."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from convsurgeon.capture import Modules


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes may be lifted.

    A glob means a module and everything inside it, under any of its names. `include` chooses convolutions; `exclude`
    keeps every operator 1-D.
    """

    included: re.Pattern[str]
    excluded: re.Pattern[str] | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    path: str = ""

    def inside(self, path: str) -> Selection:
        """The same choice for the graph of a submodule, whose nodes name modules as seen from it."""
        return replace(self, path=path)

    @classmethod
    def of(cls, modules: Modules, include: Sequence[str], exclude: Sequence[str]) -> Selection:
        """Check the globs against the names of `modules`.

        Raises:
            ValueError: a glob that matches no module.
            TypeError: not a sequence of strings.
        """
        by_module: dict[int, list[str]] = {}
        for name, module in modules.items():
            by_module.setdefault(id(module), []).append(name)
        names = {name: tuple(aliases) for aliases in by_module.values() for name in aliases}
        for argument, globs in (("include", include), ("exclude", exclude)):
            if isinstance(globs, str) or not all(isinstance(glob, str) for glob in globs):
                raise TypeError(
                    f"{argument} is {globs!r}; accepted: a sequence of globs, such as {argument}=['encoder.*']"
                )
            for glob in globs:
                if not fnmatch.filter(names, glob):
                    raise ValueError(f"{argument} has {glob!r}, which matches no module; {_some(names)}")
        return cls(_pattern(include), _pattern(exclude) if exclude else None, tuple(include), tuple(exclude), names)

    @classmethod
    def unchecked(cls, include: Sequence[str], exclude: Sequence[str]) -> Selection:
        """The globs, where not all names are known: one graph of several has but some of a model's modules."""
        return cls(_pattern(include), _pattern(exclude) if exclude else None, tuple(include), tuple(exclude), {})

    def refuses(self, node: fx.Node, *, convolution: bool) -> str | None:
        """Why `node` may not be lifted, or None."""
        if self.excluded is None and self.include == ("*",):
            return None
        around = {".".join(part for part in (self.path, name) if part) for name in _modules_around(node)}
        return self._refuses(around | _outward(self.path), convolution=convolution)

    def refuses_module(self, path: str) -> str | None:
        """Why the convolutions that a module's own forward calls may not be computed in 2-D, or None."""
        return self._refuses(_outward(path), convolution=True)

    def _refuses(self, around: set[str], *, convolution: bool) -> str | None:
        names = {alias for name in around for alias in self.names.get(name, (name,))}
        if self.excluded and any(self.excluded.match(name) for name in names):
            return f"excluded by exclude={list(self.exclude)}"
        if convolution and not any(self.included.match(name) for name in names):
            return f"not among include={list(self.include)}"
        return None


def _modules_around(node: fx.Node) -> set[str]:
    """Every module that the node's call stands in, the called one included, outermost ``""``."""
    paths: Iterable[Any] = (entry[0] for entry in node.meta.get("nn_module_stack", {}).values())
    called = str(node.target) if node.op == "call_module" else ""
    return {name for path in (*paths, called) for name in _outward(str(path))}


def _outward(path: str) -> set[str]:
    """A module and every one that it is in, outermost ``""``."""
    atoms = path.split(".")
    return {"", *(".".join(atoms[: end + 1]) for end in range(len(atoms)))}


def _pattern(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)")


def _some(names: Iterable[str]) -> str:
    known = [name for name in names if name]
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"the model has {', '.join(known[:8])}{more}" if known else "the model has no submodules"
