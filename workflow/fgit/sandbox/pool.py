"""Running untrusted programs: many at a time, each worker in a box of its own.

A worker (:mod:`fgit.sandbox.worker`) checks one program after the other by its benchmark's own
scorer. Each verdict is written to a journal at once, so that a scoring that dies goes on where it
stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pickle
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import fgit
from fgit.benchmarks.kinds import kind_of, programs_of
from fgit.benchmarks.problems import first_few, problems_digest
from fgit.common.errors import UserError
from fgit.common.journal import Entry, Journal
from fgit.common.processes import cores
from fgit.common.progress import bar
from fgit.config import BenchmarkKind, ScoreSettings
from fgit.sandbox.box import Box, Limits
from fgit.sandbox.strength import choose

log = logging.getLogger(__name__)

PASS = "pass"
EMPTY = "empty"  # no solution at all: not run
TIMEOUT = "timeout"
CRASHED = "crashed"  # the solution took its worker process down
# Seconds in which a worker must start, or run a canonical solution. (patience() is for a check.)
STEP_LIMIT = 600.0
SLOW_PROBLEMS = 3  # if there are more, the machine is slow, and not a problem
LONG = 100_000  # characters; no honest solution is as long


@dataclasses.dataclass(frozen=True)
class Submission:
    """A program and the problem whose tests it must pass."""

    problem: Mapping[str, Any]
    solution: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the scorer said: ``plus`` is None for kinds without plus tests.

    ``seconds`` is what the check took, ``limit`` what it might have taken at most, and
    ``canonical_seconds`` what the canonical solution took (None where it is not timed).
    """

    base: str
    plus: str | None
    seconds: float = 0.0
    limit: float | None = None
    canonical_seconds: float | None = None

    @property
    def passed(self) -> bool:
        return self.base == PASS and self.plus in (PASS, None)


def check_programs(
    kind: BenchmarkKind,
    submissions: Mapping[str, Submission],
    settings: ScoreSettings,
    *,
    threads: int,
    where: str,
    python: str | None = None,
    journal: VerdictJournal | None = None,
    description: str = "score",
) -> dict[str, Verdict]:
    """Run every submitted program against its problem's tests, by key.

    A program of EvalPlus's kinds or of kind ``tests`` that fails and needed as much time as one
    test may take runs again in the end, alone: a busy machine must not decide. If the canonical
    solution fails then, twice, the machine is too slow for this problem, and there is no score; the
    journal has the verdicts on all others.

    Args:
        threads: workers; more than the CPUs that this process may use are not started.
        where: the problems' file, for messages.
        python: the interpreter of the workers; by default, this one.
        journal: earlier verdicts; new ones are added as they come.

    Raises:
        UserError: if a worker or the sandbox of the settings does not start, a canonical solution
            fails, or the machine is too slow.
    """
    verdicts = dict(journal.verdicts) if journal else {}
    for key, submission in submissions.items():
        if not submission.solution.strip():
            verdicts[key] = Verdict(EMPTY, EMPTY if kind_of(kind).plus else None)
    rest = {key: submissions[key] for key in submissions if key not in verdicts}
    if not rest:
        return {key: verdicts[key] for key in submissions}
    if long := [key for key in rest if len(rest[key].solution) > LONG]:
        log.warning(
            "%s: %d solutions have more than %d characters; they are run all the same: %s",
            *(where, len(long), LONG, first_few(long)),
        )
    with Pool(kind, settings, allowed(threads), where, python) as pool:
        order = sorted(rest, key=lambda key: may_take_long(kind, rest[key]), reverse=True)
        run = pool.run({key: rest[key] for key in order})
        for key, verdict in bar(run, description=description, total=len(rest), unit="problem"):
            verdicts[key] = verdict
            if not suspect(kind, verdict, settings):
                if journal:
                    journal.add(key, verdict)
            elif capped(verdict, settings):
                log.warning(
                    "%s: no pass within %.0f s, the most that EvalPlus allows (its canonical "
                    "solution takes %.0f s here); it is run again, alone, when the others are done",
                    *(rest[key].problem["task_id"], verdict.limit, verdict.canonical_seconds),
                )
        suspects = {key: rest[key] for key in rest if suspect(kind, verdicts[key], settings)}
        for key, verdict in second_looks(pool, suspects, verdicts, settings, where):
            verdicts[key] = verdict
            if journal:
                journal.add(key, verdict)
    return {key: verdicts[key] for key in submissions}


