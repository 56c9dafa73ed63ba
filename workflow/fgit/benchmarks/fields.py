"""Checking the fields of a row of a problem file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fgit.benchmarks.kind import Problem, Row
from fgit.common import files
from fgit.common.errors import UserError


def require_texts(
    kind: str,
    where: str,
    row: Row,
    texts: Iterable[str],
    *,
    others: Iterable[str] = (),
    may_be_empty: Iterable[str] = (),
) -> None:
    """Refuse a row that lacks a field, or has no text where there must be one.

    Args:
        kind, where: for messages; ``where`` is the file and row.
        others: fields that hold something else, and must be there too.

    Raises:
        UserError: naming file, row and field.
    """
    for field in (*texts, *others):
        if field not in row:
            raise UserError(
                f"{where}: no field {field!r}, which problems of kind {kind} need "
                f"(it has: {', '.join(row)})"
            )
    for field in texts:
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field!r} is not text: {row[field]!r:.60}")
        if field not in may_be_empty and not row[field].strip():
            raise UserError(f"{where}: {field!r} is empty")


def texts_of(
    path: Path, number: int, row: Row, fields: Iterable[str], may_be_empty: Iterable[str] = ()
) -> Problem | files.BadRow | None:
    """These fields of a row, all text, and its ``task_id``; None if it lacks one of them.

    The task_id is the row's ``task_id`` or ``problem_id`` as text, or the row's number.
    """
    if not all(name in row for name in fields):
        return None
    # MBPP and APPS number their tasks, DS-1000 has its numbers elsewhere, GSM8K none.
    own = next((row[key] for key in ("task_id", "problem_id") if key in row), number)
    values = {name: row[name] for name in fields} | {"task_id": str(own)}
    same = {name: name for name in values}
    checked = files.check_row(path, number, values, list(values), [], same, tuple(may_be_empty))
    return checked if isinstance(checked, files.BadRow) else dict(checked)
