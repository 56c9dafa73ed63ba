"""What decontaminate removed of a dataset and why, for the report."""

import glob
from pathlib import Path
from typing import Any

from fgit.common.code_blocks import CODE_FORMS, NOTES
from fgit.stage_reports import DecontaminateReport, SelectReport
from fgit.steps import folder_of


def decontamination_section(results: Path, dataset: str) -> dict[str, Any] | None:
    """What decontaminate's report says; None if there is none yet."""
    folder = folder_of("decontaminate", dataset=dataset)
    report = DecontaminateReport.find(results / folder)
    if report is None:
        return None
    return {
        "dataset": dataset,
        "report": report,
        "forms": share_of_forms(results, dataset),
        "path": f"{folder}/matches.parquet",
    }


def share_of_forms(
    results: Path, dataset: str
) -> dict[str, list[tuple[str, int, str, float]]] | None:
    """How many of the clean responses have which form, as select counts; None before that."""
    folders = folder_of("select", dataset=glob.escape(dataset), source="*")
    paths = sorted(results.glob(f"{folders}/{SelectReport.file}"))
    if not paths:
        return None
    report = SelectReport.read(paths[0])  # the source of the variants changes nothing
    counts, samples = report.forms, report.samples
    return {
        "forms": [
            form_row(words, counts.get(form, 0), samples) for form, words in CODE_FORMS.items()
        ],
        "notes": [
            form_row(words, counts[note], samples)
            for note, words in NOTES.items()
            if counts.get(note)
        ],
    }


def form_row(words: str, count: int, samples: int) -> tuple[str, int, str, float]:
    """What is counted, how many, and their share of the clean samples, as text and in percent."""
    percent = 100 * count / max(samples, 1)
    return words, count, f"{percent:.1f} %", percent
