"""SIGTERM: what ``scancel``, a preemption, a requeue or the approach of a time limit sends."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

from fgit.common.errors import Stopped


class Sigterm:
    """Notes a SIGTERM instead of dying of it.

    A context manager. ``requested`` says whether one came; the former handler is put back at the
    end. Outside the main thread, where Python allows no handlers, it does nothing.
    """

    requested = False

    def __enter__(self) -> Self:
        self.main_thread = threading.current_thread() is threading.main_thread()
        if self.main_thread:
            self.former = signal.signal(signal.SIGTERM, self.note)
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __exit__(self, *error: object) -> None:
        if self.main_thread:
            signal.signal(signal.SIGTERM, self.former)


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """A SIGTERM in the block raises :class:`fgit.common.errors.Stopped`.

    So what is half-written is removed, and locks are given back; a SIGTERM as such does neither.
    A block within may note it instead (:class:`Sigterm`). Only the main thread has handlers.
    """

    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Stopped
        signal.signal(number, signal.SIG_DFL)  # a fork has nothing to give back
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
