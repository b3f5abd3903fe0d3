"""The processes that torchrun starts work as one group; a command that is started alone imports no torch for that."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def process_group() -> Iterator[bool]:
    """Inside, the processes of torchrun are a group; gives whether this one is the first, which tells what was done."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()
        gc.collect()  # torch keeps the group in a cycle, and its threads abort a process that ends before they do
