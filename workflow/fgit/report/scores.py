"""What the runs scored, as the score stage wrote it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from fgit.benchmarks.kinds import kind_of
from fgit.common.errors import UserError
from fgit.common.files import existing, read_parquet
from fgit.config import Config
from fgit.report.facts import Facts
from fgit.runs import Run, evaluations

TESTS = ("base", "plus")
STRONG = "bwrap"


@dataclasses.dataclass(frozen=True)
class Score:
    """How many of ``n`` problems one solution each solved.

    ``low`` and ``high`` are the 95 % Wilson interval of the share, as fractions.
    """

    n: int
    passed: int
    low: float
    high: float

    @property
    def percent(self) -> float:
        """pass@1 in percent."""
        return 100 * self.passed / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of pass@1, in percent."""
        return 100 * self.low, 100 * self.high


@dataclasses.dataclass(frozen=True)
class Gap:
    """By how much the correct side of a pair is the more probable one: mean and 95 % interval.

    ``n`` is the number of pairs whose sides could be compared.
    """

    n: int
    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run on a benchmark: a score by tests (``base``, ``plus``), and every problem's outcome.

    On pairs of code (kind ``pairs``) a problem is a pair, and it is solved if the model finds the
    correct side the more probable one; only they have a ``gap``, and no program of them is run, so
    that they have no ``sandbox``.
    """

    kind: str
    scores: dict[str, Score]
    one_bos: dict[str, Score]  # asked with one BOS token, where EvalPlus gives two; else empty
    gap: Gap | None  # None also where no pair could be compared
    outcomes: pl.DataFrame  # task_id, and for each tests a column :func:`outcome_of`
    problems_sha256: str
    sandbox: str | None
    summary: Facts

    def solved(self, tests: str) -> npt.NDArray[np.float64]:
        """Whether each problem is solved, 0 or 1, in the order of the outcomes; shape (n,)."""
        return self.outcomes[outcome_of(self.kind, tests)].cast(pl.Float64).to_numpy()

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        """Each pair's gap, in the order of the outcomes; NaN where it has none; shape (n,)."""
        gaps = self.outcomes["p_correct"] - self.outcomes["p_incorrect"]
        return gaps.cast(pl.Float64).fill_null(float("nan")).to_numpy()


Evaluations = Mapping[tuple[str, str], Evaluation]  # by run name and benchmark


def read_evaluations(
    config: Config, results: Path, tables: Iterable[str] | None = None
) -> dict[tuple[str, str], Evaluation]:
    """Every evaluation that tables ask for (None: all of the config's) and that is scored.

    Raises:
        UserError: naming the file, if it cannot be read, lacks something, or was scored on other
            problems than the rest.
    """
    found: dict[tuple[str, str], Evaluation] = {}
    first: dict[str, tuple[Path, Evaluation]] = {}
    for run, benchmark in evaluations(config, config.tables if tables is None else tables):
        folder = results / "score" / run / benchmark
        if not (folder / "summary.json").exists():
            continue
        evaluation = read_evaluation(folder)
        kind = config.benchmarks[benchmark].kind
        if evaluation.kind != kind:
            reason = f"{evaluation.kind!r}, but the config says that {benchmark} is {kind!r}"
            raise evaluation.summary.wrong("benchmark", reason)
        found[run, benchmark] = evaluation
        other, expected = first.setdefault(benchmark, (folder, evaluation))
        if tested(evaluation) != tested(expected):
            raise UserError(
                f"{folder / 'outcomes.parquet'}: not the problems or tests of "
                f"{other / 'outcomes.parquet'}, so the runs cannot be compared on {benchmark}; "
                "score both on one problem file"
            )
    return found


def tested(evaluation: Evaluation) -> tuple[Any, ...]:
    """What two evaluations must share to be compared."""
    tasks = evaluation.outcomes["task_id"].to_list()
    return tasks, list(evaluation.scores), evaluation.problems_sha256


