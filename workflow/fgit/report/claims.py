"""The claims that tables should yield: relative improvements, ours and published."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from fgit.common.files import write_text
from fgit.config import BASE, Claim, Config
from fgit.report.formats import csv_of, escape_markdown, grid, number_text
from fgit.report.tables import DASH, PENDING, Drawn, Line


@dataclasses.dataclass(frozen=True)
class Claimed:
    """A claim of the config, and what the tables say; figures in percent."""

    claim: Claim
    models: list[str]  # those counted: of the tables, with both rows
    ours: float | None  # None while a number is missing; NaN over a mean of 0
    quoted: float | None  # the same, from the published numbers


def relative_improvement(values_of: Sequence[float], values_over: Sequence[float]) -> float:
    """The change of the mean over the columns, relative to ``values_over``, in percent.

    Raises:
        ZeroDivisionError: if the mean of ``values_over`` is 0.
    """
    return 100 * (statistics.fmean(values_of) / statistics.fmean(values_over) - 1)


def claims_of(config: Config, tables: Mapping[str, Drawn]) -> list[Claimed]:
    """What the tables say to each claim of which all tables are drawn."""
    return [
        claimed(claim, [tables[name] for name in claim.tables])
        for claim in config.claims
        if all(name in tables for name in claim.tables)
    ]


def claimed(claim: Claim, tables: Sequence[Drawn]) -> Claimed:
    """The mean of the relative improvements over the models, each model and dataset once."""
    changes: dict[tuple[str, str | None], tuple[float | None, float | None]] = {}
    for drawn in tables:
        for of in drawn.lines:
            if of.row.method != claim.of or (claim.models and of.row.model not in claim.models):
                continue
            over = next((line for line in drawn.lines if builds_on(claim, of, line)), None)
            if over is not None:
                both = change(drawn, of, over, "mean"), change(drawn, of, over, "published")
                changes.setdefault((of.row.model, of.row.dataset), both)
    models = list(dict.fromkeys(model for model, _ in changes))
    ours, quoted = zip(*changes.values(), strict=True) if changes else ((), ())
    return Claimed(claim, models, mean_of_all(ours), mean_of_all(quoted))


def builds_on(claim: Claim, of: Line, over: Line) -> bool:
    """Whether ``over`` is the row that ``of`` is compared with: of its model, and its dataset."""
    same = over.row.method == BASE or over.row.dataset == of.row.dataset
    return over.row.method == claim.over and over.row.model == of.row.model and same


def change(drawn: Drawn, of: Line, over: Line, what: str) -> float | None:
    """The relative improvement of one row.

    None while a number is missing, of one of the seeds too; NaN over a mean of 0.
    """
    if what == "mean" and any(" of " in line.seeds for line in (of, over)):
        return None
    sides = [[getattr(cell, what) for _, cell in drawn.measured(line)] for line in (of, over)]
    if any(value is None for values in sides for value in values):
        return None
    if not any(sides[1]):
        return math.nan
    return relative_improvement(*sides)


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """None while a value is missing, or where there is none."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None


def write_claims(folder: Path, claims: Sequence[Claimed]) -> None:
    """Write ``claims.md`` and ``claims.csv``; nothing without claims."""
    if claims:
        write_text(folder / "claims.md", claims_markdown(claims))
        write_text(folder / "claims.csv", claims_csv(claims))


def claims_markdown(claims: Sequence[Claimed]) -> str:
    heading = ["claim", "tables", "models", "ours", "from the published numbers", "published"]
    rows = [
        [
            escape_markdown(item.claim.label),
            ", ".join(item.claim.tables),
            ", ".join(item.models) or DASH,
            improvement_text(item.ours, PENDING),
            improvement_text(item.quoted, DASH, 2),
            number_text(item.claim.published, 1) or DASH,
        ]
        for item in claims
    ]
    how = (
        "Relative change, in percent, of the mean over a table's columns; the mean over the models."
    )
    return f"Claims\n\n{grid(heading, rows, 3)}\n\n{how}\n"


def improvement_text(value: float | None, missing: str, digits: int = 1) -> str:
    """A relative improvement; ``missing`` if it is None, and ``undefined`` over a mean of 0."""
    if value is None:
        return missing
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def claims_csv(claims: Sequence[Claimed]) -> str:
    return csv_of(
        [
            {
                "claim": item.claim.label,
                "tables": " ".join(item.claim.tables),
                "of": item.claim.of,
                "over": item.claim.over,
                "models": " ".join(item.models),
                "ours": improvement_text(item.ours, "", 4),
                "from published numbers": improvement_text(item.quoted, "", 4),
                "published": number_text(item.claim.published, 1),
            }
            for item in claims
        ]
    )
