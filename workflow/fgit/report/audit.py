"""The audit of the variants, for the report: by tests, and by two readers."""

from pathlib import Path
from typing import Any

from fgit.audit.kappa import PAPER_KAPPA, PAPER_READ
from fgit.audit.sheet import kappa_command
from fgit.audit.variants import PAPER_INCORRECT, PAPER_SIMILARITY
from fgit.config import Config
from fgit.report.rendering import decimals
from fgit.scores import TESTS
from fgit.stage_reports import AuditReport, Failing, KappaReport
from fgit.steps import folder_of, output_of

PARTS = {"all": "all answers", "usable": "usable answers", "selected": "the selected ones"}


def audit_section(config: Config, results: Path) -> dict[str, Any]:
    """What is there of the audit that the config asks for.

    ``benchmarks`` has rows of cells for each audited benchmark, ``readers`` for each dataset whose
    sheet was read (``kappa.json`` beside it), ``pending`` what is asked for and not there yet.
    """
    audits = {
        name: AuditReport.find(results / folder_of("audit_variants", benchmark=name))
        for name in config.audit.benchmarks
    }
    sheets = {name: results / output_of("audit_sheet", dataset=name) for name in config.datasets}
    readings = {name: KappaReport.find(sheet.parent) for name, sheet in sheets.items()}
    return {
        "wanted": bool(config.audit.benchmarks or config.audit.sheet),
        "benchmarks": [
            {
                "benchmark": name,
                "rows": failing_rows(report),
                "left_out": ", ".join(report.canonical_fails),
            }
            for name, report in audits.items()
            if report
        ],
        "readers": [
            {"dataset": name, "rows": kappa_rows(report)}
            for name, report in readings.items()
            if report
        ],
        "pending": [
            *(f"{name} is not run yet" for name, report in audits.items() if report is None),
            *(
                f"the sheet of {name} waits for its readers, in audit/sheets/{name}, and then for "
                + kappa_command(sheet.parent)
                for name, sheet in sheets.items()
                if readings[name] is None and sheet.exists()
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
        by_tests = [(report.incorrect[tests] or {}).get(part) for tests in TESTS]
        count = "–" if by_tests[0] is None else str(by_tests[0].n)
        mean = report.similarity.get(part, {}).get("mean")
        rows.append([label, count, *map(share_and_interval, by_tests), decimals(mean, 3)])
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
        agree, both = (f"{100 * x:.0f} %" for x in (agreement.agreement, agreement.yes["both"]))
        rows.append([label, str(report.n), agree, kappa, both])
    return rows
