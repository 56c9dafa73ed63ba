"""Work on disk as it is done, so that a job that is killed goes on where it was."""

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Self

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0


class Journal:
    """Entries, one JSON line each, appended as they come.

    A context manager. A line is handed to the system before :meth:`append` returns, so that a kill
    of the process tears the last line at most; it is on disk within ``SYNC_SECONDS`` or with the
    next entry, so that the death of a node loses little. What stands behind a torn or broken line
    is not used. The file is read and written by one process at a time.

    Attributes:
        foreign: what is wrong with a journal that depends on something else, for the log.

    Args:
        path: of the file; its folder is made if need be.
        header: what the entries depend on. The first entry has these keys and values, among others
            perhaps; a journal that begins with other ones starts anew.
    """

    foreign = ""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header
        self.synced = time.monotonic()

    def __enter__(self) -> Self:
        self.descriptor = self.opened()
        try:
            whole = self.read()
            if whole < os.fstat(self.descriptor).st_size:
                os.ftruncate(self.descriptor, whole)
        except BaseException:
            os.close(self.descriptor)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def opened(self) -> int:
        while True:
            # Another job that ends may remove the folder at any moment.
            with contextlib.suppress(FileNotFoundError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)

    def read(self) -> int:
        """Take the entries that are there; the number of bytes that can be used."""
        whole = 0
        with open(self.descriptor, "rb", closefd=False) as file:
            for line in file:
                entry = entry_of(line)
                if whole == 0 and entry is not None and not self.header.items() <= entry.items():
                    log.warning("%s: %s; starting anew", self.path, self.foreign)
                    return 0
                if entry is None or not self.take(entry):
                    left = os.fstat(self.descriptor).st_size - whole
                    log.warning("%s: its last %d bytes are broken, and not used", self.path, left)
                    break
                whole += len(line)
        return whole

    def take(self, entry: dict[str, Any]) -> bool:
        """Whether an entry, the first one too, is whole; it then counts."""
        raise NotImplementedError

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry.

        Raises:
            OSError: naming the file, for a full disk.
        """
        line = json.dumps(entry).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
            if time.monotonic() - self.synced > SYNC_SECONDS:
                os.fsync(self.descriptor)
                self.synced = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def remove(self) -> None:
        """Once all that it was for is written."""
        self.path.unlink(missing_ok=True)


def entry_of(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if the line is torn or broken."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
