"""The loop of the worker: a submission in, its verdict out (see the package's docstring)."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import resource
import signal
import sys
from typing import Any

from .cleaning import Cleaner, kill_others
from .recorder import hide, raise_no_hard_limit, seed, silence
from .scorers import PASS, canary, no_canary, scorer_of


def main(kind: str) -> None:
    hide()
    pipes = [os.dup(0), os.dup(1)]
    submissions = os.fdopen(pipes[0], "rb", closefd=False)
    answers = os.fdopen(pipes[1], "w", encoding="utf-8", closefd=False)

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def in_child() -> None:
        while pipes:  # once: in a child's child the numbers may be something else's
            os.close(pipes.pop())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        seed()

    # A fork inherits the benchmark's modules and the expected outputs; nothing here has threads.
    multiprocessing.set_start_method("fork")
    os.register_at_fork(after_in_child=in_child)  # after random's own, which unseeds it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGIO, end)  # whoever started the box is gone (entry.py)
    raise_no_hard_limit()
    try:
        score = scorer_of(kind)
        silence()
        box = Cleaner()
        result = score(canary(kind), lambda message: None)
        if result.get("base") != PASS:
            raise RuntimeError(no_canary(result))
        box.clean()
    except BaseException as error:
        send({"error": f"{type(error).__name__}: {error}"})
        raise
    send({"ready": True})
    before = conditions()
    with contextlib.suppress(EOFError):
        while conditions() == before:
            submission = pickle.load(submissions)
            seed()
            result = score(submission, send)
            box.clean()
            send(result)


def conditions() -> tuple[Any, ...]:
    """What a process may change of another of its user's, and what its children then have too."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return (
        *(resource.getrlimit(getattr(resource, name)) for name in names),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getscheduler(0),
        os.sched_getaffinity(0),
    )


def end(*_: object) -> None:
    try:
        kill_others()
    finally:
        os._exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    finally:
        kill_others()
