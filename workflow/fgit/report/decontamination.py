"""What decontaminate removed of a dataset and why, for the report."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from fgit.common.code_blocks import CODE_FORMS, NOTES
from fgit.stage_reports import DecontaminateReport, SelectReport


def section(results: Path, dataset: str) -> dict[str, Any] | None:
    """What decontaminate's report says; None if there is none yet.

    Raises:
        UserError: naming the file, if it lacks something.
    """
    report = DecontaminateReport.find(results / "decontaminate" / dataset)
    if report is None:
        return None
    return {
        "dataset": dataset,
        "report": report,
        "forms": forms(results, dataset),
        "path": f"decontaminate/{dataset}/matches.parquet",
    }


def forms(results: Path, dataset: str) -> dict[str, list[tuple[str, int, str, float]]] | None:
    """How many of the kept responses have which form, as select counts them; None before that."""
    paths = sorted(results.glob(f"select/{glob.escape(dataset)}/*/report.json"))
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


def form_row(words: str, count: int, kept: int) -> tuple[str, int, str, float]:
    """What is counted, how many, and the share of the kept samples in words and in percent."""
    percent = 100 * count / max(kept, 1)
    return words, count, f"{percent:.1f} %", percent
