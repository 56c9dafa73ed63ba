"""The config's tables, drawn from the results: their cells, and what stands beside what."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from fgit.common.errors import UserError
from fgit.common.statistics import Comparison, compare_paired, over_seeds
from fgit.config import BASE, Config, Row, Table
from fgit.lineage import COMPUTING
from fgit.report.results import run_name, runs_shown
from fgit.scores import STRONG, Score, metric_of

PENDING = "pending"
AVERAGE = "average"  # the kind of the column that is the mean over the others
DASH = "–"
SIGNIFICANT = "*"

CellState = Literal["scored", "pending", "failed", "quoted"]
SeedResults = Sequence[Mapping[str, Any]]  # the results of a table's row in a column, by seed


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a benchmark's base tests, or its base and plus tests; or the average.

    The average has the kind ``average``, and neither a benchmark nor tests (both empty).
    """

    heading: str
    benchmark: str
    tests: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a row shows in one column: ours, what was published, and how ours compares.

    ``scores`` are by seed (None for a base model), without those that are not scored yet; the cells
    of an average have none. ``mean`` and ``deviation`` are over the seeds, in percent and points;
    an average is None while one of its columns is.

    A cell is ``scored`` once one seed is. ``log`` is that of the first seed that failed, relative
    to the results folder, also where another seed is scored.
    """

    mean: float | None = None
    deviation: float | None = None  # n - 1; None for fewer than two seeds
    scores: list[tuple[int | None, Score]] = dataclasses.field(default_factory=list)
    published: float | None = None  # as this table prints it, in percent
    status: CellState = "pending"
    log: str | None = None
    best: bool = False  # the highest of its column among the rows of its model, as printed
    published_best: bool = False  # likewise of the published numbers
    difference: Comparison | None = None  # from the row that this one builds on (:func:`reference`)
    # From the table's other trained rows of the same model.
    others: list[tuple[str, Comparison]] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """The mean, or why there is none."""
        if self.mean is not None:
            return f"{self.mean:.1f}"
        return DASH if self.status == "quoted" else self.status

    @property
    def marked(self) -> str:
        """The text, with a mark where the difference from the row built on is significant."""
        significant = self.difference is not None and self.difference.significant
        return self.text + SIGNIFICANT * significant


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table with what it shows."""

    group: str
    row: Row
    cells: list[Cell]  # by column
    n: dict[str, int | None]  # problems by benchmark
    seeds: str  # how many were scored, "1 of 2" while some are missing; empty for a base model

    @property
    def method(self) -> str:
        return self.row.name


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A table, ready to be written in any form."""

    table: Table
    columns: list[Column]
    lines: list[Line]
    several_seeds: bool
    problems: list[str]  # for each benchmark that is scored: name, release and digest
    weak: list[str]  # benchmarks of which a score was made without a strong sandbox, and with what
    mixed: list[str]  # stages that computed the rows in different precisions, and which in which

    @property
    def grouped(self) -> bool:
        return any(line.group for line in self.lines)

    def measured(self, line: Line) -> list[tuple[Column, Cell]]:
        """A row's cells with their columns, without the average."""
        both = zip(self.columns, line.cells, strict=True)
        return [(column, cell) for column, cell in both if column.kind != AVERAGE]

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(c.benchmark for c in self.columns if c.kind != AVERAGE))

    @property
    def compared(self) -> bool:
        """Whether the table has a row that builds on another one."""
        return any(reference(self.table, line.row) for line in self.lines)

    @property
    def pending(self) -> bool:
        return any(cell.status == "pending" for line in self.lines for cell in line.cells)

    @property
    def failed(self) -> list[str]:
        """The logs of what failed, in the order of the cells, each once."""
        logs = [cell.log for line in self.lines for cell in line.cells if cell.log]
        return list(dict.fromkeys(logs))

    @property
    def quotes(self) -> bool:
        """Whether a published number stands beside ours."""
        return any(cell.published is not None for line in self.lines for cell in line.cells)


def reference(table: Table, row: Row) -> Row | None:
    """The row that a row builds on, and is compared with: the base row of its model.

    None for base rows, and for a table that does not have it.
    """
    if row.method == BASE:
        return None
    bases = (other for other in table.rows if other.method == BASE and other.model == row.model)
    return next(bases, None)


