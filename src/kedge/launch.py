"""Which of several processes this one is, where `torchrun` has started them to train one run together."""

from __future__ import annotations

import os


def place() -> tuple[int, int]:
    """`(rank, size)`, by the variables that `torchrun` sets: (0, 1) for a process that was started alone."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(size)) if rank.isdecimal() and size.isdecimal() and int(size) > 1 else (0, 1)


def on_machine() -> int:
    """The rank among the processes of this machine."""
    local = os.environ.get("LOCAL_RANK", "")
    return int(local) if local.isdecimal() and place()[1] > 1 else 0