def read_evaluation(folder: Path) -> Evaluation:
    """The score of one run on one benchmark, as the score stage writes it.

    Raises:
        UserError: naming file and key, if something is missing (an older layout is scored again)
            or summary and outcomes do not agree.
    """
    summary = Facts.read(folder / "summary.json", "score")
    n = summary.count("n")
    if n == 0:
        raise summary.wrong("n", "no problem was scored")
    kind = text_of(summary, "benchmark")
    scores = read_scores(summary, n)
    path = existing(folder / "outcomes.parquet")
    outcomes = read_parquet(path)
    pairs = kind_of(kind).programs is None
    columns = ["task_id", *dict.fromkeys(outcome_of(kind, tests) for tests in TESTS)]
    columns += ["p_correct", "p_incorrect"] if pairs else []
    if missing := [column for column in columns if column not in outcomes.columns]:
        raise UserError(f"{path}: no column {', '.join(missing)}; run the score stage again")
    for tests, score in scores.items():
        counted = int(outcomes[outcome_of(kind, tests)].cast(pl.Int64).sum())
        if (outcomes.height, counted) != (n, score.passed):
            raise UserError(
                f"{path}: {counted} of {outcomes.height} problems pass the {tests} tests, but "
                f"{summary.path} says {score.passed} of {n}; run the score stage again"
            )
    gap = None
    if pairs and summary.get("gap") is not None:
        part = summary.part("gap")
        gap = Gap(part.count("n"), part.number("mean"), *interval_of(part, "interval"))
    again = summary.values.get("one_bos")
    return Evaluation(
        kind,
        scores,
        read_scores(summary.part("one_bos"), n) if again else {},
        gap,
        outcomes,
        text_of(summary, "problems_sha256"),
        None if pairs else text_of(summary, "sandbox"),
        summary,
    )


def read_scores(facts: Facts, n: int) -> dict[str, Score]:
    """The scores by tests; those that a benchmark does not have are left out."""
    pass_at_1, intervals = facts.part("pass@1"), facts.part("interval")
    scores: dict[str, Score] = {}
    for tests in TESTS:
        fraction = pass_at_1.number_or_none(tests)
        if fraction is None:
            if tests == "base":
                raise pass_at_1.wrong(tests, "a fraction is needed")
            continue
        passed = round(fraction * n)
        if not 0 <= passed <= n or abs(passed - fraction * n) > 1e-6 * n:
            raise pass_at_1.wrong(tests, f"{fraction} is not a share of {n} problems")
        scores[tests] = Score(n, passed, *interval_of(intervals, tests))
    return scores


def interval_of(facts: Facts, key: str) -> tuple[float, float]:
    """A low and a high end."""
    value = facts.get(key)
    if (
        not isinstance(value, list)
        or len(value) != 2
        or any(isinstance(end, bool) or not isinstance(end, int | float) for end in value)
    ):
        raise facts.wrong(key, f"not a low and a high end but {value!r:.60}")
    return value[0], value[1]


def text_of(facts: Facts, key: str) -> str:
    value = facts.get(key)
    if not isinstance(value, str):
        raise facts.wrong(key, f"not text but {value!r:.60}")
    return value


def metric_of(kind: str, tests: str) -> str:
    return kind_of(kind).metric.format(tests=tests)


def outcome_of(kind: str, tests: str) -> str:
    """The column of outcomes.parquet that says whether a problem is solved."""
    return kind_of(kind).outcome.format(tests=tests)


def short_names(runs: Iterable[Run]) -> dict[str, str]:
    """Names for narrow places: what all trained runs share is left out.

    Base models go by their model where there are several.
    """
    runs = list(runs)
    trained = [run for run in runs if run.dataset is not None]
    models = {run.model for run in runs}
    names: dict[str, str] = {}
    for run in runs:
        parts: Sequence[str | None] = (
            run.model if len(models) > 1 else None,
            run.dataset if len({r.dataset for r in trained}) > 1 else None,
            run.method,
            f"seed {run.seed}" if run.dataset and len({r.seed for r in trained}) > 1 else None,
        )
        names[run.name] = " · ".join(part for part in parts if part)
    return names