def columns_of(config: Config, table: Table) -> list[Column]:
    """The columns; the two of one benchmark are headed ``base`` and ``plus``, which is shorter."""
    first = table.columns[0]
    alone = table.columns == [first, f"{first}+"]
    columns = []
    for name in table.columns:
        benchmark, tests = name.removesuffix("+"), "plus" if name.endswith("+") else "base"
        kind = config.benchmarks[benchmark].kind
        columns.append(Column(tests if alone else name, benchmark, tests, kind))
    return columns


def draw_table(config: Config, name: str, frame: pl.DataFrame) -> Drawn:
    """Fill a table of the config from the results, and from them alone.

    Args:
        frame: as :func:`fgit.report.results.results_frame` gives it; the rows of other runs do not
            matter.

    Raises:
        UserError: if the results are of another config, and do not know what the table shows.
    """
    table = config.tables[name]
    columns = columns_of(config, table)
    rows_runs = [[run_name(run) for run in runs_shown(config, row)] for row in table.rows]
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows_runs)))
    benchmarks = list(dict.fromkeys(column.benchmark for column in columns))
    frame = frame.filter(pl.col("run").is_in(names), pl.col("benchmark").is_in(benchmarks))
    results = {
        (row["run"], row["benchmark"], row["metric"]): row for row in frame.iter_rows(named=True)
    }
    by_column: list[list[Cell]] = []
    for column in columns:
        metric = metric_of(column.kind, column.tests)
        seeds: list[SeedResults] = []
        for runs in rows_runs:
            for run in runs:
                if (run, column.benchmark, metric) not in results:
                    raise UserError(
                        f"tables.{name}: the results know nothing of {run} on {column.benchmark} "
                        f"({metric}); they are of another config: run `fgit results` with this one"
                    )
            seeds.append([results[run, column.benchmark, metric] for run in runs])
        by_column.append(column_of(table, name, seeds))
    averages: list[Cell] = []
    if table.average:
        averages = bests(table, [average_cell(cells) for cells in zip(*by_column, strict=True)])
    lines: list[Line] = []
    group = ""
    for i, (row, runs) in enumerate(zip(table.rows, rows_runs, strict=True)):
        group = row.group if row.group is not None else group
        cells = [cells[i] for cells in by_column]
        problems = {
            column.benchmark: cell.scores[0][1].n if cell.scores else None
            for column, cell in zip(columns, cells, strict=True)
        }
        scored = min(len(cell.scores) for cell in cells)
        of_runs = str(scored) if scored == len(runs) else f"{scored} of {len(runs)}"
        seeds_scored = "" if row.dataset is None else of_runs
        lines.append(Line(group, row, [*cells, *averages[i : i + 1]], problems, seeds_scored))
    columns += [Column("avg", "", "", AVERAGE)] * table.average
    # In the table's order, whatever that of the frame.
    places = list(itertools.product(benchmarks, names))
    ordered = sorted(
        results.values(), key=lambda result: places.index((result["benchmark"], result["run"]))
    )
    problem_files = {row["benchmark"]: row["problems"] for row in ordered if row["problems"]}
    weak = dict.fromkeys(
        f"{row['benchmark']} ({row['sandbox']})"
        for row in ordered
        if row["sandbox"] not in (STRONG, None)
    )
    several = len(config.seeds) > 1
    rows = [(row.name, runs) for row, runs in zip(table.rows, rows_runs, strict=True)]
    mixed = mixed_precisions(rows, ordered)
    return Drawn(table, columns, lines, several, list(problem_files.values()), list(weak), mixed)