def suspect(kind: str, verdict: Verdict, settings: ScoreSettings) -> bool:
    """Whether the machine may have decided, by its speed or for lack of memory."""
    if verdict.base == CRASHED:
        return True
    return (
        programs_of(kind).tight_limits
        and not verdict.passed
        and verdict.base != EMPTY
        and verdict.seconds >= settings.min_time_limit
    )


def capped(verdict: Verdict, settings: ScoreSettings) -> bool:
    """Whether EvalPlus's own cap bounds the time, 60 s for each part of the tests."""
    seconds, limit = verdict.canonical_seconds, verdict.limit
    if seconds is None or limit is None:
        return False
    return settings.gt_time_limit_factor * seconds > limit


class TooSlow(UserError):
    """A canonical solution did not pass within the limits."""


def second_looks(
    pool: Pool,
    suspects: Mapping[str, Submission],
    firsts: Mapping[str, Verdict],
    settings: ScoreSettings,
    where: str,
) -> Iterator[tuple[str, Verdict]]:
    """The verdicts of programs that run alone. What cannot be judged waits for the others.

    Raises:
        TooSlow: naming the problems whose canonical solution fails a second time, once all others
            have their verdicts; before that, if there are more than SLOW_PROBLEMS of them.
    """
    waiting = dict(suspects)
    for last in (False, True):
        slow: dict[str, TooSlow] = {}  # by problem
        for key, submission in suspects.items():
            problem = submission.problem["task_id"]
            if key not in waiting or problem in slow or len(slow) > SLOW_PROBLEMS:
                continue
            try:
                verdict = second_look(pool, submission, firsts[key], settings, where)
            except TooSlow as error:
                slow[problem] = error
                if not last:
                    log.warning("%s. It is tried once more, behind the others", error)
            else:
                del waiting[key]
                yield key, verdict
        if not slow:
            return
        if len(slow) > SLOW_PROBLEMS:
            break
    also = f" ({len(slow)} problems: {first_few(list(slow))})" if len(slow) > 1 else ""
    raise TooSlow(
        f"{next(iter(slow.values()))}{also}. The other verdicts are kept: started again, only what "
        "has none is run"
    )


def second_look(
    pool: Pool, submission: Submission, first: Verdict, settings: ScoreSettings, where: str
) -> Verdict:
    """The verdict of a program that runs alone, after its problem's canonical solution.

    A kind with a ground truth runs no canonical solution here: some of them may fail.

    Raises:
        TooSlow: if the canonical solution does not pass within the limits.
    """
    problem = submission.problem
    canonical = Submission(problem, programs_of(pool.kind).canonical(problem))
    if not kind_of(pool.kind).ground_truth and not (right := pool.alone(canonical)).passed:
        status = f"{right.base}/{right.plus} after {right.seconds:.1f} s"
        least = f"{settings.min_time_limit:g} s"
        advice = f"a quieter one, or raise --min-time-limit (now {least}) and say so"
        if capped(right, settings):
            status += (
                f"; it takes {right.canonical_seconds:.0f} s here, of at most {right.limit:.0f}"
            )
            advice = "a quieter or faster one, since no setting allows a program more"
        raise TooSlow(
            f"{where}, {problem['task_id']}: the canonical solution, run alone, does not pass "
            f"within the time limits ({status}), so this machine is too slow or too busy for a "
            f"fair score; use {advice}"
        )
    again = pool.alone(submission)
    if (again.base, again.plus) != (first.base, first.plus):
        log.info(
            "%s: %s/%s beside other programs, %s/%s alone, which counts",
            *(problem["task_id"], first.base, first.plus, again.base, again.plus),
        )
    return again


def may_take_long(kind: str, submission: Submission) -> tuple[bool, int]:
    """What is started first, so that no slow program is left for the end.

    Programs that loop may loop forever, and tests with larger inputs take longer.
    """
    plus = kind_of(kind).plus
    inputs = len(pickle.dumps(submission.problem["plus_input"])) if plus else 0
    return "while " in submission.solution, inputs


def allowed(threads: int) -> int:
    """As many workers as asked for, but no more than there are CPUs for them."""
    cpus = cores()
    if threads > cpus:
        log.warning(
            "%d threads were asked for, but this process may use %d CPUs: %d workers, since "
            "programs that wait for a CPU would meet their time limits",
            *(threads, cpus, cpus),
        )
    return min(threads, cpus)


def patience(limit: float) -> float:
    """Seconds to wait for a check whose own limits allow ``limit``; beyond, it hangs.

    A program that is looked at from outside runs more than once, with longer limits.
    """
    return max(STEP_LIMIT, 6 * limit)


# ------------------------------------------------------------------ what a verdict depends on


