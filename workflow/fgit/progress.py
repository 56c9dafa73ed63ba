"""Progress on standard error, readable on a terminal and in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from fgit import processes


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

    Of several processes the first one shows it.
    """
    return tqdm(
        iterable,
        desc=description,
        total=total,
        unit=unit,
        file=sys.stderr if sys.stderr.isatty() else Lines(sys.stderr),
        mininterval=0.5 if sys.stderr.isatty() else 5.0,
        dynamic_ncols=True,
        disable=not processes.is_first(),
    )
