"""Boxes: where programs that a model wrote may run.

A :class:`Box` starts one Python program with pipes on its standard input and output and ends it
with everything it started. It has one of two strengths, and neither is a virtual machine: a hole in
the kernel is a hole in the box.

``bwrap``: bubblewrap, that is, the kernel's namespaces. What a program in it

* sees of the file system: /usr and the like, a few files of /etc, and the interpreter's own
  environment, all read-only; not the home folder, the project, the data, other temporary files.
  It may write to /tmp and /dev/shm only: memory of limited size, gone with the box;
* reaches of the network: a loopback device of its own;
* sees of other processes: none; it can signal nothing but what runs in the box, and not its first
  process either;
* holds of privileges: none. It is a user that has no other process (where the machine's root
  starts the box) or the caller in a user namespace; there are no capabilities, set-user-ID programs
  have no effect, and a system-call filter refuses new namespaces, mounts, tracing, and memory that
  belongs to no process (memfd_create, System V IPC, message queues). The processors it knows are
  x86_64 and aarch64;
* knows of the environment: a handful of variables, none of the caller's but LD_LIBRARY_PATH.

``rlimits``: the fallback. A session of its own, a clean environment, a private temporary folder,
and limits; where root starts it and others may read the interpreter, an unprivileged user of its
own as well. It contains accidents, *not* attacks: a program may use the network, read whatever
its user may read (the home folder, the project), write whatever its user may write (/dev/shm among
them), signal its user's processes (the one that runs the tests too, and fgit), and leave a process
behind if it ends the box's first process between two looks of the watcher.

Both: the memory of all processes and temporary files together is looked at five times a second, and
above the limit the box is ended, so that for a moment a program may hold more; were memory to run
out, the kernel would end the box before anything else. A page that processes share counts once,
but for an ordinary user's rlimits box, whose processes do not tell. Of the rlimits box the
temporary folder's size is looked at, too, once a second. Processes and threads, open files, the
size of a file, and core files are limited by the kernel. The number of processes is not where root
runs the rlimits box under its own number, since the kernel exempts root: there the watcher counts,
too slowly for a fork bomb. Time is not limited here: whoever gives a box work stops it. The box
ends with the process that started it, even if that is killed. Neither strength hides the processor
and the kernel, nor the clock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgit.sandbox.interpreter import Interpreter, library_folders, others_may_read, probe
from fgit.sandbox.processes import began, proportional, resident, state, threads_of_user
from fgit.sandbox.system_calls import system_call_filter
from fgit.sandbox.worker.cleaning import empty, kill, processes_below

log = logging.getLogger(__name__)

Strength = Literal["bwrap", "rlimits"]

LOOK_SECONDS = 0.2  # between two looks of the watcher
DISK_SECONDS = 1.0  # between two of its looks at a folder's size, which take longer
OPEN_FILES = 1024
INODE_BYTES = 1024  # kernel memory of a file in a tmpfs, about
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one box may use.

    Args:
        memory_mb: MiB of all its processes and temporary files together.
        disk_mb: MiB of temporary files; also the largest size of one file.
        processes: processes and threads at once.
    """

    memory_mb: int
    disk_mb: int
    processes: int


