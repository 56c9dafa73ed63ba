"""Counting how often a model gives correct code a higher probability than incorrect code."""

import importlib.metadata
import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

import fgit
from fgit.benchmarks.pairs import NOT_COMPARED
from fgit.benchmarks.problems import problems_digest, read_problems, samples_by_task
from fgit.common import files
from fgit.common.errors import UserError
from fgit.common.statistics import paired_bootstrap, wilson
from fgit.config import BenchmarkKind
from fgit.scores import write_summary
from fgit.stage_reports import counts_of

log = logging.getLogger(__name__)

PAIR_OUTCOMES = {
    "task_id": pl.String,
    "prefers": pl.Boolean,
    "solution": pl.String,
    "p_correct": pl.Float64,
    "p_incorrect": pl.Float64,
    "not_compared": pl.String,
}


def score_pairs(
    kind: BenchmarkKind, problems: Path, samples: str | Path, out: Path, sha256: str | None = None
) -> None:
    """Count how often a model prefers the correct side, and by how much.

    Writes in the folder ``out``, as scoring does for every benchmark:

    * ``outcomes.parquet``, a row per pair in the pairs' order: task_id, prefers (p̄ > p̄′), solution
      (the correct code), p_correct, p_incorrect, not_compared;
    * ``summary.json``: n (all pairs), pass@1 (base: the share preferred), its 95 % Wilson interval,
      gap (the mean of p̄ − p̄′ over the pairs that could be compared, and its 95 % bootstrap
      interval; null if there are none), not_compared (how many pairs, by reason).

    Args:
        samples: JSONL as the evaluate stage writes it.

    Raises:
        UserError: if the samples do not name each pair exactly once, or hold something that is no
            probability.
    """
    started = time.monotonic()
    problems = files.resolve(os.fspath(problems))
    by_id = read_problems(kind, problems, sha256)
    rows = []
    for task_id, (where, row) in samples_by_task(by_id, samples).items():
        sides = check_measured(where, row)
        correct, incorrect = sides["p_correct"], sides["p_incorrect"]
        prefers = correct is not None and correct > incorrect
        solution = by_id[task_id]["correct"]
        rows.append({"task_id": task_id, "prefers": prefers, "solution": solution, **sides})
    frame = pl.DataFrame(rows, schema=PAIR_OUTCOMES)
    compared = frame.filter(pl.col("p_correct").is_not_null())
    gap = None
    if compared.height:
        mean, low, high = paired_bootstrap(compared["p_correct"], compared["p_incorrect"])
        gap = {"mean": mean, "interval": [low, high], "n": compared.height}
    n, preferred = frame.height, int(frame["prefers"].sum())
    files.write_parquet(out / "outcomes.parquet", frame)
    summary = {
        "benchmark": kind,
        "n": n,
        "pass@1": {"base": preferred / n, "plus": None},
        "interval": {"base": list(wilson(preferred, n)), "plus": None},
        "gap": gap,
        "not_compared": counts_of(frame["not_compared"].drop_nulls()),
        "statuses": {
            "base": counts_of("pass" if prefers else "fail" for prefers in frame["prefers"]),
            "plus": None,
        },
        "problems": str(problems),
        "problems_sha256": problems_digest(problems),
        "samples_sha256": files.sha256(samples),
        "scorer": "fgit",
        "sandbox": None,  # no program runs
        "versions": {
            "fgit": fgit.__version__,
            "python": platform.python_version(),
            "numpy": importlib.metadata.version("numpy"),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    write_summary(out, summary)
    log.info(
        "%s: the correct side preferred in %.1f %% of %d pairs%s",
        *(kind, 100 * preferred / n, n, "" if gap is None else f", mean gap {gap['mean']:+.3f}"),
    )


def check_measured(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Two probabilities, or none and the reason why there is none."""
    reason = row.get("not_compared")
    if reason is not None and (not isinstance(reason, str) or reason not in NOT_COMPARED):
        raise UserError(
            f"{where}: 'not_compared' is {reason!r:.60}, not one of {', '.join(NOT_COMPARED)}"
        )
    values: dict[str, Any] = {}
    for field in ("p_correct", "p_incorrect"):
        if field not in row:
            raise UserError(
                f"{where}: no {field!r} (it has: {', '.join(row)}); are these the samples of a "
                "benchmark of kind pairs?"
            )
        value = row[field]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if reason is None and not (number and math.isfinite(value) and 0 <= value <= 1):
            raise UserError(f"{where}: {field!r} is {value!r:.60}, not a probability")
        if reason is not None and value is not None:
            raise UserError(f"{where}: {field!r} is {value!r:.60}, but 'not_compared' is {reason}")
        values[field] = value
    return values | {"not_compared": reason}
