"""One process at a time writes one result, on one machine or on several.

The lock on ``NAME`` is ``flock`` on the file ``.NAME.lock`` beside it, which says who holds it. It
goes with the process, however that ends. On NFS, Linux makes a lock at the server of it, which
holds between machines, unless the mount says ``nolock`` or ``local_lock``; then, as with Lustre's
``localflock``, it holds on its own machine only. So where SLURM runs the jobs, a lock that is free
but names a job on another machine counts as held for as long as that job runs.

Neither is proof against a machine that is cut off and comes back after its job was started again.
So every writer of :mod:`fgit.common.files` asks, before it renames, whether this process's locks
are still its own (:func:`check_held`).
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import getpass
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fgit.common.errors import UserError

log = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# The states of a job (squeue's %T) in which its processes may write.
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
# Seconds to wait for a job that is being ended, and between two looks.
WAIT, POLL = 600.0, 2.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock; job: the id of its SLURM job, if any."""

    process: int
    user: str
    host: str
    job: str | None
    since: str

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.process} of {self.user} on {self.host}{job}, since {self.since}"

    @property
    def how_to_end(self) -> str:
        return f"scancel {self.job}" if self.job else f"kill {self.process} on {self.host}"


def this_process() -> Holder:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = f"user {os.getuid()}"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Holder(os.getpid(), user, platform.node(), os.environ.get("SLURM_JOB_ID"), now)


class Lock:
    """The lock on a file or folder, held while the block of the context manager runs.

    A job that SLURM is ending may still save what it has, so its lock is waited for.

    Args:
        target: what is to be written; its folder is made if need be.

    Raises:
        UserError: naming who holds it, since when, and how to end that.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.absolute()
        self.path = self.target.with_name(f".{self.target.name}.lock")
        self.descriptor: int | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + WAIT
        while not self.take(deadline):
            self.close()
        assert self.descriptor is not None
        self.holder = this_process()
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(dataclasses.asdict(self.holder)).encode(), 0)
        HELD.append(self)
        return self

    def take(self, deadline: float) -> bool:
        """Whether the lock could be taken; False if it is worth another try.

        Raises:
            UserError: if another holds it.
        """
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = flocked(self.descriptor, self.target)
            # Its holder may have removed the file between our opening and our locking.
            if free and not self.in_place():
                return False
            holder = read_holder(self.path)
            state = self.state_of(holder, free=free)
            if free and state is None:
                return True
            if state == "COMPLETING" and time.monotonic() < deadline:
                log.info("%s: waiting for %s to end", self.target, holder)
                time.sleep(POLL)
                return False
            how = f", or end it ({holder.how_to_end})" if holder else ""
            if free:
                how += f". If its job does something else by now, delete {self.path}"
            raise UserError(
                f"{self.target}: in use by {holder or 'a process that has just started'}; two "
                f"cannot write the same. Wait for that one{how}"
            )
        except BaseException:
            self.close()
            raise

    def state_of(self, holder: Holder | None, *, free: bool) -> str | None:
        """The state of the other SLURM job that a lock names, if that could be writing."""
        job = holder.job if holder else None
        if holder is None or job is None:
            return None
        here = holder.host == platform.node()
        if job == os.environ.get("SLURM_JOB_ID"):
            # Started again after its node died: the file server may keep that node's lock a while.
            return None if free or here else "COMPLETING"
        if free and here:
            return None  # on one machine flock says all
        state, failure = job_state(job)
        if failure and free:
            log.warning(
                "%s: %s held it, and squeue does not say whether that job still runs (%s); since "
                "the file system's own lock is free, it is taken to have ended",
                self.target,
                holder,
                failure,
            )
        return state

    def in_place(self) -> bool:
        """Whether the file that is open is the one that has the name."""
        assert self.descriptor is not None
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def ours(self) -> bool:
        """Whether nobody has taken the lock over, or removed its file."""
        return self.in_place() and read_holder(self.path) == self.holder

    def check(self) -> None:
        """Refuse to go on if another has taken the lock since, or removed it.

        Raises:
            UserError: naming who did.
        """
        if not self.ours():
            other = read_holder(self.path) or "somebody who removed its lock"
            raise UserError(
                f"{self.target}: {other} has taken it over from this process ({self.holder}); this "
                "one writes nothing more here"
            )

    def __exit__(self, *error: object) -> None:
        if self.descriptor is None:  # in a fork
            return
        HELD.remove(self)
        with contextlib.suppress(OSError):
            if self.ours():
                self.path.unlink()
        self.close()

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


HELD: list[Lock] = []


def check_held() -> None:
    """:meth:`Lock.check` of each lock that this process holds."""
    for lock in HELD:
        lock.check()


def forget() -> None:
    """In a fork: else a worker that outlives its parent would keep the parent's locks."""
    for lock in HELD:
        lock.close()
    HELD.clear()


os.register_at_fork(after_in_child=forget)


def read_holder(path: Path) -> Holder | None:
    """Who a lock's file names; None if it names nobody."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def live(folder: Path) -> Iterator[tuple[Path, Holder]]:
    """What is being written in a folder, or below it, and by whom; from any machine.

    For a look before jobs are started: a job that takes its lock at this moment may find it held.
    """
    for path in sorted(folder.rglob(".*.lock")):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            if (holder := read_holder(path)) is None:
                continue
            elsewhere = holder.host != platform.node()
            if not flocked(file.fileno(), path, fcntl.LOCK_SH) or (
                elsewhere and holder.job and job_state(holder.job)[0]
            ):
                yield path.with_name(path.name[1:].removesuffix(".lock")), holder


def flocked(descriptor: int, target: Path, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the file system gave the lock; with a warning, if it has none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            "%s: this file system keeps no locks (%s); see to it that nothing else is started that "
            "writes this",
            target,
            error.strerror,
        )
    return True


def job_state(job: str) -> tuple[str | None, str | None]:
    """The state of a SLURM job in which its processes may write, and why that is not known."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode:
        ended = "Invalid job id" in done.stderr  # so it says of a job that ended long ago
        return None, None if ended else done.stderr.strip()
    return next((state for state in done.stdout.split() if state in RUNNING), None), None
