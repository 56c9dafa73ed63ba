"""A score folder: what the score stage writes, and everything else reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fgit.benchmarks.kinds import KINDS, kind_of
from fgit.common.errors import UserError
from fgit.common.files import Layout, read_model, read_parquet, write_json

TESTS = ("base", "plus")
STRONG = "bwrap"  # the sandbox that untrusted programs are meant to run in
AGAIN = "run the score stage again"


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


# ------------------------------------------------------------------ summary.json


class Part(BaseModel):
    """An object of summary.json; keys that a later version adds are left out."""

    model_config = ConfigDict(strict=True, frozen=True)


LowAndHigh = Annotated[list[float], Field(min_length=2, max_length=2)]


class Fractions(Part):
    base: float
    plus: float | None  # null for kinds without plus tests


class Intervals(Part):
    base: LowAndHigh
    plus: LowAndHigh | None


class Shares(Part):
    """pass@1 and its 95 % Wilson interval, as fractions, by tests."""

    pass_at_1: Fractions = Field(alias="pass@1")
    interval: Intervals

    def of(self, n: int) -> dict[str, Score]:
        """The scores on ``n`` problems by tests, without those that the benchmark does not have.

        Raises:
            ValueError: naming the key, if a share cannot be one of so many problems.
        """
        scores: dict[str, Score] = {}
        for tests in TESTS:
            fraction, ends = getattr(self.pass_at_1, tests), getattr(self.interval, tests)
            if fraction is None:
                continue
            passed = round(fraction * n)
            if not 0 <= passed <= n or abs(passed - fraction * n) > 1e-6 * n:
                raise ValueError(f"pass@1.{tests}: {fraction} is not a share of {n} problems")
            if ends is None:
                raise ValueError(f"interval.{tests}: null, though pass@1 has a share")
            scores[tests] = Score(n, passed, *ends)
        return scores


class MeanGap(Part):
    """By how much the correct side of a pair is the more probable one: mean and 95 % interval.

    ``n`` is the number of pairs whose sides could be compared.
    """

    mean: float
    interval: LowAndHigh
    n: int = Field(ge=0)


class GroundTruth(Part):
    """The canonical solutions, where they were run: the share that passes, and those that fail."""

    passing: float
    failing: list[str]  # task_ids


class ScoreSummary(Shares):
    """``summary.json``. What only some kinds have, or what nothing is computed from, has a default.

    On pairs of code (kind ``pairs``) a problem is a pair, and it is solved if the model finds the
    correct side the more probable one; only they have a ``gap``, and no program of them is run, so
    that they have no ``sandbox``.
    """

    benchmark: str  # its kind
    n: int = Field(ge=0)
    problems_sha256: str
    sandbox: str | None
    one_bos: Shares | None = None  # asked with one BOS token, where EvalPlus gives two
    gap: MeanGap | None = None  # null also where no pair could be compared
    ground_truth: GroundTruth | None = None
    problems: str | None = None  # their file
    samples_sha256: str | None = ""  # null for the canonical solutions
    settings: dict[str, Any] | None = None
    versions: dict[str, str] = Field(default_factory=dict)  # of the environment of the tests
    threads: int | None = None
    seconds: float | None = None
    part_of: dict[str, Any] | None = None  # the larger benchmark whose outcomes were taken

    @model_validator(mode="after")
    def consistent(self) -> ScoreSummary:
        if self.n == 0:
            raise ValueError("n: no problem was scored")
        for shares in (self, self.one_bos):
            if shares is not None:
                shares.of(self.n)
        if self.benchmark not in KINDS:
            raise ValueError(f"benchmark: no kind is called {self.benchmark!r}")
        if self.sandbox is None and kind_of(self.benchmark).programs:
            raise ValueError(f"sandbox: null, though programs of kind {self.benchmark} were run")
        return self


def write_summary(folder: Path, values: Mapping[str, Any]) -> None:
    """Write ``summary.json`` as :class:`ScoreSummary` reads it, its keys in the order given."""
    ScoreSummary.model_validate(values)
    write_json(folder / "summary.json", values)


def read_summary(folder: Path) -> ScoreSummary:
    """The summary of a score folder.

    Raises:
        UserError: naming file and key, if something is missing or of another type (as an older
            layout has it).
    """
    return read_model(folder / "summary.json", ScoreSummary, AGAIN)


# ------------------------------------------------------------------ with every problem's outcome


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run on a benchmark: the score folder's summary, and every problem's outcome."""

    folder: Path
    summary: ScoreSummary
    outcomes: pl.DataFrame  # task_id, solution, and for each tests a column :func:`outcome_of`

    @property
    def kind(self) -> str:
        return self.summary.benchmark

    @functools.cached_property
    def scores(self) -> dict[str, Score]:
        """By tests: ``base``, and ``plus`` where there are any."""
        return self.summary.of(self.summary.n)

    @property
    def one_bos(self) -> dict[str, Score]:
        """Likewise of the second score, asked with one BOS token; empty where there is none."""
        again = self.summary.one_bos
        return again.of(self.summary.n) if again else {}

    def solved(self, tests: str) -> npt.NDArray[np.float64]:
        """Whether each problem is solved, 0 or 1, in the order of the outcomes; shape (n,)."""
        return self.outcomes[outcome_of(self.kind, tests)].cast(pl.Float64).to_numpy()

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        """Each pair's gap, in the order of the outcomes; NaN where it has none; shape (n,)."""
        gaps = self.outcomes["p_correct"] - self.outcomes["p_incorrect"]
        return gaps.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def read_evaluation(folder: Path) -> Evaluation:
    """The score of one run on one benchmark, as the score stage writes it.

    Raises:
        UserError: naming file and key, if something is missing (an older layout is scored again)
            or summary and outcomes do not agree.
    """
    summary = read_summary(folder)
    evaluation = Evaluation(folder, summary, read_outcomes(folder, summary.benchmark))
    for tests, score in evaluation.scores.items():
        passed = int(evaluation.solved(tests).sum())
        if (evaluation.outcomes.height, passed) != (score.n, score.passed):
            raise UserError(
                f"{folder / 'outcomes.parquet'}: {passed} of {evaluation.outcomes.height} problems "
                f"pass the {tests} tests, but {folder / 'summary.json'} says {score.passed} of "
                f"{score.n}; {AGAIN}"
            )
    return evaluation


def read_outcomes(folder: Path, kind: str) -> pl.DataFrame:
    """The outcomes of a score folder, of a benchmark of this kind.

    Raises:
        UserError: naming the file, if it is of another layout.
    """
    columns = {
        "task_id": pl.String,
        **{outcome_of(kind, tests): pl.Boolean for tests in TESTS},
        "solution": pl.String,
        **(
            {}
            if kind_of(kind).programs
            else dict.fromkeys(("p_correct", "p_incorrect"), pl.Float64)
        ),
    }
    layout = Layout(columns, filled=(outcome_of(kind, TESTS[0]),), key=("task_id",), advice=AGAIN)
    return read_parquet(folder / "outcomes.parquet", layout)


def metric_of(kind: str, tests: str) -> str:
    """What a score on these tests is called in ``results.parquet``."""
    return kind_of(kind).metric.format(tests=tests)


def outcome_of(kind: str, tests: str) -> str:
    """The column of outcomes.parquet that says whether a problem is solved."""
    return kind_of(kind).outcome.format(tests=tests)
