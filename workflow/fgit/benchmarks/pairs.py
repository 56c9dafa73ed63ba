"""Pairs of correct and incorrect code (kind ``pairs``), of which a model must prefer the correct.

The format is our own or humanevalpack's.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgit.benchmarks.kind import Kind, Problem, RawProblem, require_texts
from fgit.benchmarks.releases import HubDataset
from fgit.common.errors import UserError

FIELDS = ("task_id", "prompt", "correct", "incorrect")
# humanevalpack's fields, which a row may have in place of correct and incorrect.
HUMANEVALPACK = ("task_id", "prompt", "declaration", "canonical_solution", "buggy_solution")

# Why the sides of a pair could not be compared. Such a pair counts as not preferred, so that every
# model is measured on all pairs.
NOT_COMPARED = {
    "prompt_too_long": "the prompt fills the model's context",
    "cut": "marked tokens lie behind the end of the model's context",
    "same_tokens": "the tokenizer gives both sides the same tokens",
}
FUNCTION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)


def check(where: str, row: RawProblem) -> Problem:
    """A row of correct and incorrect code; blank lines around the code and at its end do not count.

    A row of humanevalpack has the code in parts: correct is its declaration and canonical_solution,
    incorrect its declaration and buggy_solution.
    """
    pair = dict(row)
    if "correct" not in row and "buggy_solution" in row:
        require_texts("pairs", where, row, HUMANEVALPACK)
        pair["correct"] = row["declaration"] + row["canonical_solution"]
        pair["incorrect"] = row["declaration"] + row["buggy_solution"]
    require_texts("pairs", where, pair, FIELDS)
    for field in FIELDS:  # a tokenizer takes none, and Parquet neither
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


def protect(path: Path, number: int, row: RawProblem) -> Problem | None:
    if not all(name in row for name in FIELDS):
        return None
    pair = check(f"{path}, row {number}", row)
    heads = FUNCTION.findall(pair["prompt"])  # helpers may stand before what is asked for
    return {
        "task_id": pair["task_id"],
        "prompt": pair["prompt"],
        "entry_point": heads[-1] if heads else "",
        "canonical_solution": continuations(pair)[0],
    }


def release(version: str) -> HubDataset:
    name, _, commit = version.partition("/")
    if name != "humanevalpack" or not commit:
        raise UserError(
            f"pairs release:{version}: only release:humanevalpack/COMMIT can be fetched, with "
            "a commit of bigcode/humanevalpack; name the file of other pairs"
        )
    return HubDataset("bigcode/humanevalpack", "python", commit, "test")


PAIRS = Kind("pairs", check, protect, release, metric="preference", outcome="prefers")
