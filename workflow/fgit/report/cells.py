"""What the page says of a number of a table, beyond the number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fgit.common.statistics import Comparison
from fgit.config import Config
from fgit.report.lineage import Chains, key_of
from fgit.report.tables import AVERAGE, Cell, Column, Drawn, Line
from fgit.runs import runs_of


def cells_of(tables: Mapping[str, Drawn]) -> Iterator[Cell]:
    """Every number of the tables, averages not among them."""
    for drawn in tables.values():
        for line in drawn.lines:
            for column, cell in zip(drawn.columns, line.cells, strict=True):
                if column.kind != AVERAGE:
                    yield cell


def cell_data(
    config: Config, line: Line, column: Column, cell: Cell, chains: Chains
) -> dict[str, Any]:
    """What the panel says of a number beyond its hint: JSON-like."""
    return {
        "text": cell.marked,
        "value": cell.mean,
        "published": cell.published,
        "chains": [
            (run.name, key)
            for run in runs_of(config, line.row)
            if (key := key_of(run.name, column.benchmark)) in chains.numbers
        ],
    }


def hint(cell: Cell) -> str:
    """What a cell's number rests on: problems solved and 95 % interval, for each seed.

    Then how it differs from the row that it builds on, and from the other rows of its model.
    """
    lines = []
    for seed, score in cell.scores:
        low, high = score.interval
        text = f"{score.passed} of {score.n} problems; 95 % interval {low:.1f} to {high:.1f}"
        lines.append(text if len(cell.scores) == 1 else f"seed {seed}: {text}")
    if cell.difference is not None:
        lines.append(f"against its base model: {in_points(cell.difference)}")
    lines += [f"against {name}: {in_points(found)}" for name, found in cell.others]
    if not cell.scores:
        lines.append(without_scores(cell))
    if cell.published is not None:
        lines.append(f"published: {cell.published:.1f}{from_published(cell)}")
    return "\n".join(lines)


def from_published(cell: Cell) -> str:
    """By how much ours differs from the published number."""
    if cell.mean is None or cell.published is None:
        return ""
    return f"; ours is {cell.mean - cell.published:+.1f} points from it"


def without_scores(cell: Cell) -> str:
    """Why a cell has no scores of its own."""
    if cell.mean is not None:
        return "mean over the columns"
    if cell.status == "failed":
        return "failed" + (f": see {cell.log}" if cell.log else "")
    return "quoted, not run" if cell.status == "quoted" else "not scored yet"


def in_points(found: Comparison) -> str:
    """A difference with its 95 % interval, and the exact test's p."""
    low, high = (f"{100 * end:+.1f}" for end in (found.low, found.high))
    return f"{100 * found.difference:+.1f} points ({low} to {high}), p {found.p:.2g}"


def asked_of(column: Column, drawn: Drawn) -> int | None:
    """How many problems a column's scores are of; None while nothing is scored."""
    found = (line.n.get(column.benchmark) for line in drawn.lines)
    return next((n for n in found if n is not None), None)


def spread(cell: Cell) -> str:
    """Beneath a number: the interval of one run, or the standard deviation over the seeds."""
    if cell.deviation is not None:
        return f"± {cell.deviation:.1f}"
    if not cell.scores:
        return ""
    low, high = cell.scores[0][1].interval
    return f"{low:.1f} to {high:.1f}"
