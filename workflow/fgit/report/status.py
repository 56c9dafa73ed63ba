"""What has become of a number: scored, pending or failed, and the log that says why."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from fgit.config import Config
from fgit.steps import Step, output_of, steps_to

END = 16_384  # bytes of a log's end that are looked at
FAILED = re.compile(
    r"^fgit [a-z -]+: error: |^Traceback \(most recent call last\)|^(.*: line \d+: +\d+ +)?Killed\b"
    r"|^[\w.]+(Error|Exception)(: |$)|Segmentation fault|Bus error|\(core dumped\)"
    r"|oom[-_ ]kill|^slurmstepd: error: |DUE TO TIME LIMIT",
    re.MULTILINE | re.IGNORECASE,
)
# Told to end, not failed: it goes on where it was when it is started again.
STOPPED = re.compile(r"^fgit [a-z -]+: error: (stopped by SIGTERM|interrupted)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a run's score on a benchmark; the log (if failed) is relative to the results."""

    state: Literal["scored", "pending", "failed"]
    log: str | None = None


def steps_by_file(config: Config, scores: Iterable[tuple[str, str]]) -> dict[str, Step]:
    """The way to scores, each a run's name and a benchmark: steps by each file that they write."""
    return {file: step for step in steps_to(config, scores) for file in step.outputs}


def score_status(
    steps: Mapping[str, Step], results: Path, run: str, benchmark: str, *, ended: bool = False
) -> Status:
    """How far a run's score on a benchmark has come.

    It is scored if its summary is there. Else the first stages on the way whose output is not there
    decide: it is failed if the log of one of them ends with an error, and pending otherwise. What a
    stage that has its output would need is not looked at, since it may be removed.

    Args:
        steps: :func:`steps_by_file` of this score, perhaps among others.
        results: the results folder.
        ended: nothing runs any more, so that a log without its output is of a stage that failed,
            whatever it says (a process that was killed says nothing); save for a stage that was
            told to end, which is pending.
    """
    waiting = next_steps(steps, results, output_of("score", run=run, benchmark=benchmark))
    if not waiting:
        return Status("scored")
    logs = [step.log for step in waiting if says_failed(results / step.log, ended=ended)]
    return Status("failed", logs[0]) if logs else Status("pending")


def next_steps(steps: Mapping[str, Step], results: Path, file: str) -> list[Step]:
    """The steps that could be done next to get a file; none if it is there.

    Args:
        steps: as :func:`steps_by_file` has them.
    """
    step = steps.get(file)  # none writes what the user gave
    if step is None or (results / step.outputs[0]).exists():
        return []
    waiting = [first for needed in step.inputs for first in next_steps(steps, results, needed)]
    return list(dict.fromkeys(waiting)) or [step]


def says_failed(log: Path, *, ended: bool) -> bool:
    """Whether a log is of a stage that failed; it has not, if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - END))
            end = file.read().decode("utf-8", errors="replace").replace("\r", "\n")
    except FileNotFoundError:
        return False
    if STOPPED.search(end):
        return False
    return ended or FAILED.search(end) is not None