class Box:
    """A place in which one program runs at a time, with all that it starts.

    Args:
        strength: see the module's docstring.
        python: the interpreter of the program; it may be another environment's, Python >= 3.10.

    Raises:
        UserError: from :meth:`start`, if the interpreter does not start.
    """

    def __init__(self, strength: Strength, limits: Limits, python: str = sys.executable) -> None:
        self.strength = strength
        self.limits = limits
        self.python = python
        # Why the watcher ended the box: memory, and of the rlimits box also disk or processes.
        self.killed: Literal["", "memory", "disk", "processes"] = ""
        self._lock = threading.Lock()
        self._folder = Path()  # of the box on the machine, while something runs in it
        self._errors = b""
        self._lifeline = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._began: dict[int, str] = {}  # of the box's processes, when they began

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._close_pipes()

    def start(self, package: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a package, with pipes on its standard input and output.

        The box is empty then, whatever ran in it before. What runs ends with this process.

        Args:
            package: a folder of modules that import each other relatively; ``__main__`` is run. Its
                copy lies in the box and cannot be changed there (rlimits: unless the user stays
                the one who started the box); sys.path has no place of it.
        """
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("this box is in use")
        interpreter = probe(self.python)
        self.stop()  # what the last program left, and the watcher
        self._close_pipes()
        self.killed = ""
        self._errors = b""
        self._began = {}
        self._stopping = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="fgit-box-"))
        copy = self._folder / "package"
        copy.mkdir()
        for module in package.glob("*.py"):
            shutil.copyfile(module, copy / module.name).chmod(0o644)
        copy.chmod(0o755)
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(open(self._folder / "errors", "wb"))
            # The box's end of a pipe that breaks as this process ends, however it does.
            lifeline, self._lifeline = os.pipe()
            stack.callback(os.close, lifeline)
            descriptors = [lifeline]
            if self.strength == "bwrap":
                call_filter = os.memfd_create("filter")
                stack.callback(os.close, call_filter)
                os.write(call_filter, system_call_filter(platform.machine()))
                os.lseek(call_filter, 0, os.SEEK_SET)
                descriptors.append(call_filter)
                wrapper, uid, others = self._bwrap(interpreter, copy, call_filter)
                folder, private = "/box", "/tmp"
            else:
                wrapper, (uid, others) = [], self._rlimits(interpreter)
                folder, private = str(copy), str(self._folder / "tmp")
            process = subprocess.Popen(
                wrapper + self._entry(interpreter, folder, arguments, lifeline, uid, others),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/" if self.strength == "bwrap" else private,
                env=self._environment(interpreter, private),
                start_new_session=True,
                pass_fds=descriptors,
            )
        with self._lock:
            self._process = process
            self._watcher = threading.Thread(
                target=self._watch, args=(process, self._stopping), daemon=True
            )
            self._watcher.start()
            return process

    def stop(self) -> None:
        """End everything in the box; nothing, where nothing runs. From any thread."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._end(self._process)
            if self._watcher is not None:
                self._watcher.join()
                self._watcher = None
            if self._folder.name:
                self.errors()  # read while the file is there
                remove_folder(self._folder)
                self._folder = Path()

    def errors(self) -> str:
        """The end of what the box wrote to standard error, after it was stopped, too."""
        if self._folder.name:
            with contextlib.suppress(OSError):
                self._errors = (self._folder / "errors").read_bytes()[-2000:]
        return self._errors.decode("utf-8", "replace").strip()

    def _close_pipes(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    # -------------------------------------------------------------- how it is started

    def _bwrap(
        self, interpreter: Interpreter, package: Path, call_filter: int
    ) -> tuple[list[str], int | None, int]:
        """The command of bubblewrap, whom the entry becomes, and the processes not the box's."""
        size = str(self.limits.disk_mb * MIB)
        private = ["--perms", "1777", "--size", size, "--tmpfs"]
        if is_privileged():
            # No user namespace: the machine's root, which no limit on processes binds, would stay
            # root in it. The entry becomes another user instead, and loses these two then.
            uid: int | None = random_uid()
            namespaces = [
                *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
                "--unshare-cgroup-try",
                *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
            ]
            others = 0
        else:
            uid = None
            namespaces = ["--unshare-user", "--unshare-all", "--uid", "1000", "--gid", "1000"]
            namespaces += ["--cap-drop", "ALL"]
            others = 0 if kernel_version() >= (5, 14) else threads_of_user()
        binds, links = interpreter.visible
        inside = 1000 if uid is None else uid
        etc = self._folder / "etc"
        etc.mkdir()
        (etc / "passwd").write_text(f"worker:x:{inside}:{inside}::/tmp/home:/bin/sh\n")
        (etc / "group").write_text(f"worker:x:{inside}:\n")
        (etc / "hosts").write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
        options = [
            *namespaces,
            *("--hostname", "sandbox", "--new-session", "--as-pid-1"),
            *("--seccomp", str(call_filter), "--chdir", "/"),
            *(*private, "/tmp"),
        ]
        # By itself, bwrap makes folders on the way to a bound one that only root may enter.
        on_the_way = {
            str(parent) for path in (*binds, *links, "/etc/passwd") for parent in Path(path).parents
        }
        for path in sorted(on_the_way - {"/", "/tmp"}):
            options += ["--perms", "0755", "--dir", path]
        for path in binds:
            options += ["--ro-bind", path, path]
        for path, target in links.items():
            options += ["--symlink", target, path]
        for file in etc.iterdir():
            options += ["--ro-bind", str(file), f"/etc/{file.name}"]
        options += ["--ro-bind", str(package), "/box"]
        options += ["--proc", "/proc", "--dev", "/dev", *private, "/dev/shm"]
        options += ["--remount-ro", "/dev", "--remount-ro", "/"]
        return [shutil.which("bwrap") or "bwrap", *options, "--"], uid, others

    def _rlimits(self, interpreter: Interpreter) -> tuple[int | None, int]:
        """Make the temporary folder: whom the entry becomes, and the processes not the box's."""
        private = self._folder / "tmp"
        private.mkdir(mode=0o700)
        uid = None
        if is_privileged() and all(
            others_may_read(path) for path in (*interpreter.needed, str(self._folder.parent))
        ):
            uid = random_uid()
            self._folder.chmod(0o711)
            os.chown(private, uid, uid)
        return uid, threads_of_user() if uid is None else 0

    def _entry(
        self,
        interpreter: Interpreter,
        package: str,
        arguments: Iterable[str],
        lifeline: int,
        uid: int | None,
        others: int,
    ) -> list[str]:
        """The command of entry.py; ``others``: processes that count, but are not the box's."""
        text = Path(__file__).with_name("entry.py").read_text(encoding="utf-8")
        limits = {
            "RLIMIT_FSIZE": (self.limits.disk_mb * MIB, MIB),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_NPROC": (self.limits.processes + others, min(16, self.limits.processes)),
            "RLIMIT_NOFILE": (OPEN_FILES, 64),
        }
        settings = {
            "limits": limits,
            "uid": uid,
            "subreaper": self.strength == "rlimits",
            "lifeline": lifeline,
        }
        return [interpreter.executable, "-c", text, json.dumps(settings), package, *arguments]

    def _environment(self, interpreter: Interpreter, private: str) -> dict[str, str]:
        path = [str(Path(interpreter.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
        environment = {
            "PATH": os.pathsep.join(path),
            "HOME": f"{private}/home",
            "TMPDIR": private,
            "XDG_CACHE_HOME": f"{private}/home/.cache",
            "USER": "worker",
            "LOGNAME": "worker",
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",  # the order of a set must not decide a verdict
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        if added := os.pathsep.join(interpreter.folders):
            environment["PYTHONPATH"] = added
        if libraries := os.pathsep.join(library_folders()):
            environment["LD_LIBRARY_PATH"] = libraries
        return environment

    # -------------------------------------------------------------- how it is watched and ended

    def _watch(self, process: subprocess.Popen[bytes], stopping: threading.Event) -> None:
        next_disk = time.monotonic() + DISK_SECONDS
        while not stopping.wait(LOOK_SECONDS) and process.poll() is None:
            running = self._running(process)
            reason: Literal["", "memory", "disk", "processes"] = ""
            limit = self.limits.memory_mb * MIB
            files = self._temporary_files(running) if self.strength == "bwrap" else 0
            # Pages that processes share are in each one's resident size; the proportional size is
            # exact, but takes long to ask for.
            if (
                files + sum(map(resident, running)) > limit
                and files + sum(map(proportional, running)) > limit
            ):
                reason = "memory"
            elif self.strength == "rlimits":
                if len(running) > self.limits.processes:
                    reason = "processes"
                elif time.monotonic() > next_disk:
                    if exceeds(self._folder / "tmp", self.limits.disk_mb * MIB):
                        reason = "disk"
                    next_disk = time.monotonic() + DISK_SECONDS
            if reason and not stopping.is_set():
                self.killed = reason
                log.warning("a box was ended: more %s than allowed (%s)", reason, self.limits)
                self._end(process)

    def _running(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes of the box: the first one, what descends from it, and what once did."""
        running = []
        if process.poll() is None:  # otherwise its number may be another process's by now
            running = [process.pid, *processes_below(process.pid)]
        if self.strength == "rlimits":  # of a PID namespace nothing can lose itself
            self._began |= {pid: began(pid) for pid in running}
            lost = self._began.keys() - set(running)
            running += [pid for pid in lost if began(pid) == self._began[pid] != ""]
        return running

    def _temporary_files(self, running: list[int]) -> int:
        """Bytes in the box's tmpfs folders, files' own memory in the kernel with them."""
        used = 0
        for pid in running[1:2]:  # bwrap itself stays outside of the box
            for folder in ("tmp", "dev/shm"):
                with contextlib.suppress(OSError):
                    system = os.statvfs(f"/proc/{pid}/root/{folder}")
                    used += (system.f_blocks - system.f_bfree) * system.f_frsize
                    used += (system.f_files - system.f_ffree) * INODE_BYTES
        return used

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill until nothing is left."""
        if self.strength == "bwrap":
            # The kernel ends all of a PID namespace with its first process, and bwrap, outside of
            # it, ends when that is done.
            for pid in self._running(process)[1:2]:
                kill(pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
            if process.poll() is None:
                process.kill()
        else:
            for attempt in range(500):
                alive = [pid for pid in self._running(process) if state(pid) not in ("", "Z", "X")]
                if not alive:
                    break
                for sent in (signal.SIGSTOP, signal.SIGKILL):  # stopped, they start no others
                    for pid in alive:
                        kill(pid, sent)
                time.sleep(0.002 * min(attempt, 10))
        process.wait()


def random_uid() -> int:
    """A user that has no other process."""
    return 2**30 + secrets.randbelow(2**30)


def remove_folder(folder: Path) -> None:
    """Remove a folder of a box, however deep a program made it."""
    with contextlib.suppress(OSError):
        empty(folder)
        folder.rmdir()


def is_privileged() -> bool:
    """Whether this is a root that may make namespaces and become any user."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", encoding="utf-8") as status:
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    with open("/proc/self/uid_map", encoding="utf-8") as table:
        ranges = [tuple(map(int, line.split())) for line in table]
    all_users = any(first == 0 and count >= 2**31 for first, _, count in ranges)
    setgid, setuid, net_admin, sys_chroot, sys_admin = 6, 7, 12, 18, 21
    needed = (setgid, setuid, net_admin, sys_chroot, sys_admin)
    return all_users and all(held >> bit & 1 for bit in needed)


def kernel_version() -> tuple[int, int]:
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(version[1]), int(version[2])) if version else (0, 0)


def exceeds(folder: Path, limit: int) -> bool:
    """Whether the files below a folder take more than ``limit`` bytes on the disk, about."""
    used = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += Path(where, name).lstat().st_blocks * 512 + INODE_BYTES
        if used > limit:
            return True
    return False
