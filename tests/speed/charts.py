"""Charts of benchmark results, as SVG files that are readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from fgit.report.figures import BLUE, INK, ORANGE, WIDTH, style, svg

COLOURS = """<style>
  svg { color: #1d232b; --page: #ffffff; --line: #d5dbe1; --first: #1666b0; --second: #c4551a; }
  @media (prefers-color-scheme: dark) {
    svg { color: #e4e8ec; --page: #14181d; --line: #38414b; --first: #6bb1f5; --second: #f2935c; }
  }
</style>"""

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def train_step_chart(labels: Mapping[str, str], result: Mapping[str, Any]) -> str:
    """Seconds per step relative to standard SFT, and peak memory, a bar for each contender.

    Args:
        labels: what to call a contender.
        result: what ``train_step.py`` writes; with ``sft`` among the contenders.
    """
    contenders = result["contenders"]
    names = list(contenders)
    unit = contenders["sft"]["seconds_per_step"] if "sft" in contenders else None
    seconds = [contenders[name]["seconds_per_step"] for name in names]
    relative = [value / unit for value in seconds] if unit else seconds
    memory = [contenders[name]["peak_memory_gb"] for name in names]
    panels = [
        ("Time per optimizer step" + (", standard SFT = 1" if unit else ", seconds"), relative),
        ("Peak memory, GB", memory),
    ]
    times = [f"{value:.2f} s" for value in seconds]
    if unit:
        times = [f"{r:.2f}  ({text})" for r, text in zip(relative, times, strict=True)]
    texts = [times, [f"{value:.2f}" for value in memory]]
    with style("train step"):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.36 * len(names)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        for axes, (title, values), written in zip([left, right], panels, texts, strict=True):
            colours = [BLUE if name in ("sft", "fgit") else ORANGE for name in names]
            axes.barh(range(len(names)), values, height=0.6, color=colours)
            for row, (value, text) in enumerate(zip(values, written, strict=True)):
                axes.annotate(
                    text,
                    (value, row),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    color=INK,
                )
            axes.set_title(title)
            axes.set_xlim(0, 1.3 * max(values))
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks(range(len(names)), [""] * len(names))
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        left.set_yticks(range(len(names)), [labels[name] for name in names])
        return standalone(str(svg(figure, "Time per optimizer step and peak memory")))


def standalone(element: str) -> str:
    """A file of its own from an <svg> element that takes its colours from a page."""
    tag, _, body = element.partition(">")
    return f"{tag.replace('<svg', f'<svg {NAMESPACES}', 1)}>{COLOURS}{body}\n"
