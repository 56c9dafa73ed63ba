"""Which variants are shown to be wrong by tests that the correct code passes.

For records that come with tests, a program of asserts. Of the others nothing can be said.
"""

import functools
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fgit.common import files
from fgit.common.code_blocks import block_at
from fgit.common.errors import UserError
from fgit.config import ScoreSettings
from fgit.sandbox.pool import (
    PASS,
    Submission,
    Verdict,
    VerdictJournal,
    check_programs,
    conditions_of,
    fingerprint_of,
)
from fgit.stage_reports import counts_in_words, counts_of
from fgit.variants import normalised, read_samples, read_variants

log = logging.getLogger(__name__)

# A row per variant; wrong is null where `untested` says why.
VERIFIED_COLUMNS: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "k": pl.Int64,
    "code": pl.String,
    "status": pl.String,
    "wrong": pl.Boolean,
    "untested": pl.String,
}
VERIFIED = files.Layout(
    VERIFIED_COLUMNS, filled=("id",), advice="make it by fgit verify of the variants"
)


def verify(
    records: Path, variants: Path, out: Path, report: Path, settings: ScoreSettings, threads: int
) -> None:
    """Run each variant's code, and the correct code, against the record's own tests.

    A variant is wrong if it fails where the correct code passes, whatever the failure (an endless
    loop too), and not wrong if it passes. A run that was stopped goes on where it was.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        variants: Parquet with id, k and code, as generate and mutate write it.
        out: Parquet, a row per row of ``variants`` (:data:`VERIFIED_COLUMNS`).
        report: JSON with counts, by reason for what could not be tested.
        threads: programs that run at a time.

    Raises:
        UserError: if a file is missing, the variants are of other records, or programs cannot be
            run here.
    """
    started = time.monotonic()
    samples = {row["id"]: row for row in read_samples(records).iter_rows(named=True)}
    rows = read_variants(variants, samples).to_dicts()
    problems = {
        name: as_problem(row) for name, row in samples.items() if (row["tests"] or "").strip()
    }
    testable = {name: problem for name, problem in problems.items() if problem is not None}
    # With a variant; the tests of the others need not run.
    tested = testable.keys() & {row["id"] for row in rows if row["code"] is not None}
    conditions = conditions_of("tests", settings)
    conditions |= {
        "records_sha256": files.sha256(records),
        "variants_sha256": files.sha256(variants),
    }
    journal_file = out.with_name(f"{out.name}.journal")
    with VerdictJournal(journal_file, fingerprint_of("tests", conditions)) as journal:
        run = functools.partial(
            check_programs,
            "tests",
            settings=settings,
            threads=threads,
            where=str(records),
            journal=journal,
        )
        correct = run(
            {f"correct {name}": with_tests(testable[name]) for name in testable if name in tested},
            description="Testing correct code",
        )
        right = {name for name in tested if correct[f"correct {name}"].passed}
        keys: dict[tuple[str, str], str] = {}  # of each program, which may come more than once
        taken: set[str] = set()
        for number, row in enumerate(rows):
            program = row["id"], row["code"]
            if row["code"] is not None and row["id"] in right and program not in keys:
                key = f"{row['k']} {row['id']}"
                if key in taken:  # a file of one's own has any k
                    key = f"{key}, row {number}"
                taken.add(key)
                keys[program] = key
        by_key = run(
            {key: Submission(testable[name], code) for (name, code), key in keys.items()},
            description="Testing variants",
        )
        verdicts = {program: by_key[key] for program, key in keys.items()}
        frame = pl.DataFrame(
            [row | outcome(row, problems, right, verdicts) for row in rows], schema=VERIFIED_COLUMNS
        )
        summary = {
            "samples": len(samples),
            "with_tests": len(problems),
            "correct_code": counts_of(v.base for v in correct.values()),
            "variants": len(rows),
            "wrong": frame["wrong"].sum(),
            "not_wrong": len(frame.filter(~pl.col("wrong"))),
            "untested": counts_of(frame["untested"].drop_nulls()),
            "statuses": counts_of(frame["status"].drop_nulls()),
            **conditions,
            "threads": threads,
            "seconds": round(time.monotonic() - started, 1),
        }
        files.write_parquet(out, frame)
        files.write_json(report, summary)
        journal.remove()
    if failing := sorted(tested - right):
        log.warning(
            "The correct code of %d samples does not pass its own tests (%s%s): their variants "
            "are not judged",
            *(len(failing), ", ".join(failing[:5]), ", …" if len(failing) > 5 else ""),
        )
    log.info(
        "Of %d variants %d are shown to be wrong by tests, %d pass them, %d are untested (%s)",
        *(summary["variants"], summary["wrong"], summary["not_wrong"]),
        *(frame["untested"].count(), counts_in_words(summary["untested"])),
    )


def as_problem(row: Mapping[str, Any]) -> dict[str, str] | None:
    """A record as a problem of kind ``tests``; None if its response has no code."""
    block = block_at(row["response"], row["code_at"])
    if block is None:
        return None
    return {
        "task_id": row["id"],
        "prompt": "",
        "canonical_solution": normalised(block.content),
        "entry_point": "",
        "test": row["tests"],
    }


def with_tests(problem: Mapping[str, str]) -> Submission:
    """The correct code and its tests as one program, with nothing left to be tested.

    As a canonical solution, code that runs out of time would be an error; here it is to be counted.
    """
    program = "\n".join([problem["canonical_solution"], "__name__ = '__main__'", problem["test"]])
    return Submission({**problem, "canonical_solution": "", "test": ""}, program)


def outcome(
    row: Mapping[str, Any],
    problems: Mapping[str, Any],
    right: set[str],
    verdicts: Mapping[tuple[str, str], Verdict],
) -> dict[str, Any]:
    """Status, wrong and untested of one variant."""
    name = row["id"]
    if row["code"] is None:
        reason = "no_variant"  # the answer was refused
    elif name not in problems:
        reason = "no_tests"
    elif problems[name] is None:
        reason = "no_code"  # the response has none
    elif name not in right:
        reason = "correct_code_fails"
    else:
        status = verdicts[name, row["code"]].base
        return {"status": status, "wrong": status != PASS, "untested": None}
    return {"status": None, "wrong": None, "untested": reason}


def read_verified(path: Path, variants: pl.DataFrame, source: Path) -> pl.Series:
    """Whether each of these variants is wrong: Boolean, null where nothing shows it.

    Args:
        variants: the rows of the file ``source``, with id, k and code.

    Raises:
        UserError: if ``path`` is not what ``fgit verify`` made of just these variants.
    """
    frame = files.read_parquet(path, VERIFIED)
    keys = ["id", "k", "code"]
    if not frame.select(keys).equals(variants.select(keys)):
        raise UserError(
            f"{path}: these are not the variants of {source} (other ids, k or codes); "
            "run fgit verify on that file again"
        )
    return frame["wrong"]
