"""The report's figures, as SVG that takes its colours from the page.

matplotlib draws with stand-in colours that are then replaced by the page's CSS variables, so that
the figures are readable on a light and on a dark page. Ids come from a salt and there is no date,
so the same data gives the same bytes.
"""

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fgit.report.training import Training, curve

INK = "#010203"
GRID = "#010204"
PAGE = "#010205"
BLUE = "#010206"
ORANGE = "#010207"
COLOURS = {
    INK: "currentColor",
    GRID: "var(--line)",
    PAGE: "var(--page)",
    BLUE: "var(--first)",
    ORANGE: "var(--second)",
}
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
}
PANELS_IN_A_ROW = 3
WIDTH = 10.0  # inches
FEW_STEPS = 40  # up to here each step is a dot too
POINTS = 200  # of a curve; more cannot be told apart, and a page of many runs would be slow

# Of an SVG: none of what matplotlib writes by itself, or the bytes would change with the day.
NO_METADATA = dict.fromkeys(["Date", "Creator", "Format", "Type"])

Bins = Sequence[tuple[float, float, int]]  # where each begins and ends, and how many are in it


def style(salt: str, colours: Mapping[str, str] | None = None) -> Any:
    """The figures' look, within a block; figures of one page need salts of their own.

    Args:
        colours: what stands for the page's colours, if not the page itself gives them.
    """
    settings: Any = STYLE | {"svg.hashsalt": salt}
    if colours:
        settings = {k: colours.get(v, v) if isinstance(v, str) else v for k, v in settings.items()}
        settings["figure.facecolor"] = colours[PAGE]
    return matplotlib.rc_context(settings)


def loss_curves(trainings: Sequence[Training], names: Mapping[str, str]) -> Markup:
    """Loss per step, a small panel for each run; runs whose losses compare share their scale.

    DPO's loss is of another kind, so its panels have a scale of their own.
    """
    columns = min(PANELS_IN_A_ROW, len(trainings))
    rows = math.ceil(len(trainings) / columns)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for training in trainings:
        losses[is_dpo(training)] += [y for key in ("loss", "nll") for y in curve(training, key)[1]]
    with style("loss"):
        figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.4), layout="constrained")
        for number, training in enumerate(trainings):
            axes = figure.add_subplot(rows, columns, number + 1)
            for key, colour, line, label in [
                ("loss", BLUE, "-", "loss"),
                ("nll", ORANGE, "--", "negative log-likelihood"),
            ]:
                draw_curve(axes, curve(training, key), colour, label, line)
            scale = losses[is_dpo(training)]
            if scale and max(scale) > min(scale):
                margin = 0.06 * (max(scale) - min(scale))
                axes.set_ylim(min(scale) - margin, max(scale) + margin)
            axes.set_title(names[training.run.name])
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
            if is_dpo(training) or number % columns == 0:
                axes.set_ylabel("per pair" if is_dpo(training) else "per token")
            if number >= len(trainings) - columns:
                axes.set_xlabel("step")
        legend(figure)
        return svg(figure, "Training loss at every step, one panel for each run")


def weight_curves(trainings: Sequence[Training], names: Mapping[str, str]) -> Markup | None:
    """p̄ and p̄′ per step, and beneath them the mean weight, for each run with a dynamic weight.

    All runs share their scales. None if no run has such a weight.
    """
    weighted = [training for training in trainings if curve(training, "weight")[1]]
    if not weighted:
        return None
    columns = min(PANELS_IN_A_ROW, len(weighted))
    rows = math.ceil(len(weighted) / columns)
    panels = [
        [("p_response", BLUE, "response, p̄"), ("p_variant", ORANGE, "variant, p̄′")],
        [("weight", INK, "mean weight")],
    ]
    with style("weight"):
        figure = Figure(figsize=(WIDTH, 3.2 * rows + 0.4), layout="constrained")
        grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 2] * rows)
        for series, place in zip(panels, range(2), strict=True):
            values = [y for run in weighted for key, _, _ in series for y in curve(run, key)[1]]
            low, high = min(values, default=0), max(values, default=1)
            margin = 0.06 * (high - low) or 0.05
            for number, training in enumerate(weighted):
                row, column = divmod(number, columns)
                axes = figure.add_subplot(grid[2 * row + place, column])
                for key, colour, label in series:
                    draw_curve(axes, curve(training, key), colour, label)
                axes.set_ylim(low - margin, high + margin)
                axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
                if place == 0:
                    axes.set_title(names[training.run.name])
                    axes.tick_params(labelbottom=False)
                if column == 0:
                    axes.set_ylabel("weight" if place else "probability")
                if place == 1 and number >= len(weighted) - columns:
                    axes.set_xlabel("step")
        legend(figure)
        return svg(figure, "Mean probabilities and the mean weight at every step, for each run")


