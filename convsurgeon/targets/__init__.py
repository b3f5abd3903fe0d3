"""Accelerators as data: what each takes, with the source and date of every limit. A profile knows no graph.

A profile is a TOML file. Those of this folder are known by name; `convsurgeon.fit` also takes the path of your own:

```toml
name = "my-npu"
title = "My NPU, compiler 1.2"
static_shapes = true                 # every size has to be known when a model is compiled
ranks = [1, 2, 3, 4]                 # of every value; left out: any
source = "guide"                     # where these two are written
section = "2.1 Tensors"              # left out: the source's own
notes = "8-bit weights"              # may be left out

[sources.guide]                      # as many as there are
document = "My NPU programming guide, 1.2"
kind = "documented"                  # or "inferred", "printed" by a tool, "measured", "reported", a "convention"
date = 2026-11-24                    # when it was read, printed or measured
address = "https://..."              # may be left out

[[limits]]                           # as many as there are
operators = ["convolution"]          # or "any"; the families are in `convsurgeon.targets.quantities`
quantity = "stride"                  # what is measured, likewise
max = 3                              # min, max or both; one_of = [1, 2]; or equal = true
when = { dilation = { min = 2 } }    # only where any of these values is within; all conditions have to hold
source = "guide"
section = "4.2 Convolution"
effect = "runs on the CPU"           # what happens beyond the limit; may be left out
confirmed = "guide"                  # where its compiler was seen to do so, on both sides; left out: nowhere

[[preferences]]                      # written likewise; what is beyond is taken as well, and costs more
operators = ["max_pool"]
quantity = "stride"
max = 2
source = "guide"
effect = "is computed element by element"

[channels_last]                      # only if values lie in memory as (N, H, W, C)
source = "guide"                     # where that is written
section = "2.2 Layout"
```

Every value of a quantity has to be within its bound: ``stride`` has one for each spatial axis, ``stride_h`` and
``stride_w`` are those of the last two. ``equal`` asks that they be the same on every axis. Where an operator has no
such quantity, a limit says nothing of it. A number that no source gives is no limit: leave it out.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from convsurgeon.targets.profile import Bound, Condition, Limit, Source, Target
from convsurgeon.targets.quantities import FAMILIES, QUANTITIES, Family
from convsurgeon.targets.reading import read_target

__all__ = [
    "FAMILIES",
    "QUANTITIES",
    "Bound",
    "Condition",
    "Family",
    "Limit",
    "Source",
    "Target",
    "load_target",
    "target_names",
]


def target_names() -> tuple[str, ...]:
    """The names of the profiles that come with the package."""
    files = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load_target(target: str | os.PathLike[str] | Target) -> Target:
    """The profile of a name, or of a TOML file; a `Target` is taken as it is.

    Raises:
        ValueError: an unknown name, or a file that is no profile; names its line.
        TypeError: none of these.
        OSError: the file can't be read.
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, (str, os.PathLike)):
        raise TypeError(
            f"target is a {type(target).__name__}; accepted: a name ({', '.join(target_names())}), the path of a TOML "
            "file, or a convsurgeon.Target"
        )
    name = os.fspath(target)
    if name in target_names():
        return read_target((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")
    if not name.endswith(".toml"):
        raise ValueError(f"target is {name!r}; known: {', '.join(target_names())}, or the path of a TOML file")
    try:
        return read_target(Path(name).read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {error}; a profile is a TOML file") from error