def conditions_of(
    kind: str, settings: ScoreSettings, problems: Path | None = None, python: str | None = None
) -> dict[str, Any]:
    """What verdicts depend on, as keys of a score's summary.

    Raises:
        UserError: if the workers' environment cannot score this kind.
    """
    return {
        **({} if problems is None else {"problems_sha256": problems_digest(problems)}),
        "settings": settings.model_dump(mode="json"),
        "sandbox": choose(settings.sandbox),
        "versions": versions_of(kind, python),
    }


def fingerprint_of(kind: str, conditions: Mapping[str, Any], *others: Any) -> str:
    """Of all that verdicts depend on: :func:`conditions_of` without what only changes the speed."""
    settings = {
        name: value
        for name, value in conditions["settings"].items()
        if name not in ScoreSettings.speed_fields()
    }
    return json.dumps([kind, {**conditions, "settings": settings}, *others], sort_keys=True)


VERSIONS = """
import hashlib, importlib.metadata as m, json, platform, sys
versions = {name: m.version(name) for name in sys.argv[2:]}
if sys.argv[1] != "main":
    names = sorted({f"{d.metadata['Name']}=={d.version}" for d in m.distributions()})
    text = "\\n".join(names).lower().encode()
    versions["environment"] = hashlib.sha256(text).hexdigest()[:16]
print(json.dumps({"python": platform.python_version(), **versions}))
"""