def draw_curve(
    axes: Axes, points: tuple[list[float], list[float]], colour: str, label: str, line: str = "-"
) -> None:
    """A curve over the steps; few steps are dots too, many are thinned out."""
    steps, values = (thinned(series) for series in points)
    if steps:
        marker = "o" if len(steps) <= FEW_STEPS else ""
        axes.plot(steps, values, line, color=colour, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def thinned(values: Sequence[float], most: int = POINTS) -> list[float]:
    """The means of equally many values in a row, so that at most ``most`` are left."""
    size = math.ceil(len(values) / most) or 1
    return [statistics.fmean(values[i : i + size]) for i in range(0, len(values), size)]


def legend(figure: Figure) -> None:
    """One legend for all panels, each label once."""
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper right", ncols=len(handles)
    )


def is_dpo(training: Training) -> bool:
    return training.parameters.train.objective == "dpo"


def held_out_figure(trainings: Sequence[Training], names: Mapping[str, str]) -> Markup | None:
    """Before (hollow) and after (filled), on the held-out samples: the loss, and p̄ and p̄'.

    None if no run held anything out.
    """
    trainings = [run for run in trainings if run.metrics.held_out_after.get("nll") is not None]
    if not trainings:
        return None
    panels: list[tuple[str, list[tuple[str, str, str]]]] = [
        ("Loss per token on held-out samples", [("nll", BLUE, "loss")])
    ]
    if any(run.metrics.held_out_after["p_response"] is not None for run in trainings):
        title = "Mean probability of the marked tokens"
        series = [
            ("p_response", BLUE, "response, p̄"),
            ("p_variant", ORANGE, "variant, p̄′"),
        ]
        panels.append((title, series))
    with style("held-out"):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(trainings)), layout="constrained")
        for number, (title, series) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            axes.set_title(title)
            for i, (key, colour, label) in enumerate(series):
                offset = 0.16 * (2 * i - len(series) + 1)
                for row, training in enumerate(trainings):
                    before = training.metrics.held_out_before.get(key)
                    after = training.metrics.held_out_after[key]
                    if before is not None and after is not None:
                        y = row + offset
                        axes.plot([before, after], [y, y], color=colour, linewidth=1.2)
                        axes.plot(before, y, "o", color=colour, markerfacecolor=PAGE, markersize=5)
                        axes.plot(after, y, "o", color=colour, markersize=5)
                if len(series) > 1:
                    axes.plot([], [], "o", color=colour, label=label)
            ticks = ["" if number else names[training.run.name] for training in trainings]
            axes.set_yticks(range(len(trainings)), ticks)
            axes.set_ylim(len(trainings) - 0.5, -0.5)
            axes.margins(x=0.08)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            if len(series) > 1:
                figure.legend(loc="outside lower right", ncols=2)
        return svg(figure, "Held-out figures before and after training, one line for each run")


