"""What became of a dataset's variants: made, selected, annotated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from fgit.annotate import UNITS
from fgit.report import figures
from fgit.report.rendering import share
from fgit.stage_reports import AnnotateReport, GenerateReport, MutateReport, SelectReport


def variants(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    """What became of a source's variants: made, selected, annotated."""
    kind = GenerateReport if source == "generate" else MutateReport
    made = kind.find(results / source / dataset)
    if made is None:
        return None
    total = made.answers if isinstance(made, GenerateReport) else made.mutants_tried
    rows = [("usable", made.usable), *made.refused.items()]
    selected = SelectReport.find(results / "select" / dataset / source)
    annotated = AnnotateReport.find(results / "annotate" / dataset / source)
    return {
        "dataset": dataset,
        "label": label,
        "made": made,
        "reasons": [
            (reason.replace("_", " "), count, share(count, total), 100 * count / max(total, 1))
            for reason, count in rows
        ],
        "selected": selected,
        "histogram": selected and histogram(selected, f"{dataset} {source}"),
        "annotated": annotated,
        "changed": annotated and changed(annotated, f"{dataset} {source}"),
    }


def histogram(report: SelectReport, salt: str) -> Markup | None:
    bins = report.distribution
    return figures.similarity_histogram(bins, salt) if counted(bins) else None


def changed(report: AnnotateReport, salt: str) -> Markup | None:
    """How much differs in a pair; None if there is no pair."""
    found = {unit: report.distribution[f"changed_{unit}"] for unit in UNITS}
    filled = any(counted(bins) for sides in found.values() for bins in sides.values())
    return figures.changed_figure(found, salt) if filled else None


def counted(bins: figures.Bins) -> int:
    return sum(count for _, _, count in bins)
