"""Scoring what a model wrote: its solutions run against a benchmark's tests, in the sandbox.

Pairs of code have a score of their own (:mod:`fgit.score.preferences`).
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fgit.benchmarks.kinds import kind_of, programs_of
from fgit.benchmarks.problems import first_few, problems_digest, read_problems, samples_by_task
from fgit.common import files
from fgit.common.errors import UserError
from fgit.common.processes import cores
from fgit.common.statistics import wilson
from fgit.config import BenchmarkKind, ScoreSettings
from fgit.sandbox.pool import (
    EMPTY,
    PASS,
    Submission,
    Verdict,
    VerdictJournal,
    allowed,
    check_programs,
    conditions_of,
    fingerprint_of,
    interpreter_of,
)
from fgit.score.preferences import score_pairs
from fgit.scores import AGAIN, TESTS, read_outcomes, read_summary, write_summary
from fgit.stage_reports import counts_of
from fgit.steps import CANONICAL_RUN

log = logging.getLogger(__name__)

PROGRAM_OUTCOMES = {
    "task_id": pl.String,
    "base_pass": pl.Boolean,
    "plus_pass": pl.Boolean,
    "solution": pl.String,
    "base_status": pl.String,
    "plus_status": pl.String,
}
TIMES = {
    "task_id": pl.String,
    "seconds": pl.Float64,
    "limit": pl.Float64,
    "canonical_seconds": pl.Float64,
}
ONE_BOS = "\0one BOS"  # behind the task_id of a problem's second solution, in a verdict's key


def score(
    kind: BenchmarkKind,
    problems: Path,
    samples: str | Path,
    out: Path,
    settings: ScoreSettings,
    one_bos: Path | None = None,
    ground_truth: Path | None = None,
    threads: int | None = None,
    python: str | None = None,
    sha256: str | None = None,
    leave_out_others: bool = False,
) -> None:
    """Score one solution per problem. Started again after it died, it goes on.

    Of pairs of code the probabilities are compared instead, for which ``problems``, ``samples`` and
    ``sha256`` suffice (:func:`fgit.score.preferences.score_pairs`). For programs it writes
    in the folder ``out``:

    * ``outcomes.parquet``, a row per problem in the problems' order: task_id, base_pass (passes
      the base tests), plus_pass (passes the base and the plus tests; null for kinds that have
      none), solution, base_status and plus_status (pass, fail, timeout, empty, crashed, forged);
    * ``times.parquet``: task_id, and in seconds what the check took, its limit, and what the
      canonical solution took;
    * ``summary.json``: n, pass@1 for base and plus as fractions, their 95 % Wilson intervals, and
      what they were scored with.

    Nothing in ``outcomes.parquet`` depends on time or order of the run, except that a solution near
    its time limit may pass once and fail once, even alone
    (:func:`fgit.sandbox.pool.check_programs`).

    Args:
        samples: JSONL rows of ``task_id`` and ``solution`` (a whole program), or ``completion``
            (what follows the prompt); or ``canonical``, which scores the canonical solutions.
        one_bos: more samples, asked with one BOS token where EvalPlus gives two; no rows where
            that is no difference. Their score is ``one_bos`` in the summary.
        ground_truth: the ``summary.json`` of scoring ``canonical`` in the same environment; for
            BigCodeBench it is made first if none is given.
        threads: worker processes; by default, the CPUs that this process may use.
        python: the interpreter of the workers, if the benchmark has an environment of its own.
        sha256: the digest that the problem file must have.
        leave_out_others: whether samples may be of more problems than the file has.

    Raises:
        UserError: if the samples do not name each problem exactly once, a canonical solution
            fails (BigCodeBench: too many of them), or the machine is too slow.
    """
    if kind_of(kind).programs is None:
        score_pairs(kind, problems, samples, out, sha256)
        return
    started = time.monotonic()
    problems = files.resolve(os.fspath(problems))
    programs = programs_of(kind)
    by_id = read_problems(kind, problems, sha256)
    threads = allowed(threads or cores())
    conditions = conditions_of(kind, settings, problems, python)
    second_solutions: dict[str, str] = {}  # to prompts with one BOS
    truth = digest_of_samples = None
    if os.fspath(samples) == CANONICAL_RUN:
        solutions = {task: programs.canonical(problem) for task, problem in by_id.items()}
    else:
        solutions = read_solutions(kind, by_id, samples, others=leave_out_others)
        digest_of_samples = files.sha256(samples)
        if one_bos is not None:
            second_solutions = read_solutions(kind, by_id, one_bos, or_none=True)
        truth = check_ground_truth(
            *(kind, problems, out, settings, conditions, ground_truth, threads, python)
        )
    if empty := [task_id for task_id, solution in solutions.items() if not solution.strip()]:
        log.warning(
            "%d of %d solutions are empty and count as failures: %s",
            *(len(empty), len(solutions), first_few(empty)),
        )
    submissions = {task_id: Submission(by_id[task_id], text) for task_id, text in solutions.items()}
    submissions |= {
        task_id + ONE_BOS: Submission(by_id[task_id], text)
        for task_id, text in second_solutions.items()
        if text != solutions[task_id]
    }
    digest = hashlib.sha256()
    for key, submission in submissions.items():
        digest.update(f"{key}\0{submission.solution}\0".encode("utf-8", "replace"))
    fingerprint = fingerprint_of(kind, conditions, digest.hexdigest())
    with VerdictJournal(out / "journal.jsonl", fingerprint) as journal:
        if journal.verdicts:
            log.info("%d of %d verdicts are there already", len(journal.verdicts), len(submissions))
        verdicts = check_programs(
            *(kind, submissions, settings),
            threads=threads,
            where=str(problems),
            python=python,
            journal=journal,
        )
        frame = program_outcomes(kind, solutions, verdicts)
        # An older summary must not stand beside new outcomes.
        files.remove(out / "summary.json")
        files.write_parquet(out / "outcomes.parquet", frame)
        files.write_parquet(out / "times.parquet", times(solutions, verdicts))
        summary = {
            "benchmark": kind,
            "n": frame.height,
            **pass_shares(frame),
            "one_bos": None,
            "statuses": status_counts(frame),
            "ground_truth": truth,
            "problems": str(problems),
            "samples_sha256": digest_of_samples,
            "scorer": programs.library or "fgit",
            **conditions,
            "threads": threads,
            "seconds": round(time.monotonic() - started, 1),
        }
        files.remove(out / "outcomes_one_bos.parquet")
        if second_solutions:
            second_verdicts = {
                task: verdicts.get(task + ONE_BOS, verdicts[task]) for task in second_solutions
            }
            second_frame = program_outcomes(kind, second_solutions, second_verdicts)
            files.write_parquet(out / "outcomes_one_bos.parquet", second_frame)
            summary["one_bos"] = pass_shares(second_frame)
        write_summary(out, summary)
        journal.remove()
    log.info("%s", summary_text(summary))
    if conditions["sandbox"] == "rlimits":
        log.warning(
            "the programs ran without bubblewrap, under limits only: they could read files and "
            "use the network"
        )


def summary_text(summary: Mapping[str, Any]) -> str:
    base, plus = summary["pass@1"]["base"], summary["pass@1"]["plus"]
    return (
        f"{summary['benchmark']}: pass@1 {base:.3f} base"
        f"{'' if plus is None else f', {plus:.3f} plus'}, {summary['n']} problems, "
        f"sandbox {summary['sandbox']}, {summary['seconds']:.0f} s"
    )


def pass_shares(frame: pl.DataFrame) -> dict[str, Any]:
    """pass@1 and its 95 % interval, by tests, as fractions."""
    passed = {
        tests: None if frame[f"{tests}_pass"].null_count() else int(frame[f"{tests}_pass"].sum())
        for tests in TESTS
    }
    n = frame.height
    return {
        "pass@1": {tests: None if k is None else k / n for tests, k in passed.items()},
        "interval": {
            tests: None if k is None else list(wilson(k, n)) for tests, k in passed.items()
        },
    }


def status_counts(frame: pl.DataFrame) -> dict[str, dict[str, int] | None]:
    """How often each status came, by tests."""
    return {tests: counts_of(frame[f"{tests}_status"].drop_nulls()) or None for tests in TESTS}


def read_solutions(
    kind: BenchmarkKind,
    problems: Mapping[str, Mapping[str, Any]],
    samples: str | Path,
    *,
    or_none: bool = False,
    others: bool = False,
) -> dict[str, str]:
    """The solution of every problem, in the problems' order; with ``or_none``, or no solution.

    Args:
        others: whether samples of other problems are left out.

    Raises:
        UserError: as :func:`fgit.benchmarks.problems.samples_by_task`, and for a solution that is
            no text.
    """
    solutions: dict[str, str] = {}
    rows = samples_by_task(problems, samples, or_none=or_none, others=others)
    for task_id, (where, row) in rows.items():
        field = "solution" if "solution" in row else "completion"
        if not isinstance(text := row.get(field), str):
            raise UserError(
                f"{where}: "
                + (f"{field!r} is {text!r:.60}, not text" if field in row else "no 'solution'")
            )
        whole = field == "solution"
        solutions[task_id] = text if whole else programs_of(kind).program(problems[task_id], text)
    return solutions


def program_outcomes(
    kind: BenchmarkKind, solutions: Mapping[str, str], verdicts: Mapping[str, Verdict]
) -> pl.DataFrame:
    """A row per problem; plus_pass is base *and* plus, as EvalPlus counts."""
    rows = [
        {
            "task_id": task_id,
            "base_pass": verdicts[task_id].base == PASS,
            "plus_pass": verdicts[task_id].passed if kind_of(kind).plus else None,
            # Parquet holds UTF-8, which has no lone surrogates.
            "solution": solution.encode("utf-8", "replace").decode("utf-8"),
            "base_status": verdicts[task_id].base,
            "plus_status": verdicts[task_id].plus,
        }
        for task_id, solution in solutions.items()
    ]
    return pl.DataFrame(rows, schema=PROGRAM_OUTCOMES)


def times(solutions: Mapping[str, str], verdicts: Mapping[str, Verdict]) -> pl.DataFrame:
    """Seconds of each check; nothing for empty solutions, which are not run."""
    rows = [
        {
            "task_id": task_id,
            "seconds": None if verdicts[task_id].base == EMPTY else verdicts[task_id].seconds,
            "limit": verdicts[task_id].limit,
            "canonical_seconds": verdicts[task_id].canonical_seconds,
        }
        for task_id in solutions
    ]
    return pl.DataFrame(rows, schema=TIMES)


# ------------------------------------------------------------------ the ground truth


def check_ground_truth(
    kind: BenchmarkKind,
    problems: Path,
    out: Path,
    settings: ScoreSettings,
    conditions: Mapping[str, Any],
    ground_truth: Path | None,
    threads: int,
    python: str | None,
) -> dict[str, Any] | None:
    """The share of canonical solutions that pass here, and those that do not; None for EvalPlus.

    EvalPlus needs the canonical solutions for its expected outputs, so none of them can fail
    unnoticed. BigCodeBench's tests stand alone: where a library is missing or has another version,
    they would fail every solution without a word.

    Args:
        conditions: of this scoring; a ground truth of other problems or versions is none.
        ground_truth: the summary of scoring the canonical solutions; if None, it is made in
            ``out``, unless it lies there already.

    Raises:
        UserError: if the share is below ``settings.min_ground_truth``, or ``ground_truth`` is of
            other problems or versions.
    """
    if not kind_of(kind).ground_truth:
        return None
    path = ground_truth or out / "ground_truth" / "summary.json"
    folder = path.parent
    if ground_truth is None and (not path.exists() or unlike(folder, conditions)):
        log.info("Running the canonical solutions first: the environment must be the right one")
        score(kind, problems, CANONICAL_RUN, folder, settings, threads=threads, python=python)
    if reason := unlike(folder, conditions):
        raise UserError(f"{path}: {reason}; score the canonical solutions again")
    frame = read_outcomes(folder, kind)
    failing = frame.filter(~pl.col("base_pass"))["task_id"].to_list()
    share = 1 - len(failing) / frame.height
    if share < settings.min_ground_truth:
        raise UserError(
            f"{problems}: {len(failing)} of {frame.height} canonical solutions fail in the "
            f"environment of {interpreter_of(python)} ({share:.3f} pass, at least "
            f"{settings.min_ground_truth:g} must): {first_few(failing, 20)}. Install what "
            "envs/bigcodebench.txt names, or lower --min-ground-truth and say so"
        )
    if failing:
        log.warning("%d canonical solutions fail here: %s", len(failing), first_few(failing))
    return {"passing": share, "failing": failing}


def unlike(folder: Path, conditions: Mapping[str, Any]) -> str:
    """Why a score is no ground truth under these conditions; '' if it is."""
    summary = read_summary(folder)
    if summary.samples_sha256 is not None:
        return "this is not the score of the canonical solutions"
    for key in ("problems_sha256", "versions"):
        if (value := getattr(summary, key)) != conditions[key]:
            return f"made with other {key} ({value}) than this scoring"
    return ""


# ------------------------------------------------------------------ a part of a larger benchmark


def score_part(
    kind: BenchmarkKind, problems: Path, whole: Path, out: Path, *, sha256: str | None = None
) -> None:
    """The score on a part of a benchmark (BigCodeBench Hard), from the outcomes on all of it.

    Args:
        problems: the part's problem file.
        whole: the score folder of the whole.

    Raises:
        UserError: if a problem is not among the whole's, or is another one there.
    """
    programs = programs_of(kind)
    problems = files.resolve(os.fspath(problems))
    part = read_problems(kind, problems, sha256)
    summary = read_summary(whole)
    if summary.benchmark != kind:
        raise UserError(f"{whole}: scores of {summary.benchmark!r}, not of {kind!r}")
    if summary.problems is None:
        raise UserError(f"{whole / 'summary.json'}, key 'problems': missing; {AGAIN}")
    scored = set(read_outcomes(whole, kind)["task_id"])
    if missing := [task_id for task_id in part if task_id not in scored]:
        raise UserError(
            f"{problems}: {len(missing)} problems are not among those of {whole}: "
            f"{first_few(missing)}; is it a part of another benchmark or version?"
        )
    if not Path(summary.problems).exists():
        log.warning(
            "%s is not there any more: that its problems are those of %s was not checked",
            *(summary.problems, problems),
        )
    else:
        other = read_problems(kind, summary.problems, summary.problems_sha256)
        fields = (programs.head, *programs.tests)
        if differing := [
            task_id
            for task_id, problem in part.items()
            if any(problem[field] != other[task_id][field] for field in fields)
        ]:
            raise UserError(
                f"{problems}: {len(differing)} problems differ from those of the same name in "
                f"{summary.problems}: {first_few(differing)}; take both from one version"
            )
    order = pl.DataFrame({"task_id": list(part)})

    def take_rows(name: str) -> pl.DataFrame:
        """The part's rows of a file of the whole, in the part's order."""
        layout = files.Layout({"task_id": pl.String}, key=("task_id",), advice=AGAIN)
        whole_rows = files.read_parquet(whole / name, layout)
        rows = order.join(whole_rows, on="task_id", how="left", maintain_order="left")
        files.write_parquet(out / name, rows)
        return rows

    files.remove(out / "summary.json")
    frame = take_rows("outcomes.parquet")
    take_rows("times.parquet")
    truth = summary.ground_truth
    values = files.read_json(whole / "summary.json") | {
        "n": frame.height,
        **pass_shares(frame),
        "one_bos": None,
        "statuses": status_counts(frame),
        "ground_truth": truth
        and truth.model_dump()
        | {"failing": [task_id for task_id in truth.failing if task_id in part]},
        "problems": str(problems),
        "problems_sha256": problems_digest(problems),
        "part_of": {"folder": str(whole), "problems_sha256": summary.problems_sha256},
    }
    files.remove(out / "outcomes_one_bos.parquet")
    if summary.one_bos:
        values["one_bos"] = pass_shares(take_rows("outcomes_one_bos.parquet"))
    write_summary(out, values)
    log.info("%s", summary_text(values))
