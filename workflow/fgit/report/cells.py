"""What the page says of a number of a table, beyond the number."""

from collections.abc import Container
from typing import Any

from fgit.common.statistics import Comparison
from fgit.config import Config
from fgit.report.lineage import number_key
from fgit.report.tables import Cell, Column, Drawn, Line
from fgit.runs import runs_of


def cell_data(
    config: Config, line: Line, column: Column, cell: Cell, chains: Container[str]
) -> dict[str, Any]:
    """What the panel says of a number beyond its hint: JSON-like."""
    return {
        "text": cell.marked,
        "value": cell.mean,
        "published": cell.published,
        "chains": [
            (run.name, key)
            for run in runs_of(config, line.row)
            if (key := number_key(run.name, column.benchmark)) in chains
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
    lines += [f"against {name}: {in_points(other)}" for name, other in cell.others]
    if not cell.scores:
        lines.append(without_scores(cell))
    if cell.published is not None:
        difference = None if cell.mean is None else cell.mean - cell.published
        ours = "" if difference is None else f"; ours is {difference:+.1f} points from it"
        lines.append(f"published: {cell.published:.1f}{ours}")
    return "\n".join(lines)


def without_scores(cell: Cell) -> str:
    """Why a cell has no scores of its own."""
    if cell.mean is not None:
        return "mean over the columns"
    if cell.status == "failed":
        return "failed" + (f": see {cell.log}" if cell.log else "")
    return "quoted, not run" if cell.status == "quoted" else "not scored yet"


def in_points(comparison: Comparison) -> str:
    """A difference with its 95 % interval, and the exact test's p."""
    low, high = (f"{100 * end:+.1f}" for end in (comparison.low, comparison.high))
    points = f"{100 * comparison.difference:+.1f} points"
    return f"{points} ({low} to {high}), p {comparison.p:.2g}"


def column_size(column: Column, drawn: Drawn) -> int | None:
    """How many problems a column's scores are of; None while nothing is scored."""
    counts = (line.n.get(column.benchmark) for line in drawn.lines)
    return next((n for n in counts if n is not None), None)


def spread(cell: Cell) -> str:
    """Beneath a number: the interval of one run, or the standard deviation over the seeds."""
    if cell.deviation is not None:
        return f"± {cell.deviation:.1f}"
    if not cell.scores:
        return ""
    low, high = cell.scores[0][1].interval
    return f"{low:.1f} to {high:.1f}"
