"""Boxes: where programs that a model wrote may run.

A :class:`Box` starts one Python script with pipes on its standard input and output and ends it with
everything it started. It has one of two strengths, and neither is a virtual machine: a hole in
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
import functools
import json
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgit.common.errors import UserError
from fgit.config import SandboxChoice
from fgit.sandbox.worker import empty, processes_below

log = logging.getLogger(__name__)

Strength = Literal["bwrap", "rlimits"]

LOOK_SECONDS = 0.2  # between two looks of the watcher
DISK_SECONDS = 1.0  # between two of its looks at a folder's size, which take longer
OPEN_FILES = 1024
INODE_BYTES = 1024  # kernel memory of a file in a tmpfs, about
MIB = 2**20
OLDEST_BWRAP = (0, 7)  # knows --size

# What programs of a distribution need besides the interpreter's environment.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
# Of an environment's folder, which may be the project's, or hold more than the environment.
PREFIX_PARTS = ("bin", "etc", "include", "lib", "lib64", "libexec", "pyvenv.cfg", "share", "ssl")

# System calls that the box refuses: (x86_64, aarch64).
REFUSED = {
    # namespaces, mounts and roots: in a namespace of its own a program may fill a tmpfs of any size
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # memory that no process's size shows, or that outlives the process
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # parts of the kernel that programs do not need and that have had holes
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
}
SOCKET = (41, 198)
# Unix, IPv4, IPv6, and netlink, which the C library asks for addresses: the box has its own.
# Others, such as vsock, which reaches a virtual machine's host, know no network namespaces.
SOCKET_FAMILIES = (1, 2, 10, 16)
CLONE = (56, 220)
CLONE3 = (435, 435)  # its flags are behind a pointer; the C library then takes clone
NEW_NAMESPACES = 0x7E020000  # the flags CLONE_NEW* of clone
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
EPERM, ENOSYS = 1, 38


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


def choose(wanted: SandboxChoice) -> Strength:
    """The strength that a setting asks for and this machine has.

    Raises:
        UserError: if ``bwrap`` is asked for and does not work, saying why and what to do.
    """
    if wanted == "rlimits":
        return "rlimits"
    reason = why_not_bwrap()
    if not reason:
        return "bwrap"
    if wanted == "bwrap":
        raise UserError(
            f"sandbox: bwrap: {reason}. Or allow the weaker sandbox: rlimits, on a machine that "
            "holds nothing a program must not see"
        )
    log.warning(
        "programs run with limits only (rlimits), which contain accidents, not attacks: %s", reason
    )
    return "rlimits"


@functools.cache
def why_not_bwrap() -> str:
    """'' if a bubblewrap box starts here, otherwise what fails and how to mend it.

    It starts one, with all options that :class:`Box` uses.
    """
    if platform.machine() not in AUDIT_ARCH:
        return (
            f"the system-call filter knows {' and '.join(AUDIT_ARCH)}, not {platform.machine()}; "
            "use such a machine"
        )
    if (bwrap := shutil.which("bwrap")) is None:
        return (
            "bubblewrap is not installed; install it (Debian, Ubuntu: apt install bubblewrap; "
            "Fedora, RHEL: dnf install bubblewrap; conda install -c conda-forge bubblewrap)"
        )
    told = subprocess.run([bwrap, "--version"], capture_output=True, text=True).stdout
    if (found := re.search(r"(\d+)\.(\d+)", told)) is None:
        return f"{bwrap} --version says {told!r}; install bubblewrap 0.7 or later"
    if (int(found[1]), int(found[2])) < OLDEST_BWRAP:
        return (
            f"{bwrap} is version {found[0]}, which cannot limit a temporary folder; install "
            "bubblewrap 0.7 or later"
        )
    with tempfile.TemporaryDirectory(prefix="fgit-box-") as folder:
        script = Path(folder) / "hello.py"
        script.write_text("print('hello')\n", encoding="utf-8")
        with Box("bwrap", Limits(memory_mb=512, disk_mb=16, processes=16)) as box:
            process = box.start(script)
            timer = threading.Timer(60, box.stop)
            timer.start()
            assert process.stdout is not None
            said = process.stdout.read()
            timer.cancel()
            if said == b"hello\n":
                return ""
            error = box.errors() or "no message"
            return f"bubblewrap does not start a box ({error}); {remedy(error)}"


def remedy(error: str) -> str:
    """How to let bubblewrap start a box, from its message and this machine's settings."""
    if "mount proc" in error:
        return (
            "a container that hides parts of /proc forbids another one in it; start it with "
            "--security-opt systempaths=unconfined (Docker, Podman: unmask=ALL), or run fgit "
            "outside of it"
        )
    known = {  # setting: (value that forbids, how to allow)
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.{}=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.{}=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sysctl kernel.{}=0, or give bwrap an AppArmor profile that allows userns",
        ),
    }
    ways = []
    for path, (forbids, way) in known.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == forbids:
                ways.append(way.format(Path(path).name))
    if ways:
        return f"user namespaces are forbidden here; ask the administrator for: {'; '.join(ways)}"
    return (
        "it needs user namespaces: in a container, start that with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined (Docker), or run "
        "fgit outside of it"
    )


