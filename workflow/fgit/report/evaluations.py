"""The scores that a config's tables ask for, as far as they are there."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fgit.common.errors import UserError
from fgit.config import Config
from fgit.runs import Run, evaluations
from fgit.scores import AGAIN, Evaluation, read_evaluation
from fgit.steps import folder_of

log = logging.getLogger(__name__)

Evaluations = Mapping[tuple[str, str], Evaluation]  # by run name and benchmark


def read_evaluations(
    config: Config, results: Path, tables: Iterable[str] | None = None
) -> dict[tuple[str, str], Evaluation]:
    """Every evaluation that tables ask for (None: all of the config's) and that is scored.

    Raises:
        UserError: naming the file, if it cannot be read, lacks something, or was scored on other
            problems than the rest.
    """
    scores: dict[tuple[str, str], Evaluation] = {}
    first: dict[str, Evaluation] = {}
    for run, benchmark in evaluations(config, config.tables if tables is None else tables):
        folder = results / folder_of("score", run=run, benchmark=benchmark)
        if not (folder / "summary.json").exists():
            continue
        evaluation = read_evaluation(folder)
        kind = config.benchmarks[benchmark].kind
        if evaluation.kind != kind:
            raise UserError(
                f"{folder / 'summary.json'}, key 'benchmark': {evaluation.kind!r}, but the config "
                f"says that {benchmark} is {kind!r}; {AGAIN}"
            )
        scores[run, benchmark] = evaluation
        other = first.setdefault(benchmark, evaluation)
        if tested(evaluation) != tested(other):
            raise UserError(
                f"{folder / 'outcomes.parquet'}: not the problems or tests of "
                f"{other.folder / 'outcomes.parquet'}, so the runs cannot be compared on "
                f"{benchmark}; score both on one problem file"
            )
    return scores


def tested(evaluation: Evaluation) -> tuple[Any, ...]:
    """What two evaluations must share to be compared."""
    tasks = evaluation.outcomes["task_id"].to_list()
    return tasks, list(evaluation.scores), evaluation.summary.problems_sha256


def name_unscored(config: Config, tables: Iterable[str], scores: Evaluations) -> None:
    """Say which benchmarks have no result at all, and what makes them."""
    done = {benchmark for _, benchmark in scores}
    for table in tables:
        for _, benchmark in evaluations(config, [table]):
            if benchmark not in done:
                done.add(benchmark)  # named once
                log.warning(
                    "%s has no results yet: run `snakemake %s`, the first table that shows it",
                    benchmark,
                    table,
                )


def short_names(runs: Iterable[Run]) -> dict[str, str]:
    """Names for narrow places: what all trained runs share is left out.

    Base models go by their model where there are several.
    """
    runs = list(runs)
    trained = [run for run in runs if run.dataset is not None]
    several_models = len({run.model for run in runs}) > 1
    several_datasets = len({run.dataset for run in trained}) > 1
    several_seeds = len({run.seed for run in trained}) > 1
    names: dict[str, str] = {}
    for run in runs:
        parts = (
            run.model if several_models else None,
            run.dataset if several_datasets else None,
            run.method,
            f"seed {run.seed}" if run.dataset and several_seeds else None,
        )
        names[run.name] = " · ".join(part for part in parts if part)
    return names
