"""How far two readers of a sheet agree: Cohen's kappa (section III-B1)."""

import dataclasses
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgit.audit.sheet import read_sheet
from fgit.common.errors import UserError
from fgit.stage_reports import KappaReport

# Of 50 variants that two of the authors of the paper read (section III-B1): the share that is
# similar and incorrect, and Cohen's kappa.
PAPER_READ = 0.94
PAPER_KAPPA = 0.78

QUESTIONS = ("incorrect", "similar")
Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its asymptotic 95 % interval, cut to [-1, 1]."""

    value: float
    low: float
    high: float


def cohens_kappa(table: npt.ArrayLike) -> Kappa | None:
    """Agreement of two readers beyond chance: (p_o - p_e) / (1 - p_e).

    The interval is that of the large-sample variance (Fleiss, Cohen and Everitt, 1969); where the
    readers agree on everything it has no width.

    Args:
        table: counts, Int[c, c]: row by the first reader's answer, column by the second's, both
            in the same order of the c answers; not all 0.

    Returns:
        None where kappa is not defined: both readers give one and the same answer throughout.
    """
    counts = np.asarray(table, dtype=np.float64)
    n = counts.sum()
    p = counts / n
    row, column = p.sum(1), p.sum(0)
    agreement, chance = float(np.trace(p)), float(row @ column)
    if np.isclose(chance, 1.0, rtol=0, atol=1e-12):
        return None
    kappa = (agreement - chance) / (1 - chance)
    # sums[i, j]: column marginal of i plus row marginal of j, as the variance weighs cell (i, j).
    sums = column[:, None] + row[None, :]
    weights = ((1 - agreement) * sums) ** 2
    np.fill_diagonal(weights, ((1 - chance) - np.diag(sums) * (1 - agreement)) ** 2)
    centre = (agreement * chance - 2 * chance + agreement) ** 2
    variance = (float((p * weights).sum()) - centre) / (n * (1 - chance) ** 4)
    half = Z95 * math.sqrt(max(0.0, variance))
    return Kappa(kappa, max(-1.0, kappa - half), min(1.0, kappa + half))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a reader says of one pair."""

    number: str
    incorrect: bool
    similar: bool

    @property
    def both(self) -> bool:
        return self.incorrect and self.similar


def kappa(first: Path, second: Path, out: Path | None = None) -> None:
    """Compare the answers of two readers; print how far they agree, and what is to be discussed.

    Args:
        out: :class:`fgit.stage_reports.KappaReport`.

    Raises:
        UserError: naming file, row and value, if an answer is missing or neither yes nor no, or if
            the files are not about the same pairs.
    """
    readings = read_answers(first), read_answers(second)
    check_same_pairs(readings, (first, second))
    report = KappaReport(
        n=len(readings[0]),
        readers=[str(first), str(second)],
        **{question: agreement_on(question, *readings) for question in (*QUESTIONS, "both")},
    )
    if out is not None:
        report.write(out)
    print(agreement_in_words(report))


def agreement_on(
    question: str, first: Mapping[str, Reading], second: Mapping[str, Reading]
) -> dict[str, Any]:
    """How far two readers of the same pairs (by id) agree on one question."""
    says = operator.attrgetter(question)
    answers = {key: (says(first[key]), says(second[key])) for key in first}
    cells, n = Counter(answers.values()), len(first)
    both, first_only = cells[True, True], cells[True, False]
    second_only, neither = cells[False, True], cells[False, False]
    kappa = cohens_kappa([[both, first_only], [second_only, neither]])
    return {
        "table": {"yes/yes": both, "yes/no": first_only, "no/yes": second_only, "no/no": neither},
        "agreement": (both + neither) / n,
        "kappa": kappa.value if kappa else None,
        "interval": [kappa.low, kappa.high] if kappa else None,
        "yes": {
            "first": (both + first_only) / n,
            "second": (both + second_only) / n,
            "both": both / n,
        },
        "disagreements": [first[key].number for key, (a, b) in answers.items() if a != b],
    }


def agreement_in_words(report: KappaReport) -> str:
    lines = [f"{report.n} pairs, read by {' and '.join(report.readers)}"]
    for question, agreement in {
        "incorrect": report.incorrect,
        "similar": report.similar,
        "similar and incorrect": report.both,
    }.items():
        kappa = "is not defined, since both readers give one and the same answer throughout"
        if agreement.kappa is not None and agreement.interval is not None:
            low, high = agreement.interval
            kappa = f"{agreement.kappa:.2f} (95 % interval {low:.2f} to {high:.2f})"
        yes, table = agreement.yes, agreement.table
        lines += [
            "",
            f"{question}:",
            f"  the readers agree on {100 * agreement.agreement:.0f} %; Cohen's kappa {kappa}",
            f"  yes: {100 * yes['first']:.0f} % and {100 * yes['second']:.0f} %, both "
            f"{100 * yes['both']:.0f} %",
            f"  {'':<12}{'second yes':>12}{'second no':>12}",
            *(
                f"  {'first ' + a:<12}{table[f'{a}/yes']:>12}{table[f'{a}/no']:>12}"
                for a in ("yes", "no")
            ),
        ]
        if agreement.disagreements:
            lines.append(f"  to be discussed: {', '.join(agreement.disagreements)}")
    lines += [
        "",
        f"The paper, after discussion: {100 * PAPER_READ:.0f} % similar and incorrect, kappa "
        f"{PAPER_KAPPA}",
    ]
    return "\n".join(lines)


def read_answers(path: Path) -> dict[str, Reading]:
    """What a reader answered, by the pair's id.

    Raises:
        UserError: naming row and value, if an answer is missing, or neither yes nor no.
    """
    readings: dict[str, Reading] = {}
    for line, row in read_sheet(path):
        answers = {}
        for question in QUESTIONS:
            value = row[question].strip().lower()
            if value not in ("yes", "no"):
                what = f"is {row[question]!r:.60}" if value else "is not filled in"
                raise UserError(
                    f"{path}, row {line} (number {row['number']}): {question!r} {what}; "
                    "answer yes or no"
                )
            answers[question] = value == "yes"
        if row["id"] in readings:
            raise UserError(
                f"{path}, row {line}: id {row['id']!r} stands twice; a pair is judged once"
            )
        readings[row["id"]] = Reading(row["number"].strip(), **answers)
    if not readings:
        raise UserError(f"{path}: no answers in this file")
    return readings


def check_same_pairs(readings: Sequence[Mapping[str, Reading]], paths: Sequence[Path]) -> None:
    """Raise UserError unless both readers judged the same pairs, under the same numbers."""
    one, two = zip(readings, paths, strict=True)
    for (mine, here), (other, there) in ((one, two), (two, one)):
        for name, reading in mine.items():
            if name not in other:
                raise UserError(
                    f"{there}: no answer about id {name!r}, which is number {reading.number} in "
                    f"{here}; both readers judge the same sheet"
                )
            if other[name].number != reading.number:
                raise UserError(
                    f"{there}: id {name!r} is number {other[name].number!r}, but number "
                    f"{reading.number!r} in {here}; both readers judge the same sheet"
                )
