"""What this process may use, and what a launcher (torchrun, accelerate) tells each process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def each(
    function: Callable[[Item], Result], work: Sequence[Item], processes: int, chunk: int = 1
) -> Iterator[Result]:
    """Yield ``function`` of each item of ``work``, in its order, from so many processes.

    Items and results are pickled. At most ``processes`` + 1 chunks of items travel at a time; the
    results wait until they are taken.

    Args:
        processes: 1 starts none.
        chunk: items that travel together, for work of well under a millisecond an item.
    """
    if processes == 1:
        yield from map(function, work)
        return
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
    ) as pool:
        yield from pool.map(function, work, chunksize=chunk)


def end_with_parent() -> None:
    """Have this process end when the one that started it does, however that one ends.

    A worker of a pool else waits for ever for work from a process that was killed.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
