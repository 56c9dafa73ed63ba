"""What this process may use, and what a launcher (torchrun, accelerate) tells each process."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 1000  # samples for which starting processes would cost more than it saves

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of quota and of period


def bound_cores() -> int:
    """Cores that this process is bound to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer by a container's quota."""
    bound = bound_cores()
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        return max(1, min(bound, quota // period))
    return bound


def is_first() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def use_threads(count: int | None) -> None:
    """Keep torch to the granted cores, of which each process here has its share.

    To be called before torch is imported.
    """
    if count:
        share = str(max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        os.environ.update(OMP_NUM_THREADS=share, MKL_NUM_THREADS=share)
    # Threads that spin while they wait slow training down several times on a machine that is busy
    # with something else too, as laptops are.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def each(
    function: Callable[[Item], Result],
    work: Iterable[Item],
    processes: int,
    samples: int | None = None,
) -> Iterator[Result]:
    """Yield ``function`` of each item of ``work``, in its order, from so many processes.

    Items and results are pickled. ``work`` is taken as it is needed: at most ``processes`` + 1
    items, or their results, are there at a time.

    Args:
        processes: 1 starts none; nor does work of one item, or of few samples.
        samples: how many the work is of, where an item has some.
    """
    work = iter(work)
    first = list(itertools.islice(work, 2))
    work = itertools.chain(first, work)
    if processes == 1 or len(first) < 2 or (samples is not None and samples < FEW):
        yield from map(function, work)
        return
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
    ) as pool:
        waiting: collections.deque[Future[Result]] = collections.deque()
        try:
            for item in work:
                waiting.append(pool.submit(function, item))
                if len(waiting) > processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


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
