"""What a kind of benchmark is: one record, of which each field is a thing that differs by kind."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from fgit.benchmarks.releases import EvalPlusFile, HubDataset
from fgit.common.errors import UserError
from fgit.common.files import BadRow, text_columns
from fgit.config import WITH_PLUS, BenchmarkKind, Mode

Problem = dict[str, Any]
RawProblem = Mapping[str, Any]  # a row of a problem file


@dataclasses.dataclass(frozen=True)
class Programs:
    """How a model is asked for programs, and how they are checked.

    Problems have ``entry_point`` and ``canonical_solution`` besides the fields named here.
    """

    # The text that the model is asked: of the problem, for the tokenizer, what is text in it marked
    # (:func:`fgit.common.tokenizers.marked`). In completion mode it goes on from there, so that the
    # text and the answer are the program.
    prompt: Callable[[Problem, Any, Mode], str]
    stops: Callable[[Mode], tuple[str, ...]]  # the strings at which an answer ends
    sanitize: Callable[[str, str], str]  # a program without what is around it, by its entry point
    head: str  # the field with the beginning of the program, behind which a solution stands
    tests: tuple[str, ...]  # the fields that hold the tests
    scorer: str  # which scorer of the sandbox's worker checks a program
    library: str | None  # the package whose scorer that is; None: FGit's own
    # Whether the time limits are so near to what the tests take that a busy machine may decide.
    tight_limits: bool = True
    max_new_tokens: int | None = None  # tokens of a solution; None: as the settings say

    def program(self, problem: RawProblem, solution: str) -> str:
        """A solution that stands behind the problem's head, as a whole program."""
        return f"{problem[self.head]}{solution}"

    def canonical(self, problem: RawProblem) -> str:
        """The canonical solution as a whole program."""
        return self.program(problem, problem["canonical_solution"])


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of benchmark: the format of its problems, and whatever is done with them."""

    name: BenchmarkKind
    # A row as a problem, its fields checked and of the types that the tests take; the first
    # argument is the file and row, for messages.
    check: Callable[[str, RawProblem], Problem]
    # What must not be in training data, by file, row number and row: a problem as
    # :mod:`fgit.decontaminate.texts` takes it; None for a row of another format.
    protect: Callable[[Path, int, RawProblem], Problem | BadRow | None]
    # Where the problems of a release are, by what stands behind ``release:``; None: no releases.
    release: Callable[[str], EvalPlusFile | HubDataset] | None = None
    programs: Programs | None = None  # None: no program is asked for
    # The environment in which the programs run, a key of the config's ``python``.
    environment: Literal["main", "bigcodebench"] = "main"
    # Whether canonical solutions may fail, so that they are scored first, to show that the
    # environment is the right one.
    ground_truth: bool = False
    metric: str = "pass@1 {tests}"  # what is measured, as results.parquet names it
    outcome: str = "{tests}_pass"  # the column of outcomes.parquet that says it of a problem

    @property
    def plus(self) -> bool:
        """Whether there are plus tests besides the base tests."""
        return self.name in WITH_PLUS


# ------------------------------------------------------------------ checking the fields of a row


def require_texts(
    kind: str,
    where: str,
    row: RawProblem,
    texts: Iterable[str],
    *,
    others: Iterable[str] = (),
    may_be_empty: Iterable[str] = (),
) -> Problem:
    """The row as a problem, if it has all fields, and text where there must be one.

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
    return dict(row)


def text_fields(
    path: Path,
    number: int,
    row: RawProblem,
    fields: Iterable[str],
    may_be_empty: Iterable[str] = (),
) -> Problem | BadRow | None:
    """These fields of a row, all text, and its ``task_id``; None if it lacks one of them.

    The task_id is the row's ``task_id`` or ``problem_id`` as text, or the row's number.
    """
    if not all(name in row for name in fields):
        return None
    # MBPP and APPS number their tasks, DS-1000 has its numbers elsewhere, GSM8K none.
    own = next((row[key] for key in ("task_id", "problem_id") if key in row), number)
    values = {name: row[name] for name in fields} | {"task_id": str(own)}
    same = {name: name for name in values}
    texts = text_columns(values, same, values, set(values).difference(may_be_empty))
    return BadRow(str(path), number, *texts) if isinstance(texts, tuple) else dict(texts)
