"""The audit of the variants, for the report: by tests, and by two readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgit.audit.stage import (
    KAPPA,
    PAPER_INCORRECT,
    PAPER_KAPPA,
    PAPER_READ,
    PAPER_SIMILARITY,
    TESTS,
    kappa_command,
)
from fgit.config import Config
from fgit.report.facts import Facts

PARTS = {"all": "all answers", "usable": "usable answers", "selected": "the selected ones"}


def section(config: Config, results: Path) -> dict[str, Any]:
    """What is there of the audit that the config asks for.

    ``benchmarks`` has rows of cells for each audited benchmark, ``readers`` for each dataset whose
    sheet was read (``kappa.json`` beside it), ``pending`` what is asked for and not there yet.

    Raises:
        UserError: naming the file, if one that is there lacks something.
    """
    folder = results / "audit"
    tested = {name: folder / name / "audit.json" for name in config.audit.benchmarks}
    read = {name: folder / "sheets" / name / KAPPA for name in config.datasets}
    sheets = [name for name in read if (folder / "sheets" / name / "sheet.json").exists()]
    return {
        "asked": bool(config.audit.benchmarks or config.audit.sheet),
        "benchmarks": [
            {
                "benchmark": name,
                "rows": rows(facts),
                "left_out": ", ".join(map(str, facts.get("canonical_fails"))),
            }
            for name, path in tested.items()
            if path.exists()
            for facts in [Facts.read(path, "audit")]
        ],
        "readers": [
            {"dataset": name, "rows": agreement(Facts.read(path, "audit kappa"))}
            for name, path in read.items()
            if path.exists()
        ],
        "pending": [
            *(f"{name} is not run yet" for name, path in tested.items() if not path.exists()),
            *(
                f"the sheet of {name} waits for its readers, in audit/sheets/{name}, and then for "
                + kappa_command(folder / "sheets" / name)
                for name in sheets
                if not read[name].exists()
            ),
        ],
        "paper": {
            "incorrect": f"{100 * PAPER_INCORRECT:.1f} %",
            "similarity": f"{PAPER_SIMILARITY:.2f}",
            "read": f"{100 * PAPER_READ:.0f} %",
            "kappa": f"{PAPER_KAPPA:.2f}",
        },
    }


def rows(facts: Facts) -> list[list[str]]:
    """Which answers, how many, what share of them fails the base and the plus tests, similarity."""
    incorrect, similarity = facts.part("incorrect"), facts.part("similarity")
    found = []
    for part, label in PARTS.items():
        shares = [
            share(incorrect.part(tests).part(part)) if incorrect.get(tests) is not None else "–"
            for tests in TESTS
        ]
        mean = similarity.part(part).number_or_none("mean") if part in similarity.values else None
        count = str(incorrect.part("base").part(part).count("n"))
        found.append([label, count, *shares, "–" if mean is None else f"{mean:.3f}"])
    return found


def share(facts: Facts) -> str:
    """``94.1 % (92.0 to 95.7)``."""
    value, interval = facts.number_or_none("share"), facts.get("interval")
    return "–" if value is None else f"{100 * value:.1f} % ({in_percent(facts, interval)})"


def in_percent(facts: Facts, interval: Any) -> str:
    low, high = bounds(facts, interval)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def bounds(facts: Facts, interval: Any) -> list[float]:
    numbers = interval if isinstance(interval, list) else []
    if len(numbers) != 2 or not all(isinstance(value, int | float) for value in numbers):
        raise facts.wrong("interval", f"not two numbers but {interval!r:.60}")
    return numbers


def agreement(facts: Facts) -> list[list[str]]:
    """What was asked, how many pairs, agreement, kappa, and the share to which both say yes."""
    found = []
    for question, label in {
        "incorrect": "incorrect",
        "similar": "similar",
        "both": "similar and incorrect",
    }.items():
        part = facts.part(question)
        kappa = part.number_or_none("kappa")
        text = "not defined: one and the same answer throughout"
        if kappa is not None:
            low, high = bounds(part, part.get("interval"))
            text = f"{kappa:.2f} ({low:.2f} to {high:.2f})"
        found.append(
            [
                label,
                str(facts.count("n")),
                f"{100 * part.number('agreement'):.0f} %",
                text,
                f"{100 * part.part('yes').number('both'):.0f} %",
            ]
        )
    return found
