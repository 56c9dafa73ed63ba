"""What /proc says of the processes of a box."""

import contextlib
import os
from pathlib import Path


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on (the second may hold anything); [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> str:
    return next(iter(stat_fields(pid)), "")


def began(pid: int) -> str:
    """When a process began, to tell it from a later one with its number."""
    return next(iter(stat_fields(pid)[19:]), "")


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Bytes of a process in memory, a page that n processes share counted as 1/n."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return resident(pid)


def threads_of_user() -> int:
    """Threads of this process's user on this machine: they count towards the user's limit."""
    count = 0
    for status_file in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            status = status_file.read_text(encoding="utf-8", errors="replace")
            values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if int(values["Uid"].split()[0]) == os.getuid():
                count += int(values["Threads"])
    return count
