"""Are the teacher's variants incorrect? By the tests of benchmarks (section III-B1).

The teacher writes variants of a benchmark's canonical solutions, and these are run against the
benchmark's own tests. Of the training data, which has no tests, two people read a sheet of pairs
(:mod:`fgit.audit.sheet`).
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit.audit.records import check_kind, record_of
from fgit.benchmarks.kinds import programs_of
from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.code_blocks import main_code
from fgit.common.errors import UserError
from fgit.config import BenchmarkKind, ScoreSettings, SelectSettings
from fgit.scores import TESTS
from fgit.stage_reports import AuditReport, means
from fgit.variants import ANSWERS, read_variants

log = logging.getLogger(__name__)

# Section III-B1 of the paper: the share of the variants of HumanEval and MBPP that fail their
# tests, and their mean cosine similarity.
PAPER_INCORRECT = 0.941
PAPER_SIMILARITY = 0.95

AUDIT_COLUMNS: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "k": pl.Int64,
    "code": pl.String,
    "refused": pl.String,
    "similarity": pl.Float64,
    "base_status": pl.String,
    "plus_status": pl.String,
    "wrong": pl.Boolean,
    "selected": pl.Boolean,
}


def variants(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    variants: Path,
    out: Path,
    scoring: ScoreSettings,
    selection: SelectSettings,
    threads: int,
    sha256: str | None = None,
) -> None:
    """Run the teacher's variants of a benchmark's solutions against the benchmark's tests.

    Writes in the folder ``out``:

    * ``variants.parquet`` (:data:`AUDIT_COLUMNS`), a row per answer: code (null where refused, and
      ``refused`` says why), similarity (cosine to the canonical code, by the embedder of select),
      the outcome of the base and of the plus tests, wrong (some test fails), and selected (what
      select would choose). Of a refused answer what code it has is run too, so that its outcome
      is known; an answer without code fails as ``empty``. There is no outcome where the teacher
      was not asked, or where the canonical solution fails too.
    * ``audit.json``: :class:`fgit.stage_reports.AuditReport`, with the settings.

    A run that was stopped goes on where it was.

    Args:
        variants: as generate writes them from what :func:`records` makes of these problems.
        threads: programs that run at a time.

    Raises:
        UserError: if too many canonical solutions fail their tests, or the variants are of other
            problems.
    """
    from fgit.generate import longest_code
    from fgit.inference.requests import PROMPT_TOO_LONG
    from fgit.sandbox.pool import (
        Submission,
        VerdictJournal,
        check_programs,
        conditions_of,
        fingerprint_of,
    )
    from fgit.select.candidates import choice_of
    from fgit.select.stage import Embedder, cosine, most_similar

    check_kind(kind)
    problems = files.resolve(os.fspath(problems))
    by_id = read_problems(kind, problems, sha256)
    read_variants(variants, by_id)  # of these problems
    frame = files.read_parquet(variants, ANSWERS)
    rows = frame.sort("k", maintain_order=True).to_dicts()

    submissions = {
        f"canonical {name}": Submission(problem, programs_of(kind).canonical(problem))
        for name, problem in by_id.items()
    }
    for row in rows:
        if row["refused"] != PROMPT_TOO_LONG:
            code = row["code"] or longest_code(row["answer"] or "", python=True)
            submissions[f"{row['k']} {row['id']}"] = Submission(by_id[row["id"]], code)
    conditions = conditions_of(kind, scoring, problems)
    conditions["variants_sha256"] = files.sha256(variants)
    with VerdictJournal(out / "journal.jsonl", fingerprint_of(kind, conditions)) as journal:
        verdicts = check_programs(
            kind,
            submissions,
            scoring,
            threads=threads,
            where=str(problems),
            journal=journal,
            description="Testing variants",
        )
        failing = [name for name in by_id if not verdicts[f"canonical {name}"].passed]
        check_canonical(failing, len(by_id), scoring.min_ground_truth, problems)
        codes: dict[str, list[str]] = {}
        for row in rows:
            if row["code"] is not None:
                codes.setdefault(row["id"], []).append(row["code"])
        choices = {}
        for name in codes:
            response = str(record_of(kind, by_id[name])["response"])
            choice = choice_of(response, main_code(response), codes[name])
            assert choice is not None, "a fenced program is code"
            choices[name] = choice
        index, vectors = Embedder(selection).embed(
            code for name in codes for code in [choices[name].code, *codes[name]]
        )
        chosen = {
            name: most_similar(choice, index, vectors)[0]
            for name, choice in choices.items()
            if choice.responses
        }
        for row in rows:
            name, code = row["id"], row["code"]
            verdict = None if name in failing else verdicts.get(f"{row['k']} {name}")
            if code is not None:
                pair = [vectors[[index[text]]] for text in (choices[name].code, code)]
                row["similarity"] = float(cosine(*pair)[0])
            if verdict is not None:
                row["base_status"], row["plus_status"] = verdict.base, verdict.plus
                row["wrong"] = not verdict.passed
            # The first of equal ones: the rows are ordered by k.
            row["selected"] = code is not None and chosen.get(name) == code
            if row["selected"]:
                del chosen[name]
        order = {name: number for number, name in enumerate(by_id)}
        rows.sort(key=lambda row: (order[row["id"]], row["k"]))
        columns = [{name: row.get(name) for name in AUDIT_COLUMNS} for row in rows]
        table = pl.DataFrame(columns, schema=AUDIT_COLUMNS)
        selected = table.filter("selected")
        report = AuditReport(
            benchmark=kind,
            problems=len(by_id),
            canonical_fails=failing,
            with_variant=selected.height,
            answers=table.height,
            usable=table["code"].drop_nulls().len(),
            refused=dict(Counter(table["refused"].drop_nulls()).most_common()),
            incorrect={tests: failing_of(table, tests) for tests in TESTS},
            similarity={
                "usable": means(table["similarity"].drop_nulls().to_list()),
                "selected": means(selected["similarity"].drop_nulls().to_list()),
            },
            **conditions,
            select=selection.model_dump(mode="json"),
            threads=threads,
        )
        files.write_parquet(out / "variants.parquet", table)
        report.write(out / AuditReport.file)
        journal.remove()
    log.info("%s", failures_in_words(report))


def check_canonical(failing: Sequence[str], count: int, least: float, problems: Path) -> None:
    """Name the problems whose canonical solution fails; too many are an error.

    A few are left out of the audit: a variant that fails too shows nothing.
    """
    if not failing:
        return
    names = f"{', '.join(failing[:5])}{', …' if len(failing) > 5 else ''}"
    if (count - len(failing)) / count < least:
        raise UserError(
            f"{problems}: {len(failing)} of {count} canonical solutions fail their own tests "
            f"({names}), so nothing is shown by variants that fail; use the right file and a quiet "
            f"machine, or lower min_ground_truth (now {least:g})"
        )
    log.warning("The canonical solutions of %s fail their own tests; these are left out", names)


def failing_of(table: pl.DataFrame, tests: str) -> dict[str, Any] | None:
    """How many fail, over all answers, the usable and the selected ones; None without such tests.

    ``plus`` counts who fails the base or the plus tests, as EvalPlus does.
    """
    from fgit.common.statistics import wilson
    from fgit.sandbox.pool import PASS

    run = table.filter(pl.col("base_status").is_not_null())
    if tests == "plus" and run["plus_status"].null_count() == run.height:
        return None
    fails = pl.col("base_status") != PASS
    if tests == "plus":
        fails |= pl.col("plus_status") != PASS
    failing: dict[str, Any] = {}
    for name, part in {
        "all": run,
        "usable": run.filter(pl.col("code").is_not_null()),
        "selected": run.filter("selected"),
    }.items():
        n, fail = part.height, part.filter(fails).height
        share, interval = (fail / n, wilson(fail, n)) if n else (None, None)
        failing[name] = {"n": n, "fail": fail, "share": share, "interval": interval}
    return failing


def failures_in_words(report: AuditReport) -> str:
    lines = [f"Variants that fail the tests of {report.benchmark}:"]
    for tests, failing in report.incorrect.items():
        for name, part in (failing or {}).items():
            text = "–"
            if part.share is not None and part.interval is not None:
                low, high = part.interval
                text = (
                    f"{100 * part.share:5.1f} %  ({100 * low:.1f} to {100 * high:.1f}; "
                    f"{part.fail} of {part.n})"
                )
            lines.append(f"  {tests + ', ' + name:<16}{text}")
    lines.append(f"  {'paper':<16}{100 * PAPER_INCORRECT:5.1f} %")
    lines.append("Mean cosine similarity to the canonical code:")
    for name, similarity in report.similarity.items():
        mean = similarity["mean"]
        lines.append(f"  {name:<16}{'–' if mean is None else f'{mean:5.3f}'}")
    lines.append(f"  {'paper':<16}{PAPER_SIMILARITY:.2f}")
    return "\n".join(lines)
