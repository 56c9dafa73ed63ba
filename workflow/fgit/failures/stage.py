"""``fgit failures``: how far the failing programs of scored runs are from passing ones."""

import itertools
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from fgit.benchmarks.kinds import kind_of
from fgit.benchmarks.problems import problems_digest, read_problems
from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import BenchmarkKind
from fgit.failures.analysis import (
    CANONICAL_SOURCE,
    OneSided,
    RunPrograms,
    analyse,
    distinct_passing,
    failure_figures,
    solved_only_by,
)
from fgit.report.failures import as_markdown, standalone
from fgit.scores import read_outcomes, read_summary


def failures(
    runs: Mapping[str, Path],
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    out: Path,
    *,
    tests: str | None = None,
    sha256: str | None = None,
) -> str:
    """Analyse the failures of scored runs on one benchmark.

    The passing programs are the canonical solutions, without those that failed where a run was
    scored, and what the runs solved. Writes in the folder ``out``:

    * ``failures.parquet``: ``run``, then the columns of
      :data:`fgit.failures.analysis.FAILURE_SCHEMA`; a row for each failure;
    * ``summary.json``: :func:`fgit.failures.analysis.failure_figures` of each run, and
      :class:`fgit.failures.analysis.OneSided` figures of each ordered pair;
    * ``failures.html``: the figures, and each pair's programs side by side.

    Args:
        runs: the folders that the score stage wrote, by name.
        tests: ``base``, or ``plus`` for base and plus tests; by default plus, where there are any.

    Returns:
        The figures as a Markdown table.

    Raises:
        UserError: naming folder, file or problem, if a score cannot be read, has no such tests, or
            was scored on other problems.
    """
    if (kind_programs := kind_of(kind).programs) is None:
        raise UserError(f"kind {kind} has no programs that could fail; name a benchmark with tests")
    if CANONICAL_SOURCE in runs:
        raise UserError(f"no run can be called {CANONICAL_SOURCE!r}; choose another name")
    problems = files.resolve(os.fspath(problems))
    by_id = read_problems(kind, problems, sha256)
    digest = problems_digest(problems)
    broken = {task for folder in runs.values() for task in broken_in(folder, problems, digest)}
    frames = {name: outcomes_of(folder, kind, by_id) for name, folder in runs.items()}
    without_plus = [name for name, frame in frames.items() if frame["plus_pass"].null_count()]
    tests = tests or ("base" if without_plus else "plus")
    if tests == "plus" and without_plus:
        raise UserError(f"{runs[without_plus[0]]}: it has no plus tests; use --tests base")
    programs = {name: RunPrograms.of(frame, tests) for name, frame in frames.items()}
    canonical = {
        task_id: kind_programs.canonical(problem)
        for task_id, problem in by_id.items()
        if task_id not in broken
    }
    passing = distinct_passing(canonical, programs)
    distances = {name: analyse(run.failing, passing) for name, run in programs.items()}
    gaps = [
        OneSided(solver, other, sides, solved_only_by(*sides, distances[other]))
        for solver, other in itertools.permutations(programs, 2)
        for sides in [(programs[solver], programs[other])]
    ]
    figures = {
        "benchmark": kind,
        "tests": tests,
        "problems": str(problems),
        "problems_sha256": digest,
        "runs": {
            name: {"folder": str(runs[name])} | failure_figures(f) for name, f in distances.items()
        },
        "pairs": [{"solved_by": gap.solver, "not_by": gap.other} | gap.figures for gap in gaps],
    }
    rows = [frame.select(pl.lit(name).alias("run"), pl.all()) for name, frame in distances.items()]
    files.write_parquet(out / "failures.parquet", pl.concat(rows))
    files.write_json(out / "summary.json", figures)
    files.write_text(out / "failures.html", standalone(figures, gaps))
    return as_markdown(figures)


def broken_in(folder: Path, problems: Path, digest: str) -> list[str]:
    """The task_ids whose canonical solutions failed where a run was scored, as far as is known.

    A score of another problem file is refused: its canonical solutions may be others.
    """
    if not (folder / "summary.json").exists():
        return []
    summary = read_summary(folder)
    if summary.problems_sha256 != digest:
        raise UserError(
            f"{folder / 'summary.json'}: scored on problems with SHA-256 {summary.problems_sha256},"
            f" but those of {problems} have {digest}; give the file that was used, or score again"
        )
    return summary.ground_truth.failing if summary.ground_truth else []


def outcomes_of(folder: Path, kind: BenchmarkKind, tasks: Collection[str]) -> pl.DataFrame:
    """A score's outcomes with their programs.

    Raises:
        UserError: if these are no outcomes, or a problem is unknown.
    """
    frame = read_outcomes(folder, kind)
    path = folder / "outcomes.parquet"
    for task_id in frame["task_id"]:
        if task_id not in tasks:
            raise UserError(
                f"{path}: there is no problem {task_id!r} in the problem file; "
                "name the file of the benchmark that was scored"
            )
    return frame