# ------------------------------------------------------------------ a box


class Box:
    """A place in which one script runs at a time, with all that it starts.

    Args:
        strength: see the module's docstring.
        python: the interpreter of the script; it may be another environment's, Python >= 3.10.

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
        self._known: dict[int, str] = {}  # process of the box: when it began

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._close_pipes()

    def start(self, script: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Run ``script`` in the box, with pipes on its standard input and output.

        The box is empty then, whatever ran in it before. The script ends with this process.
        """
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("this box is in use")
        interpreter = probe(self.python)
        self.stop()  # what the last script left, and the watcher
        self._close_pipes()
        self.killed = ""
        self._known = {}
        self._stopping = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="fgit-box-"))
        copied = self._folder / script.name
        shutil.copyfile(script, copied)
        copied.chmod(0o644)
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(open(self._folder / "errors", "wb"))
            # The box's end of a pipe that breaks as this process ends, however it does.
            lifeline, self._lifeline = os.pipe()
            stack.callback(os.close, lifeline)
            if self.strength == "bwrap":
                filtered = os.memfd_create("filter")
                stack.callback(os.close, filtered)
                os.write(filtered, system_call_filter(platform.machine()))
                os.lseek(filtered, 0, os.SEEK_SET)
                command, environment = self._bwrap(
                    interpreter, copied, arguments, lifeline, filtered
                )
                keep: tuple[int, ...] = (filtered,)
            else:
                command, environment = self._rlimits(interpreter, copied, arguments, lifeline)
                keep = ()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/" if self.strength == "bwrap" else self._folder / "tmp",
                env=environment,
                start_new_session=True,
                pass_fds=(lifeline, *keep),
            )
        with self._lock:
            self._process = process
            self._watcher = threading.Thread(
                target=self._watch, args=(self._process, self._stopping), daemon=True
            )
            self._watcher.start()
            return self._process

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
                self._errors = self._read_errors()
                remove(self._folder)
                self._folder = Path()

    def errors(self) -> str:
        """The end of what the box wrote to standard error, after it was stopped, too."""
        text = self._read_errors() if self._folder.name else self._errors
        return text.decode("utf-8", "replace").strip()

    def _read_errors(self) -> bytes:
        try:
            return (self._folder / "errors").read_bytes()[-2000:]
        except OSError:
            return b""

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
        self,
        interpreter: Interpreter,
        script: Path,
        arguments: Iterable[str],
        lifeline: int,
        filtered: int,
    ) -> tuple[list[str], dict[str, str]]:
        size = str(self.limits.disk_mb * MIB)
        private = ["--perms", "1777", "--size", size, "--tmpfs"]
        if is_privileged():
            # No user namespace: the machine's root, which no limit on processes binds, would stay
            # root in it. The entry becomes another user instead, and loses these two then.
            uid: int | None = 2**30 + secrets.randbelow(2**30)
            inside = uid
            who = [
                "--unshare-ipc",
                "--unshare-pid",
                "--unshare-net",
                "--unshare-uts",
                "--unshare-cgroup-try",
                *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"),
            ]
            others = 0
        else:
            uid, inside = None, 1000
            who = ["--unshare-user", "--unshare-all", "--uid", "1000", "--gid", "1000"]
            who += ["--cap-drop", "ALL"]
            others = 0 if kernel_version() >= (5, 14) else threads_of_user()
        environment = self._environment(interpreter, "/tmp", interpreter.folders)
        binds, links = interpreter.visible
        made = self._folder / "etc"
        made.mkdir()
        (made / "passwd").write_text(f"worker:x:{inside}:{inside}::/tmp/home:/bin/sh\n")
        (made / "group").write_text(f"worker:x:{inside}:\n")
        (made / "hosts").write_text("127.0.0.1 localhost sandbox\n::1 localhost\n")
        options = [
            *who,
            *("--hostname", "sandbox", "--new-session", "--as-pid-1"),
            *("--seccomp", str(filtered), "--chdir", "/"),
            *(*private, "/tmp"),
        ]
        # By itself, bwrap makes folders on the way to a bound one that only root may enter.
        on_the_way = {
            str(parent)
            for path in (*binds, *links, "/etc/passwd", "/box/script")
            for parent in Path(path).parents
        }
        for path in sorted(on_the_way - {"/", "/tmp"}):
            options += ["--perms", "0755", "--dir", path]
        for path in binds:
            options += ["--ro-bind", path, path]
        for path, target in links.items():
            options += ["--symlink", target, path]
        for file in made.iterdir():
            options += ["--ro-bind", str(file), f"/etc/{file.name}"]
        options += ["--ro-bind", str(script), f"/box/{script.name}"]
        options += ["--proc", "/proc", "--dev", "/dev", *private, "/dev/shm"]
        options += ["--remount-ro", "/dev", "--remount-ro", "/"]
        bwrap = shutil.which("bwrap") or "bwrap"
        settings = self._settings(uid, others, lifeline)
        entry = self._entry(interpreter, settings, f"/box/{script.name}", arguments)
        return [bwrap, *options, "--", *entry], environment

    def _rlimits(
        self, interpreter: Interpreter, script: Path, arguments: Iterable[str], lifeline: int
    ) -> tuple[list[str], dict[str, str]]:
        private = self._folder / "tmp"
        private.mkdir(mode=0o700)
        uid = None
        if is_privileged() and all(
            others_may_read(path) for path in (*interpreter.needed, str(self._folder.parent))
        ):
            uid = 2**30 + secrets.randbelow(2**30)
            self._folder.chmod(0o711)
            os.chown(private, uid, uid)
        others = 0 if uid is not None else threads_of_user()
        environment = self._environment(interpreter, str(private), interpreter.folders)
        settings = self._settings(uid, others, lifeline)
        return self._entry(interpreter, settings, str(script), arguments), environment

    def _settings(self, uid: int | None, others: int, lifeline: int) -> dict[str, object]:
        """What entry.py is told; ``others`` processes count that are not the box's."""
        limits = {
            "RLIMIT_FSIZE": (self.limits.disk_mb * MIB, MIB),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_NPROC": (self.limits.processes + others, min(16, self.limits.processes)),
            "RLIMIT_NOFILE": (OPEN_FILES, 64),
        }
        return {
            "limits": limits,
            "uid": uid,
            "subreaper": self.strength == "rlimits",
            "lifeline": lifeline,
        }

    def _entry(
        self,
        interpreter: Interpreter,
        settings: dict[str, object],
        script: str,
        arguments: Iterable[str],
    ) -> list[str]:
        text = Path(__file__).with_name("entry.py").read_text(encoding="utf-8")
        return [interpreter.executable, "-c", text, json.dumps(settings), script, *arguments]

    def _environment(
        self, interpreter: Interpreter, private: str, folders: Iterable[str]
    ) -> dict[str, str]:
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
        if added := os.pathsep.join(folders):
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
                    if size_of(self._folder / "tmp", self.limits.disk_mb * MIB):
                        reason = "disk"
                    next_disk = time.monotonic() + DISK_SECONDS
            if reason and not stopping.is_set():
                self.killed = reason
                log.warning("a box was ended: more %s than allowed (%s)", reason, self.limits)
                self._end(process)

    def _running(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes of the box: the first one, what descends from it, and what once did."""
        found = []
        if process.poll() is None:  # otherwise its number may be another process's by now
            found = [process.pid, *processes_below(process.pid)]
        if self.strength == "rlimits":  # of a PID namespace nothing can lose itself
            self._known |= {pid: began(pid) for pid in found}
            lost = self._known.keys() - set(found)
            found += [pid for pid in lost if began(pid) == self._known[pid] != ""]
        return found

    def _temporary_files(self, running: list[int]) -> int:
        """Bytes in the box's tmpfs folders, files' own memory in the kernel with them."""
        used = 0
        for pid in running[1:2]:  # bwrap itself stays outside of the box
            for folder in ("tmp", "dev/shm"):
                with contextlib.suppress(OSError):
                    of = os.statvfs(f"/proc/{pid}/root/{folder}")
                    used += (of.f_blocks - of.f_bfree) * of.f_frsize
                    used += (of.f_files - of.f_ffree) * INODE_BYTES
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
                running = [
                    pid for pid in self._running(process) if state(pid) not in ("", "Z", "X")
                ]
                if not running:
                    break
                for sent in (signal.SIGSTOP, signal.SIGKILL):  # stopped, they start no others
                    for pid in running:
                        kill(pid, sent)
                time.sleep(0.002 * min(attempt, 10))
        process.wait()


def kill(pid: int, sent: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sent)


def remove(folder: Path) -> None:
    """Remove a folder of a box, however deep a program made it."""
    with contextlib.suppress(OSError):
        empty(folder)
        folder.rmdir()


# ------------------------------------------------------------------ the interpreter


@dataclass(frozen=True)
class Interpreter:
    """What a box needs for an interpreter.

    Args:
        executable: its path.
        folders: folders of packages outside of its environment.
        needed: files and folders that it reads.
        visible: what a box shows: paths bound read-only, and symbolic links to their targets.
    """

    executable: str
    folders: tuple[str, ...]
    needed: tuple[str, ...]
    visible: tuple[tuple[str, ...], dict[str, str]]


PROBE = """
import json, sys, sysconfig
try:
    import numpy
except ImportError:
    pass
import ctypes, hashlib, ssl
with open("/proc/self/maps") as maps:
    mapped = sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line})
