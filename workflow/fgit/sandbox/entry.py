"""The first program in a box: takes the limits, gives up what privileges there are, runs a folder.

:mod:`fgit.sandbox.box` hands this file's text to the box's interpreter, ``python -c TEXT SETTINGS
FOLDER ARGUMENTS...``; it runs under Python >= 3.10 and imports the standard library only. SETTINGS
is JSON: ``limits`` (name of a RLIMIT to [value, least value that is enough]), ``uid`` (whom to
become, or null), ``subreaper`` (whether what loses its parent becomes this process's child; in a
PID namespace it does so anyway), ``lifeline`` (a pipe that breaks when the one who started the box
ends; this process ends then, too).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import runpy
import select
import signal
import struct
import sys
import types
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
CAPABILITY_VERSION_3 = 0x20080522
PACKAGE = "fgit_box"  # no name that a program imports


def main(settings: dict[str, Any], folder: str, arguments: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Where the machine runs out of memory, the kernel ends this process before the user's.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    for name, (wanted, least) in settings["limits"].items():
        limit(name, wanted, least)
    if settings["uid"] is not None:
        become(settings["uid"], libc)
    end_with(settings["lifeline"])
    if settings["subreaper"]:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.umask(0o077)
    Path(os.environ["HOME"]).mkdir(exist_ok=True)
    if sys.path[0] == "":  # the working folder; a solution's own may not shadow a module
        del sys.path[0]
    sys.argv = [folder, *arguments]
    # A package whose modules import each other, so that sys.path need not have the folder.
    package = types.ModuleType(PACKAGE)
    package.__path__ = [folder]
    sys.modules[PACKAGE] = package
    runpy.run_module(f"{PACKAGE}.__main__", run_name="__main__", alter_sys=True)


def end_with(lifeline: int) -> None:
    """Exit when the pipe breaks, on the signal that the kernel sends then.

    What it runs may handle SIGIO in its own way. PR_SET_PDEATHSIG would not do: it needs the right
    to signal the user that this process became, and fires when the starting *thread* ends.
    """
    signal.signal(signal.SIGIO, lambda *_: os._exit(1))
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    os.set_inheritable(lifeline, False)
    still_open = [lifeline]

    def close_once() -> None:  # in a child's child the number may be something else's
        if still_open:
            os.close(still_open.pop())

    os.register_at_fork(after_in_child=close_once)
    if select.select([lifeline], [], [], 0)[0]:  # broken before the signal was asked for
        os._exit(1)


def limit(name: str, wanted: int, least: int) -> None:
    """Set a limit, or the hard limit where that is lower and may not be raised."""
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if value < least:
        sys.exit(
            f"{name}: {wanted} is wanted, but the hard limit here is {hard}, and less than {least} "
            "is not enough; have the site's limit raised (ulimit -H, or the job's limits)"
        )
    resource.setrlimit(kind, (value, value))


def become(uid: int, libc: ctypes.CDLL) -> None:
    """Another user and group, without any capability, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24))
    with open("/proc/self/status", encoding="utf-8") as status:
        held = [line.split() for line in status if line.startswith("Cap")]
    if any(int(value, 16) for name, value in held if name != "CapBnd:"):
        sys.exit(f"the box's process kept capabilities after it became user {uid}: {held}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:])
