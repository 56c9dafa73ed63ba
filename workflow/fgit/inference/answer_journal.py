"""The teacher's answers on disk as they come: no answer is asked and paid for twice."""

import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from fgit.common.errors import UserError
from fgit.common.journal import Entry, Journal, entries
from fgit.inference.requests import Answer, Attempt

log = logging.getLogger(__name__)

NAME = "answers.jsonl"
OLDER = b'{"digest":'  # how earlier versions began the file


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of a dataset's answers is paid for: of the ``records`` (their path, from where the
    answers lie) the shard, from 1, of so many."""

    records: str
    shard: int
    shards: int


class AnswerEntry(Entry):
    """What a request brought.

    Without text it has no answer (any more): an attempt failed that may have been charged, or the
    answers were dropped. ``key`` is the digest of the request and of all else that its answer
    depends on but ``dtype``, that of the teacher's weights (None for an endpoint's); ``cost`` is in
    the currency of the prices, and ``seconds`` went by since the entry before, or since the
    teacher was loaded.
    """

    key: str
    text: str | None
    tokens: Annotated[int, Field(ge=0)] | None = None
    refused: str | None = None
    cost: Annotated[float, Field(ge=0)] = 0.0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    same_text: str | None = None
    dtype: str | None = None
    records: str
    shard: Annotated[int, Field(ge=1)]
    shards: Annotated[int, Field(ge=1)]


class AnswerJournal(Journal[AnswerEntry]):
    """The answers to some requests.

    The journals of other shards, and of other outputs, which lie beside this one, are read too: an
    answer is there for whoever makes the same request. None is ever removed, so that what was spent
    counts for good, and a setting that is changed back has its answers still.

    Attributes:
        answers: those that were there when the journal was opened, by index, all of one dtype.
        promises: of equal text, of the processes that gave these answers and of this one.
        dtype: of the teacher's weights when it gave them; None where there are none.
        seconds: that answering took.
        spent: what the share has cost so far, whatever came of it. What was spent when the records
            were in another number of shards, each share bears a part of.

    Args:
        folder: of the file ``answers.jsonl``; made if need be. It lies beside those of the others.
        keys: of the requests.
        share: who pays.
        dtype: of the answers that count; None takes whichever has the most.

    Raises:
        UserError: on entering, for a journal of a version before this one's form.
    """

    def __init__(
        self, folder: Path, keys: Sequence[str], share: Share, dtype: str | None = None
    ) -> None:
        super().__init__(folder / NAME, AnswerEntry)
        self.keys = keys
        self.indices = {key: index for index, key in enumerate(keys)}
        self.share = share
        self.wanted = dtype
        self.by_dtype: dict[str | None, dict[int, AnswerEntry]] = {}
        self.unused = 0
        self.answers: dict[int, Answer] = {}
        self.promises: list[str] = []
        self.dtype: str | None = None
        self.seconds = 0.0
        self.spent = 0.0

    def __enter__(self) -> Self:
        if self.path.exists():
            with self.path.open("rb") as file:
                if file.read(len(OLDER)) == OLDER:
                    raise UserError(
                        f"{self.path}: answers in the form of an earlier version of FGit, which "
                        "this one cannot tell apart. Let that version finish, or rename the file "
                        "to have all of them asked, and paid for, again"
                    )
        for path in sorted(self.path.parent.parent.glob(f"*/{NAME}")):
            if path != self.path:
                for entry in entries(path, AnswerEntry):  # what is torn, their own process says
                    if entry is not None:
                        self.look(entry, own=False)
        super().__enter__()
        fitting = {d: by for d, by in self.by_dtype.items() if self.wanted in (None, d) and by}
        if fitting:
            self.dtype = max(fitting, key=lambda dtype: len(fitting[dtype]))
            for index, entry in fitting[self.dtype].items():
                assert entry.text is not None
                self.answers[index] = Answer(
                    index, entry.text, entry.tokens, entry.refused, entry.cost
                )
                self.seconds += entry.seconds
                self.note(entry.same_text)
        if self.unused:
            log.info(
                "%s: answers to other requests or by other settings, which stay there for these: "
                "%d",
                *(self.path, self.unused),
            )
        return self

    def take(self, entry: AnswerEntry) -> None:
        self.look(entry, own=True)

    def look(self, entry: AnswerEntry, own: bool) -> None:
        if own or entry.records == self.share.records:
            if entry.shards != self.share.shards:
                self.spent += entry.cost / self.share.shards
            elif entry.shard == self.share.shard:
                self.spent += entry.cost
        index = self.indices.get(entry.key)
        if index is None:
            self.unused += own and entry.text is not None
        elif entry.text is not None:
            self.by_dtype.setdefault(entry.dtype, {})[index] = entry
        else:
            for of_dtype in self.by_dtype.values():
                of_dtype.pop(index, None)

    def note(self, promise: str | None) -> None:
        if promise is not None and promise not in self.promises:
            self.promises.append(promise)

    def keep(
        self, answers: Iterator[Answer | Attempt], promise: str, dtype: str | None
    ) -> Iterator[Answer]:
        """Append each answer, then yield it; and each attempt that brought none.

        Raises:
            OSError: naming the file, for a full disk.
        """
        last = time.perf_counter()
        for answer in answers:
            now = time.perf_counter()
            seconds, last = round(now - last, 6), now
            self.spent += answer.cost
            if isinstance(answer, Attempt):
                self.write(answer.index, text=None, cost=answer.cost)
                continue
            self.note(promise)
            self.seconds += seconds
            # An endpoint's JSON may hold lone surrogates, which no file can.
            text = answer.text.encode("utf-8", "replace").decode("utf-8")
            answer = dataclasses.replace(answer, text=text)
            values = {**dataclasses.asdict(answer), "seconds": seconds}
            self.write(values.pop("index"), same_text=promise, dtype=dtype, **values)
            yield answer

    def write(self, index: int, **values: object) -> None:
        share = dataclasses.asdict(self.share)
        self.append(AnswerEntry.model_validate({"key": self.keys[index], **values, **share}))

    def drop(self) -> None:
        """Have no request answered any more; what the answers cost stays."""
        self.descriptor = self.opened()
        try:
            for index in range(len(self.keys)):
                self.write(index, text=None)
        finally:
            os.close(self.descriptor)
