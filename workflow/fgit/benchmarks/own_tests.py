"""Problems of one's own with a program of asserts (kind ``tests``), as the first HumanEval has."""

import dataclasses

from fgit.benchmarks import humaneval
from fgit.benchmarks.kind import Kind, Problem, RawProblem, require_texts

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def check(where: str, row: RawProblem) -> Problem:
    return require_texts("tests", where, row, FIELDS)


OWN_TESTS = Kind(
    "tests",
    check,
    humaneval.protect,
    # A prompt is a head to go on from, as HumanEval's.
    programs=dataclasses.replace(humaneval.PROGRAMS, tests=("test",), scorer="tests", library=None),
)
