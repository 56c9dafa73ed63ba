"""What this process may use, and what a launcher (torchrun, accelerate) tells each process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of quota and of period


def cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer by a container's quota."""
    bound = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        return max(1, min(bound, quota // period))
    return bound


def is_first() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def on_this_machine() -> int:
    """How many processes there are on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