def mixed_precisions(
    rows: Sequence[tuple[str, Sequence[str]]], results: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The stages that computed what a table shows in more than one precision.

    Args:
        rows: name and runs of each row of the table.
        results: what it shows.
    """
    names = {run: name for name, runs in rows for run in runs}
    texts: list[str] = []
    for stage in COMPUTING:
        by_precision: dict[str, dict[str, None]] = {}
        for result in results:
            if precision := (result["precision"] or {}).get(stage):
                by_precision.setdefault(precision, {})[names[result["run"]]] = None
        if len(by_precision) > 1 or any(" and " in precision for precision in by_precision):
            parts = [f"{precision} ({', '.join(rows)})" for precision, rows in by_precision.items()]
            texts.append(f"{stage} {', '.join(parts)}")
    return texts


def column_of(table: Table, name: str, seeds: Sequence[SeedResults]) -> list[Cell]:
    """The cells of a column, by row, each compared with the other rows of its model.

    Args:
        seeds: for each row of the table, the results of its runs in this column.
    """
    solved = [
        [row["solved"] for row in rows if row["status"] == "scored" and row["solved"] is not None]
        for rows in seeds
    ]
    compared: dict[tuple[int, int], Comparison] = {}
    for i, row in enumerate(table.rows):
        for j, other in enumerate(table.rows[:i]):
            if row.model == other.model and solved[i] and solved[j]:
                a, b = (np.array(solved[k], dtype=np.float64) for k in (i, j))
                compared[i, j] = compare_paired(a, b)
                compared[j, i] = compared[i, j].reversed
    cells: list[Cell] = []
    for i, row in enumerate(table.rows):
        base = reference(table, row)
        difference = None if base is None else compared.get((i, table.rows.index(base)))
        others = [
            (other.label or f"{other.method} on {other.dataset}", compared[i, j])
            for j, other in enumerate(table.rows)
            if (i, j) in compared and BASE not in (row.method, other.method)
        ]
        cell = cell_of(name, seeds[i])
        cells.append(dataclasses.replace(cell, difference=difference, others=others))
    return bests(table, cells)


def cell_of(name: str, rows: SeedResults) -> Cell:
    """What the results say of a row's seeds in a column of the table of this name."""
    scored = [row for row in rows if row["status"] == "scored"]
    mean, deviation = over_seeds([row["value"] for row in scored]) if scored else (None, None)
    printed = {entry["table"]: entry["value"] for entry in rows[0]["printed"] or ()}
    return Cell(
        mean=mean,
        deviation=deviation,
        scores=[
            (row["seed"], Score(row["n"], row["passed"], row["low"] / 100, row["high"] / 100))
            for row in scored
        ],
        published=printed.get(name),
        status=overall([row["status"] for row in rows]),
        log=next((row["log"] for row in rows if row["log"] is not None), None),
    )


def overall(states: Sequence[CellState]) -> CellState:
    """The state of several seeds: scored once one is, failed if none is and one failed."""
    order: list[CellState] = ["scored", "failed", "pending", "quoted"]
    return min(states, key=order.index)


def average_cell(cells: Sequence[Cell]) -> Cell:
    """The cell of a row's average: the mean over its columns, each counting the same.

    Ours is there once all columns are, over the seeds that all of them have; the published one if
    all are printed. The deviation is that of the seeds' averages. Nothing is compared: the columns
    share problems.
    """
    means = [cell.mean for cell in cells if cell.mean is not None]
    printed = [cell.published for cell in cells if cell.published is not None]
    whole = len(means) == len(cells)
    seeds = [dict(cell.scores) for cell in cells]
    averages = [
        statistics.fmean(scores[seed].percent for scores in seeds)
        for seed in seeds[0]
        if all(seed in scores for scores in seeds)
    ]
    alone = not any(cell.scores for cell in cells)
    missing = [cell.status for cell in cells if cell.status != "scored"]
    return Cell(
        mean=statistics.fmean(averages or means) if whole and (averages or alone) else None,
        deviation=over_seeds(averages)[1] if whole and averages else None,
        published=statistics.fmean(printed) if len(printed) == len(cells) else None,
        status=overall(missing) if missing else "scored",
        log=next((cell.log for cell in cells if cell.log is not None), None),
    )


def bests(table: Table, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a column, by row, with the highest of each model's rows marked.

    All rows that print the same highest number are marked; where all print the same, there is no
    best.
    """
    ours = highest(table, [cell.mean for cell in cells])
    published = highest(table, [cell.published for cell in cells])
    return [
        dataclasses.replace(cell, best=best, published_best=published_best)
        for cell, best, published_best in zip(cells, ours, published, strict=True)
    ]


def highest(table: Table, values: Sequence[float | None]) -> list[bool]:
    """For each row of the table, whether its value is the highest of its model's, as printed."""
    printed = [None if value is None else float(f"{value:.1f}") for value in values]
    by_model: dict[str, list[float]] = {}
    for row, value in zip(table.rows, printed, strict=True):
        if value is not None:
            by_model.setdefault(row.model, []).append(value)
    return [
        value is not None and min(by_model[row.model]) < value == max(by_model[row.model])
        for row, value in zip(table.rows, printed, strict=True)
    ]
