"""The teacher's answers on disk as they come, so that a generation that is killed goes on."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgit.common import files
from fgit.common.journal import Journal
from fgit.inference.requests import Answer


class AnswerJournal(Journal):
    """The answers to some requests.

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
        digest: of what the answers depend on.
        count: of the requests; every index is below it.
    """

    foreign = "the answers in it were given to other prompts or by other settings"

    def __init__(self, folder: Path, digest: str, count: int) -> None:
        super().__init__(folder / "answers.jsonl", {"digest": digest})
        self.count = count
        self.answers: dict[int, Answer] = {}
        self.promises: list[str] = []
        self.dtype: str | None = None
        self.seconds = 0.0
        self.spent = 0.0

    def take(self, entry: dict[str, Any]) -> bool:
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
                self.append({**self.header, "same_text": promise, "dtype": dtype})
                self.note(promise, dtype)
            self.seconds = before + time.perf_counter() - started
            self.spent += answer.cost
            self.append(dataclasses.asdict(answer) | {"seconds": round(self.seconds, 3)})
            yield answer

    def drop(self) -> None:
        """Forget all answers, but not what they cost."""
        self.remove()
        if self.spent:
            self.descriptor = self.opened()
            try:
                self.append({**self.header, "spent": self.spent})
            finally:
                os.close(self.descriptor)

    def remove(self) -> None:
        """Remove the file with its folder, and the folder above if nothing else is in it."""
        files.remove(self.path.parent)
        with contextlib.suppress(OSError):  # not empty, or another shard was faster
            self.path.parent.parent.rmdir()