def versions_of(kind: str, python: str | None) -> dict[str, str]:
    """Versions of what decides a verdict, in the workers' environment.

    Programs of a kind with an environment of its own use many libraries, so ``environment`` is a
    digest of all that is installed there.

    Raises:
        UserError: if that environment lacks the kind's scorer.
    """
    library = programs_of(kind).library
    packages = [] if library is None else [library, "numpy"]
    interpreter = interpreter_of(python)
    command = [interpreter, "-c", VERSIONS, kind_of(kind).environment, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UserError(
            f"{interpreter}: this environment cannot score {kind}: {reason[0]}; it needs "
            f"{', '.join(packages)} (see envs/)"
        )
    return {"fgit": fgit.__version__, **json.loads(done.stdout)}


# ------------------------------------------------------------------ the journal


class VerdictEntry(Entry):
    """The verdict on a program, in the scoring of which ``of`` is the digest."""

    of: str
    key: str
    verdict: Verdict


class VerdictJournal(Journal[VerdictEntry]):
    """The verdicts of one scoring on disk: ``fingerprint`` says which."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        super().__init__(path, VerdictEntry)
        self.of = hashlib.sha256(fingerprint.encode()).hexdigest()
        self.verdicts: dict[str, Verdict] = {}

    def opened(self) -> int:
        """The file, for this process alone.

        Raises:
            UserError: if another process writes it now.
        """
        descriptor = super().opened()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"{self.path}: another fgit score writes there now; wait for it, or choose another "
                "--out"
            ) from error
        return descriptor

    def take(self, entry: VerdictEntry) -> None:
        if entry.of == self.of:
            self.verdicts[entry.key] = entry.verdict

    def add(self, key: str, verdict: Verdict) -> None:
        self.verdicts[key] = verdict
        self.append(VerdictEntry(of=self.of, key=key, verdict=verdict))


# ------------------------------------------------------------------ the workers


class Pool:
    """Workers that each check one program at a time: as many as ``count``."""

    def __init__(
        self,
        kind: BenchmarkKind,
        settings: ScoreSettings,
        count: int,
        where: str,
        python: str | None = None,
    ) -> None:
        self.kind = kind
        self.settings = settings
        self.where = where
        strength = choose(settings.sandbox)
        limits = Limits(settings.memory_mb, settings.disk_mb, settings.processes)
        interpreter = interpreter_of(python)
        self.workers = [Worker(kind, Box(strength, limits, interpreter)) for _ in range(count)]
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self.idle.put(worker)
        self.threads = ThreadPoolExecutor(max_workers=count)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        # What waits must not start once the workers are gone.
        self.threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.workers:
            worker.stop()

    def run(self, submissions: Mapping[str, Submission]) -> Iterator[tuple[str, Verdict]]:
        """The verdicts as they come; the submissions are begun in their order."""
        futures = {self.threads.submit(self.alone, submissions[key]): key for key in submissions}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def alone(self, submission: Submission) -> Verdict:
        worker = self.idle.get()
        try:
            where = f"{self.where}, {submission.problem['task_id']}"
            return worker.check(submission, self.settings, where)
        finally:
            self.idle.put(worker)


def interpreter_of(python: str | None) -> str:
    """The path of the workers' interpreter, absolute, since they start in folders of their own.

    Raises:
        UserError: if it is not there.
    """
    if python is None:
        return sys.executable
    path = shutil.which(python)
    if path is None:
        raise UserError(
            f"{python}: there is no such interpreter; build the environment (see envs/), or fix "
            "the key python of the config"
        )
    return str(Path(path).absolute())  # not resolved: a link may be all that makes an environment


class Worker:
    """A worker process: started on first use, and anew when a solution took the last one down."""

    def __init__(self, kind: BenchmarkKind, box: Box) -> None:
        self.kind = kind
        self.box = box
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def check(self, submission: Submission, settings: ScoreSettings, where: str) -> Verdict:
        """The verdict on a submission.

        Raises:
            UserError: if the worker does not start, or the canonical solution fails.
        """
        message = {
            "problem": dict(submission.problem),
            "solution": submission.solution,
            **settings.model_dump(include={"min_time_limit", "gt_time_limit_factor"}),
        }
        plus = kind_of(self.kind).plus
        try:
            process, expected = self.begin(message, where)
        except WorkerLost:
            # No solution has run yet: the last one may have left a worker that was about to end.
            self.box.stop()
            process, expected = self.begin(message, where)
        if expected is None:  # to be looked at again
            return Verdict(TIMEOUT, TIMEOUT if plus else None, STEP_LIMIT)
        started = time.monotonic()
        try:
            result = self.receive(process, where, patience(expected["limit"]))
        except WorkerLost as lost:
            if self.stopped:
                raise
            self.box.stop()
            seconds = round(time.monotonic() - started, 3)
            status = TIMEOUT if lost.timed_out else CRASHED
            why = f", {self.box.killed}" if self.box.killed else ""
            log.warning("%s: the solution took its worker process down (%s%s)", where, status, why)
            return Verdict(status, status if plus else None, seconds)
        parts = [expected[key] for key in ("base_seconds", "plus_seconds") if key in expected]
        return Verdict(
            base=result["base"],
            plus=result["plus"],
            seconds=round(result["seconds"], 3),
            limit=result["limit"],
            canonical_seconds=round(sum(parts), 3) if parts else None,
        )

    def begin(
        self, message: dict[str, Any], where: str
    ) -> tuple[subprocess.Popen[bytes], dict[str, Any] | None]:
        """The worker's process, handed a submission, and its word on the canonical solution.

        None in place of the latter, if one that is timed takes more than STEP_LIMIT.
        """
        process = self.running()
        assert process.stdin is not None
        try:
            with self.within(STEP_LIMIT):
                pickle.dump(message, process.stdin, protocol=4)
                process.stdin.flush()
        except OSError as error:
            raise WorkerLost(where, timed_out=False, errors=self.box.errors()) from error
        try:
            return process, self.receive(process, f"{where}: the canonical solution does not run")
        except WorkerLost as lost:
            if not lost.timed_out or self.stopped or not programs_of(self.kind).tight_limits:
                raise
            log.warning("%s: its canonical solution takes more than %.0f s", where, STEP_LIMIT)
            return process, None

    def running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            if self.stopped:
                raise WorkerLost("scoring was stopped", timed_out=False)
            scorer = programs_of(self.kind).scorer
            self.process = self.box.start(Path(__file__).with_name("worker"), scorer)
            self.receive(self.process, f"the worker process for {self.kind} did not start")
        return self.process

    def receive(
        self, process: subprocess.Popen[bytes], what: str, seconds: float = STEP_LIMIT
    ) -> dict[str, Any]:
        """The worker's next answer, within so many seconds.

        Raises:
            WorkerLost: if there is none.
            UserError: if the worker reports an error.
        """
        assert process.stdout is not None
        with self.within(seconds) as timed_out:
            line = process.stdout.readline()
        if not line:
            raise WorkerLost(what, timed_out.is_set(), self.box.errors())
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise UserError(f"{what}: {message['error']}")
        return message

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[threading.Event]:
        """Stop the box, and set the event, if what is in the block takes longer."""
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            self.box.stop()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield timed_out
        finally:
            timer.cancel()

    def stop(self) -> None:
        self.stopped = True
        self.box.stop()


class WorkerLost(UserError):
    """A worker process ended, or was ended since it took too long, before it answered."""

    def __init__(self, what: str, timed_out: bool, errors: str = "") -> None:
        reason = "no answer in time" if timed_out else "the process ended"
        super().__init__(f"{what}: {reason}" + (f" ({errors})" if errors else ""))
        self.timed_out = timed_out
