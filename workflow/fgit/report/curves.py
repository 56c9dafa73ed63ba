"""A table with a figure, drawn as a curve: its rows over their ``x``, a line for each column."""

import statistics
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fgit.benchmarks.kinds import kind_of
from fgit.common.files import replacing
from fgit.report.figures import BLUE, GRID, INK, NO_METADATA, ORANGE, PAGE, style, svg
from fgit.report.tables import AVERAGE, Cell, Drawn

# Okabe and Ito's colours, which colour-blind people tell apart; the first two are the page's own.
SERIES = [BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
LIGHT = {INK: "#1d232b", GRID: "#d5dbe1", PAGE: "#ffffff", BLUE: "#0072b2", ORANGE: "#d55e00"}
LEVELS = [(5, 2), (2, 2), (6, 2, 1, 2)]  # dashes of the first, second, ... level line
BESIDE = 0.012  # of the width between first and last x
SIZE = (5.6, 3.6)  # inches
DPI = 200


def curve_of(drawn: Drawn, colours: Mapping[str, str] = LIGHT) -> Figure:
    """The curve of a table; rows without ``x`` are level lines, the published best ``x`` a mark.

    Bars and bands are the 95 % intervals (:func:`interval`). What is not scored is left out, and
    named beneath the axis.

    Args:
        colours: what stands for the page's colours; by default those of a light background.
    """
    settings = drawn.table.figure
    assert settings is not None, "the table has no figure"
    level_rows = [line.row for line in drawn.lines if line.row.x is None]
    positions = sorted({line.row.x for line in drawn.lines if line.row.x is not None})
    columns = [column for column in drawn.columns if column.kind != AVERAGE]
    with style(drawn.table.caption, colours):
        figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(w_pad=0.08))  # inches
        axes = figure.add_subplot()
        curves: list[Any] = []
        levels: list[Any] = []
        for number, column in enumerate(columns):
            colour = SERIES[number % len(SERIES)]
            colour = colours.get(colour, colour)
            points = []
            for line in drawn.lines:
                cell = line.cells[number]
                if cell.mean is None:
                    continue
                if line.row.x is None:
                    label = f"{column.heading}, {line.method}"
                    dashes = (0, LEVELS[level_rows.index(line.row) % len(LEVELS)])
                    levels.append(
                        axes.axhline(cell.mean, color=colour, linestyle=dashes, label=label)
                    )
                    axes.axhspan(*interval(cell), color=colour, alpha=0.08, linewidth=0)
                else:
                    points.append((line.row.x, cell.mean, *interval(cell)))
            if points:
                # Side by side, since the columns' intervals would hide each other.
                aside = BESIDE * (positions[-1] - positions[0]) * (number - (len(columns) - 1) / 2)
                x, y, low, high = np.transpose(sorted(points))
                curves.append(
                    axes.errorbar(
                        x + aside,
                        y,
                        np.maximum(0, [y - low, high - y]),
                        color=colour,
                        marker=MARKERS[number % len(MARKERS)],
                        capsize=2.5,
                        elinewidth=0.9,
                        label=column.heading,
                    )
                )
        handles = [*curves, *levels]
        if settings.optimum is not None:
            handles.append(
                axes.axvline(
                    settings.optimum,
                    color=colours.get(INK, INK),
                    linestyle=":",
                    linewidth=1,
                    zorder=1,
                    label=f"published optimum ({settings.optimum:g})",
                )
            )
        axes.set_xlabel(settings.x)
        pairs = any(not kind_of(column.kind).programs for column in columns)
        axes.set_ylabel("percent" if pairs else "pass@1, percent")
        axes.set_xticks(positions, [f"{position:g}" for position in positions])
        axes.margins(x=0.06)
        if handles:
            figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8)
        if missing := left_out(drawn):
            figure.supxlabel(textwrap.fill(f"left out: {'; '.join(missing)}", 90), fontsize=7)
        return figure


def left_out(drawn: Drawn) -> list[str]:
    """The rows of which a number is missing, and why: ``alpha 3 (base pending)``."""
    rows = []
    for line in drawn.lines:
        cells = drawn.measured(line)
        missing = [(column.heading, cell.status) for column, cell in cells if cell.mean is None]
        states = {status for _, status in missing}
        if len(missing) == len(cells) and len(states) == 1:
            rows.append(f"{line.method} ({states.pop()})")
        elif missing:
            reasons = ", ".join(f"{heading} {status}" for heading, status in missing)
            rows.append(f"{line.method} ({reasons})")
    return rows


def interval(cell: Cell) -> tuple[float, float]:
    """A cell's 95 % interval, in percent: Wilson's, of several seeds the means of its ends."""
    ends = [score.interval for _, score in cell.scores]
    low, high = (statistics.fmean(end[side] for end in ends) for side in (0, 1))
    return low, high


def write_curve(drawn: Drawn, folder: Path, name: str) -> None:
    """Write ``NAME.svg`` and ``NAME.png`` for a light background, the same bytes each time."""
    with style(drawn.table.caption, LIGHT):
        figure = curve_of(drawn)
        with replacing(folder / f"{name}.svg") as temporary:
            figure.savefig(temporary, metadata=NO_METADATA)
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=DPI, metadata={"Software": None})


def in_page(drawn: Drawn) -> Markup:
    """The curve for the page, in its colours, light or dark."""
    with style(drawn.table.caption):
        return svg(curve_of(drawn, {}), drawn.table.caption)
