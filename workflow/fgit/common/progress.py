"""Progress on standard error, readable on a terminal and in a log."""

import sys
from collections.abc import Iterable
from typing import Any, Self, TextIO

from tqdm import tqdm

from fgit.common import processes

SECONDS, SECONDS_IN_A_LOG = 0.5, 10.0  # between two states of a bar


class Lines:
    """A stream on which each state of a bar is a line: for logs, where nothing is overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if text := text.strip():
            self.stream.write(f"{text}\n")

    def flush(self) -> None:
        self.stream.flush()


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    description: str,
    total: int | None = None,
    unit: str = "it",
) -> Any:
    """A tqdm bar; where standard error is no terminal, it writes a line now and then.

    Of several processes the first one shows it. The time left is reckoned with the mean speed so
    far: batches end unevenly, and the speed of the last one says little.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=description,
        total=total,
        unit=unit,
        file=sys.stderr if terminal else Lines(sys.stderr),
        mininterval=SECONDS if terminal else SECONDS_IN_A_LOG,
        smoothing=0,
        dynamic_ncols=True,
        disable=not processes.is_first(),
    )


class Writing:
    """A bar of the tokens that a model writes, and how many answers have ended.

    How many tokens there will be is not known before the last answer ends. Until then the mean
    length is taken to be the tokens so far over the answers that have ended, at most the limit:
    what is still being written counts too, so that a first short answer promises nothing.

    Args:
        answers: how many are wanted.
        limit: tokens that an answer has at most.
    """

    def __init__(self, description: str, answers: int, limit: int) -> None:
        self.answers, self.limit, self.ended = answers, limit, 0
        self.bar = bar(description=description, total=answers * limit, unit="token")
        self.show_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def wrote(self, tokens: int) -> None:
        """So many tokens more."""
        self.bar.total = self.expected(self.bar.n + tokens)
        self.bar.update(tokens)

    def end(self) -> None:
        """One answer more has ended."""
        self.ended += 1
        self.bar.total = self.expected(self.bar.n)
        self.show_ended()

    def expected(self, tokens: int) -> int:
        """How many tokens there will be, after so many."""
        if self.ended == self.answers:
            return tokens
        mean = min(self.limit, tokens / self.ended) if self.ended else self.limit
        return max(tokens + self.answers - self.ended, round(self.answers * mean))

    def show_ended(self) -> None:
        self.bar.set_postfix_str(f"{self.ended} of {self.answers} answers", refresh=False)
