"""What a launcher (torchrun, accelerate) tells each of the processes that it starts."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def on_this_machine() -> int:
    """How many processes there are on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
