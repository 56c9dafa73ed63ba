"""The config's tables: their cells, and as Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from fgit.config import Config, Row, Table
from fgit.errors import UserError
from fgit.fetch import RELEASE_PREFIX
from fgit.report.scores import STRONG, Evaluation, Evaluations, Score
from fgit.report.training import Training
from fgit.runs import BASE, runs_of
from fgit.statistics import LEVEL, Comparison, over_seeds, paired

PENDING = "pending"
NOTHING = "–"
SIGNIFICANT = "*"

Seeds = Sequence[tuple[int | None, Evaluation]]  # the evaluations of a row on a benchmark, by seed


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: a benchmark's base tests, or its base and plus tests."""

    heading: str
    benchmark: str
    tests: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """The scores of a row's seeds in one column; those not scored yet are left out."""

    scores: list[tuple[int | None, Score]]  # by seed; None for a base model
    difference: Comparison | None  # from the row that this one builds on (:func:`reference`)
    others: list[tuple[str, Comparison]]  # from the table's other trained rows of the same model

    @property
    def mean(self) -> float | None:
        """Mean pass@1 over the seeds, in percent."""
        return over_seeds([s.percent for _, s in self.scores])[0] if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1), in points; None for fewer than two."""
        return over_seeds([s.percent for _, s in self.scores])[1] if self.scores else None

    @property
    def text(self) -> str:
        return PENDING if self.mean is None else f"{self.mean:.1f}"

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
    held_out: dict[str, float | None]  # mean loss per token on the held-out samples

    @property
    def method(self) -> str:
        return self.row.label or self.row.method


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A table, ready to be written in any form."""

    table: Table
    columns: list[Column]
    lines: list[Line]
    several_seeds: bool
    problems: list[str]  # for each benchmark that is scored: name, release and digest
    weak: list[str]  # benchmarks of which a score was made without a strong sandbox, and with what

    @property
    def grouped(self) -> bool:
        return any(line.group for line in self.lines)

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(column.benchmark for column in self.columns))

    @property
    def compared(self) -> bool:
        """Whether the table has a row that builds on another one."""
        return any(reference(self.table, line.row) for line in self.lines)

    @property
    def pending(self) -> bool:
        return any(cell.mean is None for line in self.lines for cell in line.cells)


def reference(table: Table, row: Row) -> Row | None:
    """The row that a row builds on, and is compared with: the base row of its model.

    None for base rows, and for a table that does not have it.
    """
    if row.method == BASE:
        return None
    bases = (other for other in table.rows if other.method == BASE and other.model == row.model)
    return next(bases, None)


def columns_of(config: Config, table: Table) -> list[Column]:
    """The columns; where they are one benchmark's two, ``base`` and ``plus`` say it shorter."""
    first = table.columns[0]
    alone = table.columns == [first, f"{first}+"]
    return [
        Column(
            heading=tests if alone else name,
            benchmark=benchmark,
            tests=tests,
            kind=config.benchmarks[benchmark].kind,
        )
        for name in table.columns
        for benchmark in [name.removesuffix("+")]
        for tests in ["plus" if name.endswith("+") else "base"]
    ]


