"""Leaving nothing of a solution in the box, neither processes nor files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar


class Cleaner:
    """Leaves nothing of a solution in the box, neither processes nor files."""

    standing: frozenset[Path] | None = None  # what was there before the first solution
    modes: ClassVar[dict[Path, int]] = {}

    def __init__(self) -> None:
        self.home = Path(os.environ["HOME"])
        self.folders = [Path(os.environ["TMPDIR"])]
        if os.getpid() == 1:  # of a PID namespace: /dev/shm is the box's own, then
            self.folders.append(Path("/dev/shm"))
        if Cleaner.standing is None:
            empty(self.home)
            standing = {path for folder in self.folders for path in below(folder)}
            Cleaner.standing = frozenset(standing - {self.home})
            Cleaner.modes = {folder: folder.stat().st_mode for folder in self.folders}

    def clean(self) -> None:
        kill_others()
        assert self.standing is not None
        for folder in self.folders:
            if folder.stat().st_mode != self.modes[folder]:  # its owner may have closed it
                folder.chmod(stat.S_IMODE(self.modes[folder]))
            empty(folder, self.standing)
        self.home.mkdir(exist_ok=True)
        # Where multiprocessing keeps its sockets, made when they are first needed.
        multiprocessing.process.current_process()._config.pop("tempdir", None)  # type: ignore[attr-defined]


def kill_others() -> None:
    """End every other process of the box: of the PID namespace, or below this one.

    Raises:
        RuntimeError: if one does not end.
    """
    if os.getpid() == 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        multiprocessing.active_children()  # collects its own
        with contextlib.suppress(ChildProcessError):
            while True:  # those whose parents ended are this process's children
                os.waitpid(-1, 0)
        return
    for attempt in range(2000):
        multiprocessing.active_children()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        others = list(processes_below(os.getpid()))
        if not others:
            return
        for sent in (signal.SIGSTOP, signal.SIGKILL):  # stopped, they start no others
            for pid in others:
                kill(pid, sent)
        time.sleep(min(0.01, 0.0005 * attempt))
    raise RuntimeError("a process of the last solution does not end")


def kill(pid: int, sent: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sent)


def processes_below(pid: int) -> Iterator[int]:
    """What descends from a process, parents first."""
    ahead = [pid]
    while ahead:
        children: list[int] = []
        parent = ahead.pop()
        with contextlib.suppress(OSError):  # it has ended
            for file in Path(f"/proc/{parent}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    children += map(int, file.read_text(encoding="ascii").split())
        yield from children
        ahead += children


def below(folder: Path) -> Iterator[Path]:
    """Everything below a folder, but nothing below what is mounted there."""
    device = folder.lstat().st_dev
    for path in folder.iterdir():
        yield path
        if is_folder(path) and path.lstat().st_dev == device:
            yield from below(path)


def empty(folder: Path, keep: frozenset[Path] = frozenset()) -> None:
    """Remove what is in a folder, however deep, save the paths to keep."""
    device = folder.lstat().st_dev
    for path in list(folder.iterdir()):
        if path not in keep:
            erase(path)
        elif is_folder(path) and path.lstat().st_dev == device:
            empty(path, keep)


def erase(path: Path) -> None:
    """Remove a file or folder.

    Folders within it are moved up one by one, so that neither a recursion nor a path gets deep.
    """
    if not is_folder(path):
        path.unlink()
        return
    path.chmod(0o700)
    while inner := list(path.iterdir()):
        for item in inner:
            if not is_folder(item):
                item.unlink()
                continue
            item.chmod(0o700)
            for deeper in list(item.iterdir()):
                if is_folder(deeper):
                    deeper.chmod(0o700)
                    deeper.rename(path / secrets.token_hex(16))
                else:
                    deeper.unlink()
            item.rmdir()
    path.rmdir()


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)  # itself, not what a link leads to
