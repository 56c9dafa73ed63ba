"""Problems of one's own with a program of asserts (kind ``tests``), as the first HumanEval has."""

from __future__ import annotations

from fgit.benchmarks import humaneval
from fgit.benchmarks.fields import require_texts
from fgit.benchmarks.kind import Kind, Problem, Programs, Row

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


def check(where: str, row: Row) -> Problem:
    require_texts("tests", where, row, FIELDS)
    return dict(row)


OWN_TESTS = Kind(
    "tests",
    check,
    humaneval.protect,
    programs=Programs(
        humaneval.prompt,
        humaneval.stops,  # a prompt is a head to go on from, as HumanEval's
        humaneval.sanitize,
        head="prompt",
        tests=("test",),
        job="tests",
        scorer=None,
    ),
)
