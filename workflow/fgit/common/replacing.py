"""Putting what was written in its place: whole, or not at all, and over nothing of others."""

import contextlib
import errno
import glob
import itertools
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fgit.common.errors import OF_DISKS, UserError, full_place, number_of
from fgit.common.lock import check_held

# What may refuse that a file takes its name, asked with that name before each renaming.
CHECKS: list[Callable[[Path], None]] = [lambda path: check_held()]
WRITTEN: set[Path] = set()  # what this process has put in place


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    If the block raises, the temporary file or folder is removed and ``path`` is left as it was. A
    link stays, and what it leads to is replaced.

    Raises:
        UserError: if what stands there is not ours to replace (:func:`check_free`), or one of
            :data:`CHECKS` refuses.
        OSError: for a full or broken disk, whatever the writer raised; it names ``path``, or what
            else could not be written.
    """
    target = linked_to(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target, str(os.getpid()))
    for left in target.parent.glob(temporary_for(target, "*").name):
        if not Path("/proc", left.name.split(".tmp")[0].rpartition(".")[2]).exists():
            remove(left)  # of a process that was killed
    remove(temporary)
    try:
        yield temporary
        for written in [temporary] if temporary.is_file() else temporary.rglob("*"):
            if written.is_file():
                settle(written)
        for check in CHECKS:
            check(Path(path))
        check_free(path, folder=temporary.is_dir())
        if target.is_dir():
            # The old one goes when the new one is there: a kill in between must not cost both.
            old = target.with_name(f"{temporary.name}.old.tmp{target.suffix}")
            try:
                target.rename(old)
            except OSError:  # a folder of a container's image
                shutil.rmtree(target)
            os.replace(temporary, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, target)
        WRITTEN.add(Path(path).absolute())
    except BaseException as error:
        number = number_of(error, target.parent)
        full = full_place([target.parent]) if number == errno.ENOSPC else None
        with contextlib.suppress(OSError):  # of the same broken disk, perhaps
            remove(temporary)
        if number not in OF_DISKS:
            raise
        name = getattr(error, "filename", None) or (full if full != target.parent else None)
        if name is None or str(name).startswith(str(temporary)):
            name = path
        raise OSError(number, os.strerror(number), str(name)) from error


def temporary_for(target: Path, process: str) -> Path:
    """The name by which the next writer knows what a killed one left. ``*``: a pattern of them."""
    stem = glob.escape(target.stem) if process == "*" else target.stem
    host = re.sub(r"\W", "-", platform.node())
    # The suffix stays, since some writers choose the format by it.
    return target.with_name(f".{stem}.{host}.{process}.tmp{target.suffix}")


def linked_to(path: str | os.PathLike[str]) -> Path:
    """What a link leads to, whether that is there or not; what is no link as it is."""
    return Path(os.path.realpath(path) if Path(path).is_symlink() else path)


def check_place(path: str | os.PathLike[str], *, folder: bool | None) -> None:
    """Refuse a place where :func:`replacing` could not put a file or folder, or should not.

    For a look before the work; ``folder`` as in :func:`check_free`.

    Raises:
        UserError: naming what is in the way.
        OSError: naming the place: it may not be written to, its name is too long.
    """
    target = linked_to(path)
    parents = target.absolute().parents
    parent = next(place for place in parents if place.exists() or place.is_symlink())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
    with contextlib.suppress(FileNotFoundError):
        os.lstat(temporary_for(target, str(os.getpid())))  # whose name may be too long
    check_free(path, folder=folder)


def check_free(path: str | os.PathLike[str], *, folder: bool | None) -> None:
    """Refuse to replace what is not ours.

    A folder may replace a folder that is empty or a saved model; but behind a link only an empty
    one, since a link may lead to anything. A file never replaces a folder, nor a device.

    Args:
        folder: whether it is a folder that is to go there; None if that is not known yet.

    Raises:
        UserError: naming what is in the way.
    """
    path, target = Path(path), linked_to(path)
    by_link = f" (a link leads there from {path})" if path.is_symlink() else ""
    if target.is_symlink() or not (target.is_file() or target.is_dir() or not target.exists()):
        raise UserError(f"{path}: neither a file nor a folder can be written there; give a path")
    if folder and target.is_file():
        raise UserError(f"{target}{by_link}: a file is where a folder is to go; remove it")
    if not target.is_dir():
        return
    if folder is not False and os.path.ismount(target):
        raise UserError(
            f"{target}{by_link}: a file system is mounted here, and no folder can take its place; "
            "name a folder in it"
        )
    used = any(target.iterdir())
    saved_model = (target / "config.json").exists()
    if folder is False or (used and (by_link or not saved_model)):
        remedy = "empty it, or remove the link" if by_link else "name another place, or remove it"
        raise UserError(
            f"{target}{by_link}: a folder of yours is in the way, and it is left as it is; {remedy}"
        )


def settle(path: Path) -> None:
    """Have a file on disk, readable for those whom the umask lets read (safetensors' are 0600)."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, word: str) -> Path:
    """Rename a file, folder or link to a name of its own: ``NAME.WORD``, ``NAME.WORD-2``, ...

    Nothing is overwritten or removed, whatever lies there, and of several processes on several
    machines that do this to one file, one does it.

    Returns:
        Where it lies now.

    Raises:
        OSError: FileNotFoundError if it is not there, perhaps since another was faster.
    """
    folder = path.is_dir() and not path.is_symlink()
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.{word}{f'-{number}' if number > 1 else ''}")
        try:
            # What is empty holds the name, until it is what the renaming replaces.
            aside.mkdir() if folder else aside.touch(exist_ok=False)
            break
        except FileExistsError:
            continue
    try:
        path.rename(aside)
    except OSError:
        # A file server may have done it and its answer been lost: never remove what is not empty.
        with contextlib.suppress(OSError):
            if folder:
                aside.rmdir()
            elif aside.lstat().st_size == 0:
                aside.unlink()
        raise
    return aside
