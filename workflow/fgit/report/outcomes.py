"""The matrix of problems and runs of each benchmark."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fgit.report.evaluations import Evaluations
from fgit.report.rendering import distinct
from fgit.runs import Run
from fgit.scores import Evaluation, ScoreSummary, outcome_of
from fgit.stage_reports import Sample
from fgit.steps import output_of


def outcome_matrix(
    benchmark: str,
    runs: Mapping[str, Run],
    names: Mapping[str, str],
    scores: Evaluations,
    results: Path,
) -> dict[str, Any]:
    """The matrix of problems and runs of one benchmark."""
    by_run = {run: scores[run, benchmark] for run in runs if (run, benchmark) in scores}
    evaluations = list(by_run.values())
    first = evaluations[0]
    columns = [kinds(evaluation) for evaluation in evaluations]
    letters: dict[str, str] = {}
    tasks = first.outcomes["task_id"].to_list()
    return {
        "benchmark": benchmark,
        "runs": [{"name": names[run], "run": run} for run in by_run],
        "has_plus": "plus" in first.scores,
        "rows": list(zip(tasks, zip(*columns, strict=True), strict=True)),
        "totals": [
            (f"{tests} tests", [evaluation.scores[tests].passed for evaluation in evaluations])
            for tests in first.scores
        ],
        "scorers": distinct(scorer_text(evaluation.summary) for evaluation in evaluations),
        "answers": answer_lengths(benchmark, by_run, names, results),
        "statuses": {
            "runs": [status_letters(evaluation, letters) for evaluation in evaluations],
            "letters": {letter: status for status, letter in letters.items()},
        },
    }


def kinds(evaluation: Evaluation) -> list[str]:
    """Each problem's outcome: ``plus`` (passes everything), ``base`` or ``fail``."""
    problems = []
    for row in evaluation.outcomes.iter_rows(named=True):
        passed = {tests: row[outcome_of(evaluation.kind, tests)] for tests in evaluation.scores}
        problems.append("plus" if all(passed.values()) else "base" if passed["base"] else "fail")
    return problems


def status_letters(evaluation: Evaluation, letters: dict[str, str]) -> dict[str, str]:
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


def scorer_text(summary: ScoreSummary) -> str:
    """What ran the tests, as far as the summary says so."""
    parts = [f"{name} {version}" for name, version in summary.versions.items()]
    return ", ".join([*parts, *([f"sandbox {summary.sandbox}"] if summary.sandbox else [])])


def answer_lengths(
    benchmark: str, runs: Iterable[str], names: Mapping[str, str], results: Path
) -> list[dict[str, Any]]:
    """How long each run's answers are, and how many met the length limit."""
    rows = []
    for run in runs:
        path = results / output_of("evaluate", run=run, benchmark=benchmark)
        if not path.exists():  # one's own samples may have been scored
            continue
        if samples := Sample.read_rows(path):
            n, cut = len(samples), sum(bool(sample.truncated) for sample in samples)
            mean = f"{sum(sample.tokens for sample in samples) / n:.0f}"
            rows.append({"name": names[run], "tokens": mean, "cut": cut, "n": n})
    return rows