print(json.dumps({
    "version": sys.version_info[:2],
    "executable": sys.executable,
    "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix],
    "stdlib": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")],
    "path": sys.path[1:],
    "mapped": mapped,
}))
"""


@functools.cache
def probe(python: str) -> Interpreter:
    """Ask an interpreter where its parts are.

    Raises:
        UserError: if it does not start or is older than Python 3.10.
    """
    mend = "set python.main or python.bigcodebench to an interpreter that starts"
    try:
        done = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, timeout=120, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python}: this interpreter does not start ({error}); {mend}") from error
    if done.returncode:
        raise UserError(
            f"{python}: this interpreter does not start ({done.stderr.strip()[-500:]}); {mend}"
        )
    told = json.loads(done.stdout)
    if told["version"] < [3, 10]:
        raise UserError(
            f"{python} is Python {'.'.join(map(str, told['version']))}; programs need 3.10 or later"
        )
    parts = [str(Path(prefix) / part) for prefix in told["prefixes"] for part in PREFIX_PARTS]
    own = [*parts, *told["stdlib"]]
    # Of the rest of sys.path, folders of packages only: others are a project's, put there by its
    # editable installation or by PYTHONPATH.
    folders = [
        path
        for path in told["path"]
        if Path(path).name in ("site-packages", "dist-packages")
        and Path(path).is_dir()
        and not any(Path(path).is_relative_to(part) for part in own)
    ]
    needed = [*own, *folders, told["executable"], *told["mapped"]]
    needed = [path for path in dict.fromkeys(needed) if Path(path).exists()]
    return Interpreter(
        executable=told["executable"],
        folders=tuple(folders),
        needed=tuple(needed),
        visible=show([*SYSTEM, *needed, *library_folders()]),
    )


def library_folders() -> list[str]:
    """LD_LIBRARY_PATH, without what would show the home or the working folder."""
    kept = []
    for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        real = Path(path).resolve()
        around = any(folder.resolve().is_relative_to(real) for folder in (Path.home(), Path.cwd()))
        if Path(path).is_absolute() and real.is_dir() and not around:
            kept.append(path)
    return kept


def show(paths: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The real files and folders to bind, none within another, and the symbolic links to them."""
    real: set[Path] = set()
    links: dict[Path, str] = {}
    for path in paths:
        if Path(path).exists():
            end, passed = trail(Path(path))
            real.add(end)
            links |= passed
    binds = [path for path in sorted(real) if not any(parent in real for parent in path.parents)]
    outside = {
        str(link): target
        for link, target in links.items()
        if not any(parent in real for parent in link.parents)
    }
    return tuple(map(str, binds)), outside


