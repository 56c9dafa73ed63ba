"""Every number that the tables ask for, scored or not: a file for each table, joined to one.

Here alone the scores become numbers and their provenance is followed: the tables are drawn from
``results/TABLE.parquet``, and the report from ``results.parquet``, which joins them.
"""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fgit.benchmarks.releases import RELEASE_PREFIX
from fgit.common.errors import UserError
from fgit.common.files import Layout, read_parquet, write_parquet
from fgit.common.lock import live
from fgit.config import PUBLISHED, Config, Row
from fgit.lineage import COMPUTING, Lineage, precisions
from fgit.published import Published, read_published
from fgit.report.evaluations import Evaluations, name_unscored, read_evaluations
from fgit.report.places import numbers_path
from fgit.report.status import score_status, steps_by_file
from fgit.runs import Run, evaluations, runs_of
from fgit.scores import AGAIN, Evaluation, Score, metric_of

log = logging.getLogger(__name__)

SCHEMA: dict[str, pl.DataType] = {
    "run": pl.String(),
    "model": pl.String(),
    "dataset": pl.String(),
    "method": pl.String(),
    "seed": pl.Int64(),
    "benchmark": pl.String(),
    "metric": pl.String(),
    "status": pl.String(),
    "log": pl.String(),
    "value": pl.Float64(),
    "n": pl.Int64(),
    "passed": pl.Int64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "published": pl.Float64(),
    "difference": pl.Float64(),
    "printed": pl.List(pl.Struct({"table": pl.String(), "value": pl.Float64()})),
    "solved": pl.List(pl.Boolean()),
    "problems": pl.String(),
    "problems_sha256": pl.String(),
    "sandbox": pl.String(),
    "precision": pl.Struct(dict.fromkeys(COMPUTING, pl.String())),
    "provenance": pl.String(),
}
LAYOUT = Layout(SCHEMA, empty=True, advice="run `fgit results` and `fgit report` again")


def results(config: Config, folder: Path, table: str, path: Path, *, ended: bool = False) -> None:
    """Write the numbers of one table, with where each is from, to ``path``.

    Args:
        folder: of the results.
        path: within :func:`fgit.report.places.numbers_folder`.
        ended: nothing runs any more, so that what began and has not ended has failed.

    Raises:
        UserError: naming the file, if a score cannot be read or lacks something.
    """
    scores = read_evaluations(config, folder, [table])
    name_unscored(config, [table], scores)
    published = read_published(config)
    frame = results_frame(config, Lineage(folder), scores, published, tables=[table], ended=ended)
    write_parquet(path, frame)
    wanted = len(evaluations(config, [table]))
    log.info("%d of %d evaluations are scored; see %s", len(scores), wanted, path)


class Wanted(NamedTuple):
    """What tables ask of a run on a benchmark: by metric, what each table prints for it."""

    run: Run
    metrics: dict[str, list[dict[str, Any]]]


def run_name(run: Run) -> str:
    """The run's name; ``MODEL/published`` for numbers that are only quoted."""
    return f"{run.model}/{PUBLISHED}" if run.method == PUBLISHED else run.name


def runs_shown(config: Config, row: Row) -> list[Run]:
    """What a row of a table shows: its runs, or what stands for published numbers."""
    if row.method == PUBLISHED:
        return [Run(row.model, None, PUBLISHED, None)]
    return runs_of(config, row)


def wanted_of(
    config: Config, tables: Iterable[str], published: Published
) -> dict[tuple[str, str], Wanted]:
    """What tables ask for, by run name and benchmark, in the tables' order.

    The published values are those of all of the config's tables that show the same.
    """
    tables = set(tables)
    entries: dict[tuple[str, str], Wanted] = {}
    of_tables: set[tuple[str, str]] = set()
    for name, table in config.tables.items():
        for row in table.rows:
            for run in runs_shown(config, row):
                for column in table.columns:
                    benchmark = column.removesuffix("+")
                    place = run_name(run), benchmark
                    tests = "plus" if column.endswith("+") else "base"
                    metric = metric_of(config.benchmarks[benchmark].kind, tests)
                    entry = entries.setdefault(place, Wanted(run, {}))
                    printed = entry.metrics.setdefault(metric, [])
                    value = published.get((name, row.key, column))
                    if value is not None:
                        printed.append({"table": name, "value": value})
                    if name in tables:
                        of_tables.add(place)
    return {place: entry for place, entry in entries.items() if place in of_tables}


