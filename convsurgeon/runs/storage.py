"""Which memory a converted model shares with the one that it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from convsurgeon.capture import Capture, fetch
from convsurgeon.capture.held import version_of
from convsurgeon.clones.cloning import Policy, share
from convsurgeon.runs.own_run import is_plain


def sharing_of(model: nn.Module, captures: Sequence[Capture]) -> Policy:
    """Share all storage but that of buffers that running the model writes, as the observed runs showed, or may write.

    Where the model keeps its own Python, that may write any buffer, in its time: none is shared.
    """
    if [capture.path for capture in captures] != [""]:
        kept = {id(buffer) for buffer in model.buffers()}
        return lambda tensor, owner: tensor.dtype if id(tensor) in kept else share(tensor, owner)
    observed = {c.qualified(name): b for c in captures for name, b in c.root.named_buffers()}
    may_be = {id(one) for capture in captures for one in _open_to_writes(capture)}
    seen = {name for name, b in observed.items() if version_of(b) > 0 or id(b) in may_be}
    written = {id(b) for name, b in model.named_buffers() if name in seen}
    return lambda tensor, owner: tensor.dtype if id(tensor) in written else share(tensor, owner)


def _open_to_writes(capture: Capture) -> Iterator[torch.Tensor]:
    """The buffers that training may write where evaluation doesn't: those of statistics, and of layers not torch's."""
    for node in capture.graph.nodes:
        if node.op == "call_module" and not is_plain(capture.modules[node.target]):
            yield from capture.modules[node.target].buffers()
        elif node.op == "get_attr" and any("_norm" in str(user.target) for user in node.users):
            read = fetch(capture.root, str(node.target))
            if isinstance(read, torch.Tensor):
                yield read