def similarity_histogram(bins: Bins, salt: str) -> Markup | None:
    """How many pairs are in each bin of the cosine; None if there is no pair."""
    filled = [low for low, _, count in bins if count]
    if not filled:
        return None
    with style(f"similarity {salt}"):
        figure = Figure(figsize=(0.5 * WIDTH, 1.7), layout="constrained")
        axes = figure.add_subplot()
        lows, highs, counts = zip(*bins, strict=True)
        widths = [high - low for low, high, _ in bins]
        axes.bar(lows, counts, widths, align="edge", color=BLUE)
        axes.set_xlim(min(0.9, *filled, highs[-1]), highs[-1])
        axes.set_xlabel("cosine of response and variant")
        axes.set_ylabel("pairs")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        return svg(figure, "How similar the chosen variants are to the correct code")


def changed_figure(changed: Mapping[str, Mapping[str, Bins]], salt: str) -> Markup | None:
    """How many pairs have how many changed lines and characters on each side; None without pairs.

    Args:
        changed: what is counted -> side -> bins that grow with the number.
    """
    if not any(n for sides in changed.values() for bins in sides.values() for _, _, n in bins):
        return None
    with style(f"changed {salt}"):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        for number, (what, sides) in enumerate(changed.items(), start=1):
            axes = figure.add_subplot(1, len(changed), number)
            lows = sorted({low for bins in sides.values() for low, _, _ in bins})
            counts = {side: {low: n for low, _, n in bins} for side, bins in sides.items()}
            two_sided(axes, {side: [n.get(low, 0) for low in lows] for side, n in counts.items()})
            axes.set_xticks(range(len(lows)), [f"{low:g}" for low in lows])
            axes.set_xlabel(f"changed {what}, each bin from this number on")
            if number == 1:
                axes.set_ylabel("pairs")
        legend(figure)
        return svg(figure, "How many lines and characters differ in a pair, on each side")


def share_figure(trainings: Sequence[Training], names: Mapping[str, str]) -> Markup | None:
    """Which share of a pair's tokens is marked, a panel for each distribution that a run has.

    Runs that counted the same share a panel. None if no run counted it.
    """
    panels: dict[str, tuple[dict[str, list[int]], list[str]]] = {}
    for training in trainings:
        if (shares := training.metrics.marked_share) is not None:
            panels.setdefault(repr(shares), (shares, []))[1].append(names[training.run.name])
    if not panels:
        return None
    columns = min(PANELS_IN_A_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style("share"):
        figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.4), layout="constrained")
        for number, (shares, runs) in enumerate(panels.values()):
            axes = figure.add_subplot(rows, columns, number + 1)
            two_sided(axes, shares)
            bins = max(map(len, shares.values()))
            axes.set_xticks([at * bins - 0.5 for at in (0, 0.5, 1)], ["0 %", "50 %", "100 %"])
            axes.set_title(runs[0] + (f" and {len(runs) - 1} more" if len(runs) > 1 else ""))
            if number % columns == 0:
                axes.set_ylabel("pairs")
            if number >= len(panels) - columns:
                axes.set_xlabel("marked tokens")
        legend(figure)
        return svg(figure, "Which share of a pair's tokens is marked, on each side")


def two_sided(axes: Axes, sides: Mapping[str, Sequence[int]]) -> None:
    """The response's and the variant's counts beside each other, a place for each bin."""
    for side, colour, offset in (("response", BLUE, -0.4), ("variant", ORANGE, 0.0)):
        places = [place + offset for place in range(len(sides[side]))]
        axes.bar(places, sides[side], 0.4, align="edge", color=colour, label=side)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an <svg> element for the page, ``label`` being what it shows."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=NO_METADATA)
    text = out.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    width = re.search(r'width="([\d.]+)pt"', text)
    assert view and width, "matplotlib wrote no size"
    body = text[text.index(">", view.end()) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # figure_1, axes_1, …: the same in every figure
    for stand_in, colour in COLOURS.items():
        body = body.replace(stand_in, colour)
    size = f"max-width: {float(width[1]) * 4 / 3:.0f}px"
    return Markup(
        f'<svg role="img" aria-label="{escape(label)}" {view[0]} style="{size}">{body.strip()}'
    )