def results_frame(
    config: Config,
    lineage: Lineage,
    scores: Evaluations,
    published: Published,
    *,
    tables: Iterable[str] | None = None,
    ended: bool = False,
) -> pl.DataFrame:
    """A row for each run, benchmark, metric and seed that tables ask for, scored or not.

    Columns (:data:`SCHEMA`):

    * ``run``, ``model``, ``dataset``, ``method``, ``seed``: dataset and seed are null for base
      models; numbers that are only quoted are rows too, of method ``published``;
    * ``benchmark``; ``metric``: ``pass@1 base``, ``pass@1 plus`` (followed by ``, one BOS`` for the
      second score of a model that EvalPlus asks with two BOS tokens), ``preference`` (the share of
      pairs whose correct side the model finds the more probable one), or ``gap`` (by how much the
      mean probability of the correct side's marked tokens is the higher one, -1 to 1);
    * ``status``: scored, pending, failed (``log``: relative to the results folder) or quoted;
    * ``value``, ``low``, ``high``: percent (a gap: a difference), with the 95 % interval, which is
      Wilson's for shares; ``n`` problems, ``passed`` of them;
    * ``published``: what the first table that shows it prints; ``difference``: value less that;
      ``printed``: what each table prints, since they may differ;
    * ``solved``: each problem's outcome, in the order of the problems, for comparisons;
    * ``problems``: the benchmark's release and digest, in words; ``problems_sha256``; ``sandbox``;
    * ``precision``: what the teacher, training and evaluation were computed in, by stage;
    * ``provenance``: the id of all that determined the value
      (:meth:`fgit.lineage.Lineage.identity`).

    Args:
        lineage: of the results folder.
        scores: the evaluations that are scored.
        tables: names of the tables; None for all.
        ended: nothing runs any more (:func:`fgit.report.status.score_status`).

    Raises:
        UserError: if a score that a table shows is not among a run's scores.
    """
    rows: list[dict[str, Any]] = []
    names = config.tables if tables is None else tables
    wanted = wanted_of(config, names, published)
    unscored = [
        place
        for place, entry in wanted.items()
        if place not in scores and entry.run.method != PUBLISHED
    ]
    steps = steps_by_file(config, unscored)
    written = {place for place, _ in live(lineage.results)} if unscored and not ended else set()
    for (name, benchmark), entry in wanted.items():
        same = dataclasses.asdict(entry.run) | {"run": name, "benchmark": benchmark}
        scored: dict[str, dict[str, Any]] = {metric: {} for metric in entry.metrics}
        if (evaluation := scores.get((name, benchmark))) is not None:
            shared = same | origin(config, lineage, name, benchmark, evaluation)
            scored = scored_rows(evaluation)
            if missing := [metric for metric in entry.metrics if metric not in scored]:
                raise UserError(
                    f"{evaluation.folder / 'summary.json'}: no {missing[0]}, which a table of the "
                    f"config shows; {AGAIN}"
                )
        elif entry.run.method == PUBLISHED:
            shared = same | {"status": "quoted"}
        else:
            status = score_status(
                steps, lineage.results, name, benchmark, written=written, ended=ended
            )
            shared = same | {"status": status.state, "log": status.log}
        for metric, values in scored.items():
            printed = entry.metrics.get(metric, [])
            row = shared | {"metric": metric, "printed": printed} | values
            if printed:
                row["published"] = printed[0]["value"]
            if printed and "value" in row:
                row["difference"] = row["value"] - row["published"]
            rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def origin(
    config: Config, lineage: Lineage, run: str, benchmark: str, evaluation: Evaluation
) -> dict[str, Any]:
    """What the metrics of an evaluation share."""
    summary = evaluation.summary
    steps = lineage.behind_score(run, benchmark)
    problems = config.benchmarks[benchmark].problems
    is_release = problems.startswith(RELEASE_PREFIX)
    release = f" {problems.removeprefix(RELEASE_PREFIX)}" if is_release else ""
    return {
        "status": "scored",
        "problems": f"{benchmark}{release} sha256 {summary.problems_sha256[:8]}…",
        "problems_sha256": summary.problems_sha256,
        "sandbox": summary.sandbox,
        "precision": dict.fromkeys(COMPUTING) | precisions(steps),
        "provenance": lineage.identity(run, benchmark) or None,
    }


def scored_rows(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """What each metric of an evaluation says."""
    kind = evaluation.kind
    metrics: dict[str, dict[str, Any]] = {}
    for tests, score in evaluation.scores.items():
        solved = evaluation.solved(tests).astype(bool).tolist()
        metrics[metric_of(kind, tests)] = of_score(score) | {"solved": solved}
    for tests, score in evaluation.one_bos.items():
        metrics[f"{metric_of(kind, tests)}, one BOS"] = of_score(score)
    if gap := evaluation.summary.gap:
        low, high = gap.interval
        metrics["gap"] = {"value": gap.mean, "n": gap.n, "low": low, "high": high}
    return metrics


def of_score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    values = {"value": score.percent, "low": low, "high": high}
    return values | {"n": score.n, "passed": score.passed}


def read_results(path: Path) -> pl.DataFrame:
    """A file that :func:`results_frame` gave.

    Raises:
        UserError: naming the file, if it cannot be read or is of another layout.
    """
    return read_parquet(path, LAYOUT).select(list(SCHEMA))


def joined_results(config: Config, folder: Path, current: pl.DataFrame) -> pl.DataFrame:
    """The rows of all tables, each once, as :func:`results_frame` gives them.

    Args:
        current: the rows as they would be now.

    Raises:
        UserError: naming a table's file, if it cannot be read, or is of other scores or published
            numbers than there are now.
    """
    key = ["run", "benchmark", "metric"]
    columns = [*key, "value", "n", "passed", "low", "high", "solved", "printed"]
    by_key = {row[:3]: row for row in current.select(columns).iter_rows()}
    frames = [pl.DataFrame(schema=SCHEMA)]
    for table in config.tables:
        path = numbers_path(folder, table)
        frames.append(read_results(path))
        for row in frames[-1].select(columns).iter_rows():
            if row != by_key.get(row[:3]):
                raise UserError(
                    f"{path}: {row[0]} on {row[1]} has another score now, or another published "
                    f"number; run `fgit results --table {table}` again"
                )
    return pl.concat(frames).unique(key, keep="first", maintain_order=True)
