"""What has become of a number: scored, pending or failed, and the log that says why."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from fgit.config import Config
from fgit.steps import Step, output_of, steps_to

END = 16_384  # bytes of a log's end that are looked at
LINES = 50  # and how many of its last lines: a launcher has some thirty of its own to say
BARS = 2  # of them, progress bars that may follow the last words: those that end with the process
BAR = re.compile(r"\d+%\|.*\|.*\[.*\]|^.*\d+\w+ \[\d+:\d+, ")
# What FGit writes last, in whichever stage. One that was told to end goes on later.
LAST_WORDS = re.compile(
    r"fgit [a-z]+( [a-z]+)?: error: (?P<stopped>stopped by SIGTERM|interrupted)?"
)
# What Python, the shell or SLURM write of a process that died.
DIED = re.compile(
    r"(\[rank\d+\]: )?(Traceback \(most recent call last\):$|[\w.]+(Error|Exception)(: .*)?$)"
    r"|\S+: line \d+: .*: (command not found|No such file or directory|Permission denied)$"
    r"|\S+: No module named \S+$|\S+: error while loading shared libraries: "
    r"|Fatal Python error: |terminate called after throwing "
    r"|(\S+: line \d+: +\d+ )?(Killed|Segmentation fault|Bus error|Aborted)"
    r"( \(core dumped\))?( {2,}.*)?$|(slurmstepd|srun): error: "
)
LAUNCHER = "accelerate/commands/launch.py"  # in the traceback of what started the stage


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a run's score on a benchmark; the log (if failed) is relative to the results."""

    state: Literal["scored", "pending", "failed"]
    log: str | None = None


def steps_by_file(config: Config, scores: Iterable[tuple[str, str]]) -> dict[str, Step]:
    """The way to scores, each a run's name and a benchmark: steps by each file that they write."""
    return {file: step for step in steps_to(config, scores) for file in step.outputs}


def score_status(
    steps: Mapping[str, Step],
    results: Path,
    run: str,
    benchmark: str,
    *,
    written: Collection[Path] = (),
    ended: bool = False,
) -> Status:
    """How far a run's score on a benchmark has come.

    It is scored if its summary is there. Else the first stages on the way whose output is not there
    decide: it is failed if one of them does not run and its log ends with an error, and pending
    otherwise. What a stage that has its output would need is not looked at: it may be removed.

    Args:
        steps: :func:`steps_by_file` of this score, perhaps among others.
        results: the results folder.
        written: what is being written there (:func:`fgit.common.lock.live`).
        ended: nothing runs any more, so that a log without its output is of a stage that failed,
            whatever it says (a process that was killed says nothing); save for a stage that was
            told to end, which is pending.
    """
    waiting = next_steps(steps, results, output_of("score", run=run, benchmark=benchmark))
    if not waiting:
        return Status("scored")
    for step in waiting:
        files = [results / file for file in step.outputs]
        runs = any(place in written for file in files for place in (file, *file.parents))
        if not runs and has_failed(results / step.log, ended=ended):
            return Status("failed", step.log)
    return Status("pending")


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


def has_failed(log: Path, *, ended: bool) -> bool:
    """Whether a log is of a stage that failed; it has not, if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - END))
            end = file.read().decode("utf-8", errors="replace").replace("\r", "\n")
    except FileNotFoundError:
        return False
    said = last_words(end)
    return said == "failed" or (ended and said is None)


def last_words(text: str) -> Literal["failed", "stopped"] | None:
    """What the end of a log says of its stage; None if it says nothing.

    Words that progress follows are not the end, whatever they say.
    """
    said: Literal["failed", "stopped"] | None = None
    bars, after = 0, ""
    for line in [line for line in text.splitlines() if line.strip()][:-LINES:-1]:
        if BAR.search(line):
            bars += 1
            if bars > BARS:
                break
        elif words := LAST_WORDS.match(line):
            # The launcher of a stage that was told to end complains of it.
            stopped = words["stopped"] and (said is None or LAUNCHER in after)
            return "stopped" if stopped else "failed"
        elif DIED.match(line):
            said = "failed"
        after = f"{line}\n{after}"
    return said
