"""The audit of the variants, for the report: by tests, and by two readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgit.audit.kappa import PAPER_KAPPA, PAPER_READ
from fgit.audit.sheet import kappa_command
from fgit.audit.variants import PAPER_INCORRECT, PAPER_SIMILARITY
from fgit.config import Config
from fgit.report.rendering import decimals
from fgit.scores import TESTS
from fgit.stage_reports import AuditReport, Failing, KappaReport

PARTS = {"all": "all answers", "usable": "usable answers", "selected": "the selected ones"}


def section(config: Config, results: Path) -> dict[str, Any]:
    """What is there of the audit that the config asks for.

    ``benchmarks`` has rows of cells for each audited benchmark, ``readers`` for each dataset whose
    sheet was read (``kappa.json`` beside it), ``pending`` what is asked for and not there yet.

    Raises:
        UserError: naming the file, if one that is there lacks something.
    """
    folder = results / "audit"
    tested = {name: AuditReport.find(folder / name) for name in config.audit.benchmarks}
    read = {name: KappaReport.find(folder / "sheets" / name) for name in config.datasets}
    sheets = [name for name in read if (folder / "sheets" / name / "sheet.json").exists()]
    return {
        "asked": bool(config.audit.benchmarks or config.audit.sheet),
        "benchmarks": [
            {
                "benchmark": name,
                "rows": failing_rows(report),
                "left_out": ", ".join(report.canonical_fails),
            }
            for name, report in tested.items()
            if report is not None
        ],
        "readers": [
            {"dataset": name, "rows": kappa_rows(report)}
            for name, report in read.items()
            if report is not None
        ],
        "pending": [
            *(f"{name} is not run yet" for name, report in tested.items() if report is None),
            *(
                f"the sheet of {name} waits for its readers, in audit/sheets/{name}, and then for "
                + kappa_command(folder / "sheets" / name)
                for name in sheets
                if read[name] is None
            ),
        ],
        "paper": {
            "incorrect": f"{100 * PAPER_INCORRECT:.1f} %",
            "similarity": f"{PAPER_SIMILARITY:.2f}",
            "read": f"{100 * PAPER_READ:.0f} %",
            "kappa": f"{PAPER_KAPPA:.2f}",
        },
    }


def failing_rows(report: AuditReport) -> list[list[str]]:
    """Which answers, how many, what share of them fails the base and the plus tests, similarity."""
    rows = []
    for part, label in PARTS.items():
        answers = map(report.incorrect.get, TESTS)
        failing = [by_answers[part] if by_answers else None for by_answers in answers]
        mean = report.similarity[part]["mean"] if part in report.similarity else None
        count = "–" if failing[0] is None else str(failing[0].n)
        rows.append([label, count, *map(share_and_interval, failing), decimals(mean, 3)])
    return rows


def share_and_interval(failing: Failing | None) -> str:
    """``94.1 % (92.0 to 95.7)``."""
    if failing is None or failing.share is None or failing.interval is None:
        return "–"
    low, high = failing.interval
    return f"{100 * failing.share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def kappa_rows(report: KappaReport) -> list[list[str]]:
    """What was asked, how many pairs, agreement, kappa, and the share to which both say yes."""
    rows = []
    for agreement, label in (
        (report.incorrect, "incorrect"),
        (report.similar, "similar"),
        (report.both, "similar and incorrect"),
    ):
        kappa = "not defined: one and the same answer throughout"
        if agreement.kappa is not None and agreement.interval is not None:
            low, high = agreement.interval
            kappa = f"{agreement.kappa:.2f} ({low:.2f} to {high:.2f})"
        rows.append(
            [
                label,
                str(report.n),
                f"{100 * agreement.agreement:.0f} %",
                kappa,
                f"{100 * agreement.yes['both']:.0f} %",
            ]
        )
    return rows
