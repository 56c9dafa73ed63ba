"""A plan as text, for people, and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from fgit.config import PlanSettings
from fgit.plan.costs import ITEMS, Plan, Sum

HEADINGS = ["stage", "jobs", "done", "items", "", "tokens", "GPU-h", "core-h", "longest h"]
HEADINGS += ["disk kept", "at peak", "hours are"]


def as_text(plan: Plan) -> str:
    """The plan as an aligned table, with the figures that it rests on below."""
    rows = [HEADINGS, *map(cells, [*plan.stages, plan.total])]
    lines = aligned(rows, left={0, 4, len(HEADINGS) - 1})
    rule = "-" * max(len(line) for line in lines)
    text = [lines[0], rule, *lines[1:-1], rule, lines[-1], ""]
    text += [
        "What is done is left out of all but the first two columns. Sizes are upper bounds: "
        "samples before decontamination, files uncompressed.",
        f"At peak: {plan.settings.trainings_at_once} training(s) at a time "
        "(plan.trainings_at_once), each with three checkpoints, 36 bytes a parameter.",
        "",
        "The hours rest on (key plan of the config):",
    ]
    figures = [
        [name, f"{estimate.value:,g}", estimate.basis, estimate.note]
        for name, estimate in plan.used().items()
    ]
    text += [f"  {line}" for line in aligned(figures, left={0, 2, 3})] or ["  nothing"]
    return "\n".join(text) + "\n"


def cells(line: Sum) -> list[str]:
    unit = ITEMS.get(line.name, "") if line.items else ""
    items = f"{line.items:,}" if unit else ""
    figures = {
        millions: [line.tokens],
        hours: [line.gpu_hours, line.cpu_hours, line.longest],
        gigabytes: [line.kept, line.peak],
    }
    texts = [form(value) if value else "" for form, values in figures.items() for value in values]
    return [line.name, f"{line.jobs:,}", f"{line.done:,}", items, unit, *texts, line.basis]


def millions(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e6 else f"{tokens / 1e3:,.1f} k"


def hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 else "<0.1"


def gigabytes(value: float) -> str:
    return f"{value / 1e9:,.0f} GB" if value >= 1e9 else f"{max(value / 1e6, 1):,.0f} MB"


def aligned(rows: Sequence[Sequence[str]], left: set[int]) -> list[str]:
    """Lines of columns, aligned to the right but for those in ``left``."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    return {
        "total": dataclasses.asdict(plan.total),
        "stages": [dataclasses.asdict(stage) for stage in plan.stages],
        "jobs": [dataclasses.asdict(job) for job in plan.jobs],
        "settings": plan.settings.model_dump(),
    }


def as_yaml(settings: PlanSettings) -> str:
    """The settings as the config's section, without what is the default."""
    values = {"plan": settings.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
