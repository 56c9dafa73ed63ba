"""Work on disk as it is done, so that a job that is killed goes on where it was."""

import logging
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fgit.common.files import numbered_lines

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0


class Entry(BaseModel):
    """A line of a journal: types are strict, and numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class Journal(Generic[AnyEntry]):
    """Entries, one JSON line each, appended as they come.

    A context manager. A line is handed to the system before :meth:`append` returns, so that a kill
    of the process tears the last line at most; it is on disk within ``SYNC_SECONDS`` or with the
    next entry, so that the death of a node loses little. Every line has a checksum: one that is
    torn or broken is left where it is and not used, and all others are. The file is written by one
    process at a time.

    Args:
        path: of the file; its folder is made if need be.
        kind: of the entries. Each says itself what it depends on.
    """

    def __init__(self, path: Path, kind: type[AnyEntry]) -> None:
        self.path = path
        self.kind = kind
        self.synced = time.monotonic()

    def __enter__(self) -> Self:
        self.descriptor = self.opened()
        try:
            broken = 0
            for entry in entries(self.path, self.kind):
                if entry is None:
                    broken += 1
                else:
                    self.take(entry)
        except BaseException:
            os.close(self.descriptor)
            raise
        if broken:
            log.warning(
                "%s: lines that are torn, broken or of another version, and not used: %d",
                *(self.path, broken),
            )
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def opened(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)

    def take(self, entry: AnyEntry) -> None:
        """Have an entry that is there count."""
        raise NotImplementedError

    def append(self, entry: AnyEntry) -> None:
        """Add an entry.

        Raises:
            OSError: naming the file, for a full disk.
        """
        line = line_of(entry)
        try:
            size = os.fstat(self.descriptor).st_size
            if size and os.pread(self.descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # behind what was torn
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


def entries(path: Path, kind: type[AnyEntry]) -> Iterator[AnyEntry | None]:
    """The entries of a journal, in their order; None for each line that is torn or broken."""
    with path.open("rb") as file:
        for _, line in numbered_lines(str(path), file):
            yield entry_of(line, kind) if isinstance(line, bytes) else None


def line_of(entry: Entry) -> bytes:
    rest = entry.model_dump_json().encode()[1:]
    return checked(rest) + rest + b"\n"


def entry_of(line: bytes, kind: type[AnyEntry]) -> AnyEntry | None:
    """The entry of a line; None if the line is torn or broken."""
    start = len(checked(b""))
    rest = line[start:].removesuffix(b"\n")
    if line[:start] != checked(rest):
        return None
    try:
        return kind.model_validate_json(b"{" + rest)
    except ValidationError:  # written by another version
        return None


def checked(rest: bytes) -> bytes:
    """How the line of an entry begins whose rest this is."""
    return b'{"crc32":"%08x",' % zlib.crc32(rest)
