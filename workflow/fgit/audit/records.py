"""A benchmark's problems as records, for which the teacher then writes variants."""

import ast
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from fgit.benchmarks.kinds import programs_of
from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.code_blocks import fenced
from fgit.common.errors import UserError
from fgit.config import AUDITED, BenchmarkKind
from fgit.variants import RECORD_COLUMNS

log = logging.getLogger(__name__)


def records(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    out: Path,
    sha256: str | None = None,
) -> None:
    """Write a benchmark's problems as records, for which the teacher then writes variants.

    Args:
        out: Parquet with id (the task_id), instruction (the problem), response (the canonical
            solution as a whole program, in a code block), language and tests (kind ``tests``).

    Raises:
        UserError: if the problem file is missing or broken, or of a kind without such solutions.
    """
    check_kind(kind)
    rows = [record_of(kind, problem) for problem in read_problems(kind, problems, sha256).values()]
    files.write_parquet(out, pl.DataFrame(rows, schema=RECORD_COLUMNS))
    log.info("%d problems as records", len(rows))


def check_kind(kind: str) -> None:
    if kind not in AUDITED:
        raise UserError(
            f"kind {kind}: an audit runs variants of canonical solutions against tests of kind "
            f"{', '.join(AUDITED)}"
        )


def record_of(kind: BenchmarkKind, problem: Mapping[str, Any]) -> dict[str, str | None]:
    """A problem as a user would ask it, and its canonical solution as the answer.

    MBPP's prompt is a text in a docstring, and its solution is whole without it. HumanEval's is
    the beginning of the program.
    """
    prompt, code = problem["prompt"], problem["canonical_solution"]
    text = only_docstring(prompt)
    if text is None:
        text = f"Complete this Python program:\n\n{python_block(prompt)}"
        code = prompt + code
    return {
        "id": problem["task_id"],
        "instruction": text,
        "response": python_block(code),
        "language": "python",
        "tests": problem["test"] if programs_of(kind).scorer == "tests" else None,
    }


def only_docstring(prompt: str) -> str | None:
    """The text of a prompt that is nothing but a docstring, or None."""
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    match body:
        case [ast.Expr(value=ast.Constant(value=str(text)))] if text.strip():
            return text.strip()
    return None


def python_block(code: str) -> str:
    return fenced(code.strip("\n"), "python") + "\n"