def trail(path: Path) -> tuple[Path, dict[Path, str]]:
    """Where a path leads, and the symbolic links on the way."""
    here, ahead, links = Path("/"), [*path.parts[1:]], {}
    while ahead:
        part = ahead.pop(0)
        here = here.parent if part == ".." else here / part
        if here.is_symlink():
            target = here.readlink()
            links[here] = str(target)
            ahead = [*target.relative_to(target.anchor).parts, *ahead]
            here = Path("/") if target.is_absolute() else here.parent
    return here, links


def others_may_read(path: str) -> bool:
    """Whether a user who owns nothing may read a path, as its permissions say."""
    real = Path(path).resolve()
    mode = real.stat().st_mode
    way = all(parent.stat().st_mode & 0o001 for parent in real.parents)
    return way and bool(mode & 0o004) and (not real.is_dir() or bool(mode & 0o001))


# ------------------------------------------------------------------ the kernel


def is_privileged() -> bool:
    """Whether this is a root that may make namespaces and become any user."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", encoding="utf-8") as status:
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    with open("/proc/self/uid_map", encoding="utf-8") as table:
        users = any(
            int(first) == 0 and int(count) >= 2**31
            for first, _, count in (line.split() for line in table)
        )
    setgid, setuid, net_admin, sys_chroot, sys_admin = 6, 7, 12, 18, 21
    return users and all(
        held >> bit & 1 for bit in (setgid, setuid, net_admin, sys_chroot, sys_admin)
    )


def kernel_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def system_call_filter(machine: str) -> bytes:
    """The filter of :data:`REFUSED` as a program for seccomp(2), in classic BPF."""
    column = list(AUDIT_ARCH).index(machine)
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    program = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 1, 0, AUDIT_ARCH[machine]),
        (give, 0, 0, refuse),
        (load, 0, 0, 0),  # its number
    ]
    if machine == "x86_64":  # the x32 calls
        program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for numbers in REFUSED.values():
        program += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    count = len(SOCKET_FAMILIES)
    program += [
        (equal, 0, count + 3, SOCKET[column]),
        (load, 0, 0, 16),  # its first argument, the lower half
        *((equal, count - i, 0, family) for i, family in enumerate(SOCKET_FAMILIES)),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
        (equal, 0, 1, CLONE3[column]),
        (give, 0, 0, absent),
        (equal, 0, 3, CLONE[column]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, NEW_NAMESPACES),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on (the second may hold anything); [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> str:
    return next(iter(fields(pid)), "")


def began(pid: int) -> str:
    """When a process began, to tell it from a later one with its number."""
    found = fields(pid)
    return found[19] if found else ""


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
            told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if int(told["Uid"].split()[0]) == os.getuid():
                count += int(told["Threads"])
    return count


def size_of(folder: Path, limit: int) -> bool:
    """Whether the files below a folder take more than ``limit`` bytes on the disk, about."""
    used = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += Path(where, name).lstat().st_blocks * 512 + INODE_BYTES
        if used > limit:
            return True
    return False
