"""The matrix of problems and runs of each benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgit.report.evaluations import Evaluations
from fgit.report.rendering import distinct
from fgit.runs import Run
from fgit.scores import Evaluation, ScoreSummary, outcome_of
from fgit.stage_reports import Sample
from fgit.steps import output_of


def outcomes(
    benchmark: str,
    runs: Mapping[str, Run],
    names: Mapping[str, str],
    scores: Evaluations,
    results: Path,
) -> dict[str, Any]:
    """The matrix of problems and runs of one benchmark."""
    mine = {run: scores[run, benchmark] for run in runs if (run, benchmark) in scores}
    first = next(iter(mine.values()))
    columns = [kinds(evaluation) for evaluation in mine.values()]
    letters: dict[str, str] = {}
    tasks = first.outcomes["task_id"].to_list()
    return {
        "benchmark": benchmark,
        "runs": [{"name": names[run], "run": run} for run in mine],
        "has_plus": "plus" in first.scores,
        "rows": list(zip(tasks, zip(*columns, strict=True), strict=True)),
        "totals": [
            (f"{tests} tests", [evaluation.scores[tests].passed for evaluation in mine.values()])
            for tests in first.scores
        ],
        "scorers": distinct(scorer(evaluation.summary) for evaluation in mine.values()),
        "answers": answers(benchmark, mine, names, results),
        "told": {
            "runs": [statuses(evaluation, letters) for evaluation in mine.values()],
            "letters": {letter: status for status, letter in letters.items()},
        },
    }


def kinds(evaluation: Evaluation) -> list[str]:
    """Each problem's outcome: ``plus`` (passes everything), ``base`` or ``fail``."""
    found = []
    for row in evaluation.outcomes.iter_rows(named=True):
        passed = {tests: row[outcome_of(evaluation.kind, tests)] for tests in evaluation.scores}
        found.append("plus" if all(passed.values()) else "base" if passed["base"] else "fail")
    return found


def statuses(evaluation: Evaluation, letters: dict[str, str]) -> dict[str, str]:
    """Each problem's status by tests, a letter each; new statuses get the next letter."""
    return {
        tests: "".join(
            letters.setdefault(
                row.get(f"{tests}_status")
                or ("pass" if row[outcome_of(evaluation.kind, tests)] else "fail"),
                chr(ord("a") + len(letters)),
            )
            for row in evaluation.outcomes.iter_rows(named=True)
        )
        for tests in evaluation.scores
    }


def scorer(summary: ScoreSummary) -> str:
    """What ran the tests, as far as the summary says so."""
    parts = [f"{name} {version}" for name, version in summary.versions.items()]
    return ", ".join([*parts, *([f"sandbox {summary.sandbox}"] if summary.sandbox else [])])


def answers(
    benchmark: str, mine: Mapping[str, Evaluation], names: Mapping[str, str], results: Path
) -> list[dict[str, Any]]:
    """How long each run's answers are, and how many met the length limit."""
    found = []
    for run in mine:
        path = results / output_of("evaluate", run=run, benchmark=benchmark)
        if not path.exists():  # one's own samples may have been scored
            continue
        if samples := Sample.read_rows(path):
            n, cut = len(samples), sum(bool(sample.truncated) for sample in samples)
            mean = f"{sum(sample.tokens for sample in samples) / n:.0f}"
            found.append({"name": names[run], "tokens": mean, "cut": cut, "n": n})
    return found
