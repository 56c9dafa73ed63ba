"""What became of a dataset's variants: made, selected, annotated."""

from pathlib import Path
from typing import Any

from fgit.annotate import UNITS
from fgit.report import figures
from fgit.report.rendering import share
from fgit.stage_reports import AnnotateReport, GenerateReport, MutateReport, SelectReport
from fgit.steps import folder_of


def variants_section(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    """What became of a source's variants: made, selected, annotated."""
    report: GenerateReport | MutateReport | None
    if source == "generate":
        report = GenerateReport.find(results / folder_of("gather", dataset=dataset))
    else:
        report = MutateReport.find(results / folder_of("mutate", dataset=dataset))
    if report is None:
        return None
    total = report.answers if isinstance(report, GenerateReport) else report.mutants_tried
    rows = [("usable", report.usable), *report.refused.items()]
    place, salt = {"dataset": dataset, "source": source}, f"{dataset} {source}"
    selected = SelectReport.find(results / folder_of("select", **place))
    annotated = AnnotateReport.find(results / folder_of("annotate", **place))
    changed = annotated and {u: annotated.distribution[f"changed_{u}"] for u in UNITS}
    return {
        "dataset": dataset,
        "label": label,
        "report": report,
        "reasons": [
            (reason.replace("_", " "), count, share(count, total), 100 * count / max(total, 1))
            for reason, count in rows
        ],
        "selected": selected,
        "histogram": selected and figures.similarity_histogram(selected.distribution, salt),
        "annotated": annotated,
        "changed": changed and figures.changed_figure(changed, salt),
    }
