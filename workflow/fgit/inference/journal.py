"""The teacher's answers on disk as they come, so that a generation that is killed goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from fgit.common.files import remove
from fgit.inference.teachers import Answer

log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0


class Journal:
    """The answers to some requests, one JSON line each, appended as they come.

    A context manager. A line is handed to the system before the next answer is waited for, so that
    a kill of the process tears the last line at most; it is on disk within ``SYNC_SECONDS`` or with
    the next answer, so that the death of a node loses little. What stands behind a torn or broken
    line is not used. The file is read and written by one process at a time.

    Each process that adds answers writes a line of its own first: the digest of what the answers
    depend on, which promise of equal text its answers have, and the dtype of the teacher's weights.
    Where answers were dropped, what they had cost stays.

    Attributes:
        answers: those that were there when the journal was opened, by index.
        promises: of the processes that added answers, without repetition.
        dtype: of the teacher's weights when the first answers came; None where there are none.
        seconds: that answering took so far.
        spent: what all answers cost so far, those that were dropped among them.

    Args:
        folder: of the file ``answers.jsonl``; made if need be, and removed by :meth:`remove`.
        digest: of what the answers depend on. With another one the journal starts anew.
        count: of the requests; every index is below it.
    """

    def __init__(self, folder: Path, digest: str, count: int) -> None:
        self.path = folder / "answers.jsonl"
        self.digest = digest
        self.count = count
        self.answers: dict[int, Answer] = {}
        self.promises: list[str] = []
        self.dtype: str | None = None
        self.seconds = 0.0
        self.spent = 0.0
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
            # Another shard that ends may remove the folder above at any moment.
            with contextlib.suppress(FileNotFoundError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)

    def read(self) -> int:
        """Take what is there; the number of bytes that can be used."""
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                entry = entry_of(line)
                if whole == 0 and entry is not None and entry.get("digest") != self.digest:
                    log.warning(
                        "%s: the answers in it were given to other prompts or by other settings; "
                        "starting anew",
                        self.path,
                    )
                    return 0
                if entry is None or not self.take(entry):
                    left = os.fstat(file.fileno()).st_size - whole
                    log.warning("%s: its last %d bytes are broken, and not used", self.path, left)
                    break
                whole += len(line)
        return whole

    def take(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is whole; it then counts."""
        try:
            if "digest" in entry:
                if "spent" in entry:
                    self.spent += entry["spent"]
                else:
                    self.note(entry["same_text"], entry.get("dtype"))
                return True
            self.seconds = entry.pop("seconds")
            answer = Answer(**entry)
        except (KeyError, TypeError):
            return False
        if not (isinstance(answer.index, int) and 0 <= answer.index < self.count):
            return False
        self.answers[answer.index] = answer
        self.spent += answer.cost
        return True

    def note(self, promise: str, dtype: str | None) -> None:
        self.dtype = self.dtype or dtype
        if promise not in self.promises:
            self.promises.append(promise)

    def keep(self, answers: Iterator[Answer], promise: str, dtype: str) -> Iterator[Answer]:
        """Append each answer, then yield it.

        Raises:
            OSError: naming the file, for a full disk.
        """
        before, started = self.seconds, time.perf_counter()
        for number, answer in enumerate(answers):
            if number == 0:
                self.append({"digest": self.digest, "same_text": promise, "dtype": dtype})
                self.note(promise, dtype)
            self.seconds = before + time.perf_counter() - started
            self.spent += answer.cost
            self.append(dataclasses.asdict(answer) | {"seconds": round(self.seconds, 3)})
            yield answer

    def append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
            if time.monotonic() - self.synced > SYNC_SECONDS:
                os.fsync(self.descriptor)
                self.synced = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def drop(self) -> None:
        """Forget all answers, but not what they cost."""
        self.remove()
        if self.spent:
            self.descriptor = self.opened()
            try:
                self.append({"digest": self.digest, "spent": self.spent})
            finally:
                os.close(self.descriptor)

    def remove(self) -> None:
        """Remove the file with its folder, and the folder above if nothing else is in it."""
        remove(self.path.parent)
        with contextlib.suppress(OSError):  # not empty, or another shard was faster
            self.path.parent.parent.rmdir()


def entry_of(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if the line is torn or broken."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
