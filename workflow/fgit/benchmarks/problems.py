"""Reading the problems of a benchmark, and what models gave for them.

Formats are those of :mod:`fgit.benchmarks.kinds`; nothing is fetched from the network.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fgit.benchmarks.kinds import kind_of
from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import BenchmarkKind


def read_problems(
    kind: BenchmarkKind, path: str | os.PathLike[str], sha256: str | None = None
) -> dict[str, dict[str, Any]]:
    """The problems of a benchmark by task_id, in the file's order.

    Args:
        kind: whose format the file has.
        path: ``.jsonl`` (a problem a line) or ``.json`` (an array, or an object by task_id),
            either of them gzipped or not; or ``package:NAME/file``.
        sha256: the hex digest that the problems must have (:func:`problems_digest`).

    Raises:
        UserError: naming file, row and field, if a field is missing or of the wrong type or a
            task_id comes twice; naming both digests, if the file is another one.
    """
    path = files.existing(files.resolve(os.fspath(path)))
    if sha256 is not None and (digest := problems_digest(path)) != sha256.lower():
        raise UserError(
            f"{path}: its problems' SHA-256 is {digest}, but the config says {sha256}; "
            "fetch the right file, or change the benchmark's sha256"
        )
    problems: dict[str, dict[str, Any]] = {}
    first_row: dict[str, int] = {}
    for number, row in problem_rows(path):
        if isinstance(row, files.BadRow):
            raise UserError(f"{row}. Fetch the benchmark's file again")
        where = f"{path}, row {number}"
        problem = kind_of(kind).check(where, row)
        task_id = problem["task_id"]
        if task_id in problems:
            raise UserError(
                f"{where}: task_id {task_id!r} is also in row {first_row[task_id]}; "
                "a problem may come only once"
            )
        problems[task_id] = problem
        first_row[task_id] = number
    if not problems:
        raise UserError(f"{path}: no problems in this file")
    return problems


def problems_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a problem file's rows, as a hex string.

    It is that of the rows as JSON lines, without escapes beyond JSON's own, and not of the file's
    bytes: gzipped or not, with other spaces or escapes, as published or as ``fgit fetch`` writes
    it, the same problems have one digest.
    """
    digest = hashlib.sha256()
    for _, row in problem_rows(path):
        if isinstance(row, files.BadRow):
            return files.sha256(path)
        line = json.dumps(row, ensure_ascii=False) + "\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def problem_rows(
    path: str | os.PathLike[str],
) -> Iterator[tuple[int, dict[str, Any] | files.BadRow]]:
    """Row number from 1 and problem; a .json file may hold an object of problems by task_id."""
    name = str(path).removesuffix(".gz")
    if not (name.endswith(".json") and isinstance(by_id := files.read_json(path), dict)):
        yield from files.read_objects(path)
        return
    for number, row in enumerate(by_id.values(), start=1):
        good = isinstance(row, dict)
        yield number, row if good else files.not_an_object(str(path), number)


def samples_by_task(
    problems: Mapping[str, Any],
    samples: str | os.PathLike[str],
    *,
    or_none: bool = False,
    others: bool = False,
) -> dict[str, tuple[str, dict[str, Any]]]:
    """What a model gave for every problem, by task_id in the problems' order: (file and row, row).

    Args:
        samples: JSONL, one row a problem with its ``task_id``.
        or_none: whether a file without a single row is good too.
        others: whether rows of other problems are left out, where the problems were cut.

    Raises:
        UserError: naming file, row and task_id, for a bad row, an unknown problem or a second
            row of one problem; naming the problems, if some have none.
    """
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    first_row: dict[str, int] = {}
    for number, row in files.read_objects(samples):
        if isinstance(row, files.BadRow):
            raise UserError(f"{row}. Generate the samples again")
        where = f"{samples}, row {number}"
        task_id = row.get("task_id")
        if not isinstance(task_id, str):
            raise UserError(f"{where}: 'task_id' is {task_id!r}, not text")
        if task_id not in problems and others:
            continue
        if task_id not in problems:
            raise UserError(
                f"{where}: there is no problem {task_id!r} (the benchmark has "
                f"{first_few(problems)}); are the samples of another benchmark or version?"
            )
        if task_id in rows:
            raise UserError(
                f"{where}: a second sample of {task_id!r} (the first is in row "
                f"{first_row[task_id]}); give one sample of each problem"
            )
        rows[task_id] = f"{where}, {task_id}", row
        first_row[task_id] = number
    if or_none and not rows:
        return {}
    if missing := [task_id for task_id in problems if task_id not in rows]:
        raise UserError(
            f"{samples}: {len(missing)} of {len(problems)} problems have no sample: "
            f"{first_few(missing)}; evaluate the model on the whole benchmark"
        )
    return {task_id: rows[task_id] for task_id in problems}


def first_few(names: Iterable[str], count: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
