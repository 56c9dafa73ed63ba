"""The errors that end a command with a message and without a traceback."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
LITTLE = 1 << 20  # bytes; a file system with fewer is full


class UserError(Exception):
    """Bad input, a missing file, a full disk: something the user can fix.

    The message names the file, row or key, the value, and what to do. The command line prints it
    without a traceback and exits with 1.
    """


def described(error: BaseException) -> str:
    """A library's exception within a message: its class, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Stopped(SystemExit):
    """A stage was told to end (SIGTERM); what it saved, if anything, is gone on from later.

    Args:
        where: how far it came, such as ``step 12``; None if it saves nothing by then.
    """

    CODE = 128 + 15  # as a shell says that SIGTERM ended a program

    def __init__(self, where: str | None = None) -> None:
        super().__init__(self.CODE)
        self.where = where


def number_of(error: BaseException, written: Path | None = None) -> int | None:
    """The system's number of an error.

    Writers of Parquet and safetensors have exceptions of their own for a full disk. Most have the
    system's words in their text; for the others, see if the disk is full.

    Args:
        written: the folder that was written to.
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    told = next((number for number in OF_DISKS if os.strerror(number) in str(error)), None)
    return errno.ENOSPC if told is None and written and is_full(written) else told


def full_place(places: Iterable[Path]) -> Path | None:
    """The first folder on a full file system: of these, then of those that libraries write to."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    scratch = os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"
    elsewhere = [scratch, "/dev/shm", os.environ.get("HF_HOME") or cache, cache]
    return next(filter(is_full, [*places, *(Path(p).expanduser() for p in elsewhere)]), None)


def is_full(place: Path) -> bool:
    try:
        disk = os.statvfs(place)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < LITTLE or (disk.f_files > 0 and disk.f_favail == 0)
