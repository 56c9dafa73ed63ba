"""Reading the problems of HumanEval+, MBPP+ and BigCodeBench, of one's own, and pairs of programs.

The formats are EvalPlus's (``HumanEvalPlus-*.jsonl.gz``, ``MbppPlus-*.jsonl.gz``),
BigCodeBench's own, for problems of one's own with a program of tests (kind ``tests``) the first
HumanEval's fields, and for pairs our own or humanevalpack's; nothing is fetched from the network.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import BenchmarkKind

EVALPLUS_TEXTS = ("task_id", "prompt", "entry_point", "contract", "canonical_solution")
EVALPLUS_INPUTS = ("base_input", "plus_input")
BIGCODEBENCH_TEXTS = (
    "task_id",
    "complete_prompt",
    "instruct_prompt",
    "canonical_solution",
    "code_prompt",
    "test",
    "entry_point",
)
TESTS_TEXTS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
PAIR_TEXTS = ("task_id", "prompt", "correct", "incorrect")
# humanevalpack's fields, which a row may have in place of correct and incorrect.
HUMANEVALPACK_TEXTS = ("task_id", "prompt", "declaration", "canonical_solution", "buggy_solution")
MAY_BE_EMPTY = frozenset({"contract", "instruct_prompt", "code_prompt"})


def read_problems(
    kind: BenchmarkKind, path: str | os.PathLike[str], sha256: str | None = None
) -> dict[str, dict[str, Any]]:
    """The problems of a benchmark by task_id, in the file's order.

    Args:
        kind: whose format the file has; MBPP+ inputs are made tuples, sets and complex numbers
            as EvalPlus does.
        path: ``.jsonl`` (a problem a line) or ``.json`` (an array, or an object by task_id),
            either of them gzipped or not; or ``package:NAME/file``.
        sha256: the hex digest that the problems must have (:func:`problems_digest`).

    Raises:
        UserError: naming file, row and field, if a field is missing or of the wrong type or a
            task_id comes twice; naming both digests, if the file is another one.
    """
    path = files.resolve(os.fspath(path))
    files.existing(path)
    if sha256 is not None and (found := problems_digest(path)) != sha256.lower():
        raise UserError(
            f"{path}: its problems' SHA-256 is {found}, but the config says {sha256}; "
            "fetch the right file, or change the benchmark's sha256"
        )
    problems: dict[str, dict[str, Any]] = {}
    first_row: dict[str, int] = {}
    for number, row in problem_rows(path):
        if isinstance(row, files.BadRow):
            raise UserError(f"{row}. Fetch the benchmark's file again")
        where = f"{path}, row {number}"
        problem = check_problem(kind, where, row)
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

    Of what the rows say, in their order, not of the file's bytes: gzipped or not, with other
    spaces or escapes, as published or as ``fgit fetch`` writes it, the same problems have one
    digest. It is that of the rows as JSON lines, without escapes beyond JSON's own.
    """
    found = hashlib.sha256()
    for _, row in problem_rows(path):
        if isinstance(row, files.BadRow):
            return files.sha256(path)
        line = json.dumps(row, ensure_ascii=False) + "\n"
        found.update(line.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


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


def check_problem(kind: BenchmarkKind, where: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row as a problem, its fields checked and its inputs as the tests take them."""
    if kind == "pairs":
        return check_pair(where, row)
    texts = {"bigcodebench": BIGCODEBENCH_TEXTS, "tests": TESTS_TEXTS}.get(kind, EVALPLUS_TEXTS)
    inputs = EVALPLUS_INPUTS if texts is EVALPLUS_TEXTS else ()
    numbers = ("atol",) if texts is EVALPLUS_TEXTS else ()
    check_fields(kind, where, row, [*texts, *inputs, *numbers])
    check_texts(where, row, texts)
    for field in numbers:
        if isinstance(row[field], bool) or not isinstance(row[field], int | float):
            raise UserError(f"{where}: {field!r} is not a number: {row[field]!r:.60}")
    problem = dict(row)
    for field in inputs:
        problem[field] = check_inputs(kind, where, field, row)
    return problem


def check_fields(
    kind: BenchmarkKind, where: str, row: Mapping[str, Any], fields: Iterable[str]
) -> None:
    for field in fields:
        if field not in row:
            raise UserError(
                f"{where}: no field {field!r}, which problems of kind {kind} need "
                f"(it has: {', '.join(row)})"
            )


def check_texts(where: str, row: Mapping[str, Any], fields: Iterable[str]) -> None:
    for field in fields:
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field!r} is not text: {row[field]!r:.60}")
        if field not in MAY_BE_EMPTY and not row[field].strip():
            raise UserError(f"{where}: {field!r} is empty")


def check_pair(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of correct and incorrect code; blank lines around the code and at its end do not count.

    A row of humanevalpack has the code in parts: correct is its declaration and canonical_solution,
    incorrect its declaration and buggy_solution.
    """
    pair = dict(row)
    if "correct" not in row and "buggy_solution" in row:
        check_fields("pairs", where, row, HUMANEVALPACK_TEXTS)
        check_texts(where, row, HUMANEVALPACK_TEXTS)
        pair["correct"] = row["declaration"] + row["canonical_solution"]
        pair["incorrect"] = row["declaration"] + row["buggy_solution"]
    check_fields("pairs", where, pair, PAIR_TEXTS)
    check_texts(where, pair, PAIR_TEXTS)
    for field in PAIR_TEXTS:  # a tokenizer takes none, and Parquet neither
        if any("\ud800" <= character <= "\udfff" for character in pair[field]):
            raise UserError(f"{where}: {field!r} holds a lone surrogate")
    for side in ("correct", "incorrect"):
        pair[side] = pair[side].strip("\n").rstrip() + "\n"
    if pair["correct"] == pair["incorrect"]:
        raise UserError(
            f"{where}: the correct and the incorrect code of {pair['task_id']!r} are the same; "
            "leave this pair out"
        )
    return pair


def continuations(pair: Mapping[str, Any]) -> tuple[str, str]:
    """Correct and incorrect code without the lines with which its prompt begins too.

    So they go on where the prompt ends: with the body, if the prompt is a function's head and
    docstring.
    """
    texts = [pair["prompt"].strip() + "\n", pair["correct"], pair["incorrect"]]
    lines = zip(*(text.split("\n")[:-1] for text in texts), strict=False)
    shared = itertools.takewhile(lambda same: len(set(same)) == 1, lines)
    start = sum(len(line) + 1 for line, *_ in shared)
    return pair["correct"][start:], pair["incorrect"][start:]


def check_inputs(kind: BenchmarkKind, where: str, field: str, row: dict[str, Any]) -> list[Any]:
    """A list of argument lists, for MBPP+ with the types that JSON does not have."""
    inputs = row[field]
    if inputs == {}:  # how MBPP+ v0.2.0 writes that Mbpp/793 has no further tests
        inputs = []
    if not isinstance(inputs, list) or not all(isinstance(item, list) for item in inputs):
        raise UserError(f"{where}: {field!r} is not a list of argument lists: {inputs!r:.60}")
    if field == "base_input" and not inputs:
        raise UserError(f"{where}: {field!r} is empty: the problem has no tests")
    if kind != "mbpp":
        return inputs
    from evalplus.data.mbpp import mbpp_deserialize_inputs

    task_id = row["task_id"]
    if not task_id.rpartition("/")[2].isdecimal():
        raise UserError(f"{where}: task_id {task_id!r} must end in /NUMBER for kind mbpp")
    try:
        return list(mbpp_deserialize_inputs(task_id, inputs))
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise UserError(
            f"{where}: {field!r} has not the form that EvalPlus knows for {task_id} ({error}); "
            "problems of your own need numbers that MBPP does not use"
        ) from error


def read_samples(
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
    found: dict[str, tuple[str, dict[str, Any]]] = {}
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
        if task_id in found:
            raise UserError(
                f"{where}: a second sample of {task_id!r} (the first is in row "
                f"{first_row[task_id]}); give one sample of each problem"
            )
        found[task_id] = f"{where}, {task_id}", row
        first_row[task_id] = number
    if or_none and not found:
        return {}
    if missing := [task_id for task_id in problems if task_id not in found]:
        raise UserError(
            f"{samples}: {len(missing)} of {len(problems)} problems have no sample: "
            f"{first_few(missing)}; evaluate the model on the whole benchmark"
        )
    return {task_id: found[task_id] for task_id in problems}


def first_few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