def draw(config: Config, name: str, found: Evaluations, trainings: Mapping[str, Training]) -> Drawn:
    """Fill a table of the config from the scores.

    Raises:
        UserError: if a score that a column needs is not among a run's scores.
    """
    table = config.tables[name]
    columns = columns_of(config, table)
    cells = [column_of(config, name, column, found) for column in columns]
    lines: list[Line] = []
    group = ""
    for index, row in enumerate(table.rows):
        group = row.group if row.group is not None else group
        runs = runs_of(config, row)
        mine = [column_cells[index] for column_cells in cells]
        problems: dict[str, int | None] = {}
        for column, cell in zip(columns, mine, strict=True):
            problems[column.benchmark] = cell.scores[0][1].n if cell.scores else None
        scored = min(len(cell.scores) for cell in mine)
        seeds = str(scored) if scored == len(runs) else f"{scored} of {len(runs)}"
        trained = [trainings[run.name] for run in runs if run.name in trainings]
        held_out = {
            f"held_out_nll_{when}": mean([getattr(training, when).nll for training in trained])
            for when in ("before", "after")
        }
        seeds = "" if row.dataset is None else seeds
        lines.append(Line(group, row, mine, problems, seeds, held_out))
    names = dict.fromkeys(column.benchmark for column in columns)
    shown = [
        (benchmark, evaluation)
        for benchmark in names
        for row in table.rows
        for run in runs_of(config, row)
        if (evaluation := found.get((run.name, benchmark)))
    ]
    problem_files = {
        benchmark: f"{benchmark}{release(config, benchmark)} "
        f"sha256 {evaluation.problems_sha256[:8]}…"
        for benchmark, evaluation in shown
    }
    weak = {
        f"{benchmark} ({evaluation.sandbox})": None
        for benchmark, evaluation in shown
        if evaluation.sandbox not in (STRONG, None)
    }
    several = len(config.seeds) > 1
    return Drawn(table, columns, lines, several, list(problem_files.values()), list(weak))


def column_of(config: Config, name: str, column: Column, found: Evaluations) -> list[Cell]:
    """The cells of a column, by row, each compared with the other rows of its model."""
    table = config.tables[name]
    seeds: list[Seeds] = []
    for row in table.rows:
        scored = [
            (run.seed, evaluation)
            for run in runs_of(config, row)
            if (evaluation := found.get((run.name, column.benchmark)))
        ]
        for _, evaluation in scored:
            if column.tests not in evaluation.scores:
                raise UserError(
                    f"{evaluation.summary.path}: no score on the {column.tests} tests, "
                    f"which table {name} shows; run the score stage again"
                )
        seeds.append(scored)
    compared: dict[tuple[int, int], Comparison] = {}
    for i, row in enumerate(table.rows):
        for j, other in enumerate(table.rows[:i]):
            if row.model == other.model and seeds[i] and seeds[j]:
                a, b = (
                    np.array([evaluation.solved(column.tests) for _, evaluation in seeds[k]])
                    for k in (i, j)
                )
                compared[i, j] = paired(a, b)
                compared[j, i] = compared[i, j].reversed
    cells: list[Cell] = []
    for i, row in enumerate(table.rows):
        on = reference(table, row)
        cells.append(
            Cell(
                scores=[(seed, found.scores[column.tests]) for seed, found in seeds[i]],
                difference=None if on is None else compared.get((i, table.rows.index(on))),
                others=[
                    (other.label or f"{other.method} on {other.dataset}", compared[i, j])
                    for j, other in enumerate(table.rows)
                    if (i, j) in compared and BASE not in (row.method, other.method)
                ],
            )
        )
    return cells


def release(config: Config, benchmark: str) -> str:
    """The release that a benchmark's problems are fetched from; empty for a file."""
    problems = config.benchmarks[benchmark].problems
    if not problems.startswith(RELEASE_PREFIX):
        return ""
    return f" {problems.removeprefix(RELEASE_PREFIX)}"


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is nothing, or if one is missing."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None


# ------------------------------------------------------------------ Markdown and CSV


def reading(drawn: Drawn) -> str:
    """One line on how to read a table."""
    solving = [column for column in drawn.columns if column.kind != "pairs"]
    pairs = [column for column in drawn.columns if column.kind == "pairs"]
    if drawn.columns[0].heading == "base":
        tests = "base: base tests, plus: base and plus tests"
    elif any(column.tests == "plus" for column in drawn.columns):
        tests = "NAME: base tests, NAME+: base and plus tests"
    else:
        tests = "base tests"
    order = f" ({' / '.join(drawn.benchmarks)})" if len(drawn.benchmarks) > 1 else ""
    parts = [
        *(["pass@1 in percent, greedy decoding", tests] if solving else []),
        *(
            f"{column.heading}: share of pairs, in percent, whose correct side the model finds "
            "the more probable one, not pass@1"
            for column in pairs
        ),
        f"n: {'problems' if solving else 'pairs'}{' or pairs' if solving and pairs else ''}{order}",
        *(["mean over the seeds"] if drawn.several_seeds else []),
        *([f"{PENDING}: not scored yet"] if drawn.pending else []),
        *([marks(drawn)] if drawn.compared else []),
        "95 % intervals: results.parquet",
        *([f"problems: {', '.join(drawn.problems)}"] if drawn.problems else []),
        *([f"scored without a strong sandbox: {', '.join(drawn.weak)}"] if drawn.weak else []),
    ]
    return "; ".join(parts) + "."


def marks(drawn: Drawn) -> str:
    """What the mark of a significant difference means."""
    test = "McNemar test"
    if drawn.several_seeds:
        test = "sign-flip test of the problems' means over the seeds"
    return (
        f"{SIGNIFICANT}: differs from the base row of its model at 95 % (exact {test}, "
        f"p < {LEVEL}; not corrected for the number of comparisons)"
    )


def to_markdown(drawn: Drawn, note: str | None) -> str:
    """Caption, note, the table with its columns aligned, and how to read it."""
    heading = ["group"] * drawn.grouped + ["model", "dataset", "method"]
    texts = len(heading)
    heading += [column.heading for column in drawn.columns]
    heading += ["n"] + ["seeds"] * drawn.several_seeds
    rows = []
    group = ""
    for line in drawn.lines:
        new = line.group if line.group != group else ""
        group = line.group
        rows.append(
            [
                *([new] * drawn.grouped),
                line.row.model,
                line.row.dataset or NOTHING,
                line.method,
                *(cell.marked for cell in line.cells),
                " / ".join(NOTHING if n is None else str(n) for n in line.n.values()),
                *([line.seeds or NOTHING] * drawn.several_seeds),
            ]
        )
    parts = [one_line(drawn.table.caption), *([one_line(note)] if note else [])]
    return "\n\n".join([*parts, grid(heading, rows, texts), reading(drawn)]) + "\n"


def grid(heading: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """A Markdown table; the columns after the first ``texts`` are set to the right."""
    cells = [[one_line(text).replace("|", "\\|") for text in row] for row in [heading, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(heading))]

    def drawn(row: Sequence[str]) -> str:
        aligned = [
            text.ljust(width) if i < texts else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([drawn(cells[0]), drawn(rule), *(drawn(row) for row in cells[1:])])


def one_line(text: str) -> str:
    return " ".join(text.split())


def to_csv(drawn: Drawn) -> str:
    """One row per line; what Markdown leaves out for width is here too."""
    several = len(drawn.benchmarks) > 1
    trained = any(value is not None for line in drawn.lines for value in line.held_out.values())
    rows = []
    for line in drawn.lines:
        row: dict[str, str] = {"group": line.group} if drawn.grouped else {}
        row |= {"model": line.row.model, "dataset": line.row.dataset or "", "method": line.method}
        for column, cell in zip(drawn.columns, line.cells, strict=True):
            row[column.heading] = cell.text
            if drawn.several_seeds:
                row[f"{column.heading} sd"] = number(cell.deviation, 2)
            if drawn.compared:
                row |= {
                    f"{column.heading} {what}": text
                    for what, text in difference_of(cell.difference).items()
                }
        for benchmark, n in line.n.items():
            row[f"n {benchmark}" if several else "n"] = "" if n is None else str(n)
        if drawn.several_seeds:
            row["seeds"] = line.seeds
        if trained:
            row |= {name: number(value, 4) for name, value in line.held_out.items()}
        rows.append(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def difference_of(found: Comparison | None) -> dict[str, str]:
    """A difference from the row built on: points and 95 % interval, and the test's p."""
    if found is None:
        return dict.fromkeys(("difference", "low", "high", "p"), "")
    points = {"difference": found.difference, "low": found.low, "high": found.high}
    return {
        **{what: f"{100 * value:.2f}" for what, value in points.items()},
        "p": f"{found.p:.4g}",
    }


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
