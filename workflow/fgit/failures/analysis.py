"""How far failing programs are from passing ones (sections I, IV-A and IV-B).

The paper calls a failure one of error-sensitive segments if the program is largely correct and
takes changes in three or fewer places, or of three or fewer lines; its authors counted by hand. The
reading here is mechanical, so that the same programs give the same figures:

* Programs are compared without what does not act: comments, docstrings, blank lines, layout. Names
  stay, and so do type annotations and imports, whose absence may be why a program fails.
* ``lines`` is the smallest number of lines to change, remove or add: Levenshtein's distance over
  lines, in which a block of m lines that n lines replace counts max(m, n).
* ``places`` is the number of such blocks, the fewest that ``lines`` allows. A program written anew
  from top to bottom is one block, hence ``kept``, the share of the failing program's lines that
  stay: *largely correct* asks for at least half of them.
* The nearest passing program is the one with the fewest lines, then places, among those known: the
  canonical solution, unless it was seen to fail where the runs were scored, and the passing
  solutions of other runs. All figures are upper bounds: a nearer program may exist that nobody
  wrote.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import Levenshtein
import polars as pl

from fgit.common.statistics import wilson

BOUND = 3  # the paper's bound, of places and of lines
LARGELY = 0.5  # the share of its lines that a largely correct program keeps
# Beyond this many pairs of lines the search for the fewest places would take seconds.
MAX_CELLS = 250_000
CACHED = 1 << 17  # texts, about a thousand characters each

CHANGED = "changed"
UNPARSABLE = "unparsable"  # the failing program is no Python; compared as text
EQUAL = "same"  # differs from a passing program in nothing that acts: its verdict has other reasons
BLANK = "empty"  # no program, or comments only
UNKNOWN = "unknown"  # no passing program is known
STATUSES = (CHANGED, UNPARSABLE, EQUAL, BLANK, UNKNOWN)
CANONICAL_SOURCE = "canonical solution"  # the source of a passing program that no run wrote
FAILURE_SCHEMA: dict[str, type[pl.DataType]] = {
    "task_id": pl.String,
    "status": pl.String,
    "places": pl.Int64,
    "lines": pl.Int64,
    "kept": pl.Float64,
    "nearest_source": pl.String,
    "nearest_code": pl.String,
}

Block = tuple[int, int, int, int]  # wrong[a:b] becomes right[c:d]


@dataclasses.dataclass(frozen=True)
class Changes:
    """The smallest edit from one program to another.

    Attributes:
        places: changed blocks of lines.
        lines: lines changed, removed or added.
        blocks: for each place the half-open ranges of lines on both sides, in order.
        before: the lines of the failing program, as they were compared.
        after: those of the passing one.
    """

    places: int
    lines: int
    blocks: tuple[Block, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def kept(self) -> float:
        """The share of the failing program's lines that stay; 0 for an empty program."""
        touched = sum(b - a for a, b, _, _ in self.blocks)
        return 1 - touched / len(self.before) if self.before else 0.0


# ------------------------------------------------------------------ what acts in a program


def remove_constants(node: ast.AST) -> None:
    """Take out statements that are a constant: docstrings, and the ``...`` of an empty body."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, [])
        for statement in inner:
            remove_constants(statement)
        if any(map(is_constant, inner)):
            acting = [statement for statement in inner if not is_constant(statement)]
            if not acting and field == "body" and not isinstance(node, ast.Module):
                acting = [ast.Pass()]
            setattr(node, field, acting)


def is_constant(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@functools.lru_cache(CACHED)
def acting_lines(code: str) -> tuple[str, ...] | None:
    """The lines of a program in Python's own layout, without what does not act.

    None if it cannot be parsed (or is too deeply nested to be).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape in the program
            tree = ast.parse(code)
            remove_constants(tree)
            text = ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tuple(line for line in text.split("\n") if line.strip())


@functools.lru_cache(CACHED)
def text_lines(code: str) -> tuple[str, ...]:
    """The lines of a text that are not blank, without the white space at their ends."""
    return tuple(line.rstrip() for line in code.splitlines() if line.strip())


# ------------------------------------------------------------------ the smallest edit


def changes(wrong: str, right: str) -> Changes:
    """The smallest edit from a failing program to a passing one: fewest lines, then places.

    Programs are compared as :func:`acting_lines`; if one of them cannot be parsed, both as
    :func:`text_lines`.
    """
    return changed_lines(*comparable(wrong, right))


def comparable(wrong: str, right: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both programs in the form in which they are compared."""
    before, after = acting_lines(wrong), acting_lines(right)
    if before is None or after is None:
        return text_lines(wrong), text_lines(right)
    return before, after


@functools.lru_cache(CACHED)
def changed_lines(before: tuple[str, ...], after: tuple[str, ...]) -> Changes:
    """The smallest edit between two sequences of lines.

    A common start or end is in some smallest edit left as it is, so that only what lies between is
    searched.
    """
    start = common(before, after)
    end = common(before[start:][::-1], after[start:][::-1])
    inner = before[start : len(before) - end], after[start : len(after) - end]
    search = fewest_places if len(inner[0]) * len(inner[1]) <= MAX_CELLS else any_places
    blocks = tuple((start + a, start + b, start + c, start + d) for a, b, c, d in search(*inner))
    lines = sum(max(b - a, d - c) for a, b, c, d in blocks)
    return Changes(len(blocks), lines, blocks, before, after)


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many lines two sequences start with alike."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in alike)


def fewest_places(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    """The blocks of an edit with the fewest lines and, among those, the fewest places.

    Dynamic programming over the pairs of prefixes, in two layers: the edit so far ends in a line
    that stays, or in a change. Lines and places are one number, lines in its high part.
    """
    if set(before).isdisjoint(after):
        return [(0, len(before), 0, len(after))] if before or after else []
    line = len(before) + len(after) + 2  # more than there can be places
    never = line * line
    width = len(after) + 1
    staying = [[0] + [never] * len(after)]
    changing = [[never, *(line * j + 1 for j in range(1, width))]]
    for i, mine in enumerate(before, start=1):
        staying_above, changing_above = staying[-1], changing[-1]
        staying_row, changing_row = [never], [line * i + 1]
        # What a further change costs from each of the three prefixes that are one line shorter.
        diagonal = min(changing_above[0], staying_above[0] + 1)
        left = changing_row[0]
        for j, other in enumerate(after):
            above = min(changing_above[j + 1], staying_above[j + 1] + 1)
            change = min(diagonal, above, left) + line
            stay = min(staying_above[j], changing_above[j]) if mine == other else never
            staying_row.append(stay)
            changing_row.append(change)
            diagonal, left = above, min(change, stay + 1)
        staying.append(staying_row)
        changing.append(changing_row)
    return trace(staying, changing, line)


def trace(staying: list[list[int]], changing: list[list[int]], line: int) -> list[Block]:
    """The blocks of the best edit, read backwards from the full tables."""
    i, j = len(staying) - 1, len(staying[0]) - 1
    blocks: list[Block] = []
    while i or j:
        if staying[i][j] < changing[i][j]:
            i, j = i - 1, j - 1
            continue
        end = i, j
        inside = True
        while inside:
            cost = changing[i][j] - line
            shorter = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]  # by one line
            shorter = [(a, b) for a, b in shorter if a >= 0 and b >= 0]
            starts = [(a, b) for a, b in shorter if staying[a][b] + 1 == cost]
            inside = not starts
            i, j = (starts or [(a, b) for a, b in shorter if changing[a][b] == cost])[0]
        blocks.append((i, end[0], j, end[1]))
    return blocks[::-1]


def any_places(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    """The blocks of an edit with the fewest lines, whatever their number."""
    blocks: list[Block] = []
    operations = Levenshtein.opcodes(before, after)
    for equal, group in itertools.groupby(operations, lambda operation: operation[0] == "equal"):
        if not equal:
            (_, a, b, c, d), *rest = group
            blocks.append((a, rest[-1][2], c, rest[-1][4]) if rest else (a, b, c, d))
    return blocks


# ------------------------------------------------------------------ the nearest passing program


def nearest(wrong: str, passing: Mapping[str, str]) -> tuple[str, Changes] | None:
    """The passing program with the smallest edit from a failing one, and the edit.

    Args:
        passing: programs by where they come from; of equally near ones the first is taken.

    Returns:
        Its source and the changes; None if no passing program is given.
    """
    distances: dict[str, int] = {}
    seen: set[tuple[str, ...]] = set()
    least: int | None = None
    for source, code in passing.items():
        before, after = comparable(wrong, code)
        if after not in seen:
            seen.add(after)
            distances[source] = Levenshtein.distance(before, after, score_cutoff=least)
            least = distances[source] if least is None else min(least, distances[source])
    edits = [(s, changes(wrong, passing[s])) for s, lines in distances.items() if lines == least]
    return min(edits, key=lambda pair: pair[1].places, default=None)


def analyse(failing: Mapping[str, str], passing: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
    """How far each failing program is from the nearest passing one.

    Args:
        failing: programs by task_id.
        passing: by task_id, the passing programs by where they come from.

    Returns:
        A row for each failing program, in their order, with the columns of
        :data:`FAILURE_SCHEMA`: status (one of :data:`STATUSES`); places, lines and kept (a
        fraction); the nearest passing program's source and its code as it was written. Places,
        lines and kept are null where there is no program or nothing to compare it with.
    """
    rows = []
    for task_id, wrong in failing.items():
        row: dict[str, Any] = {"task_id": task_id, "status": UNKNOWN}
        lines = acting_lines(wrong)
        if lines == ():
            row["status"] = BLANK
        elif (match := nearest(wrong, passing.get(task_id, {}))) is not None:
            source, edit = match
            status = UNPARSABLE if lines is None else CHANGED
            row["status"] = status if edit.lines else EQUAL
            row |= {"places": edit.places, "lines": edit.lines, "kept": edit.kept}
            row |= {"nearest_source": source, "nearest_code": passing[task_id][source]}
        rows.append(row)
    return pl.DataFrame(rows, schema=FAILURE_SCHEMA)


def share_of(part: int, whole: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval, as fractions; both null for a share of nothing."""
    return {
        "n": part,
        "of": whole,
        "share": part / whole if whole else None,
        "interval": list(wilson(part, whole)) if whole else None,
    }


def failure_figures(failures: pl.DataFrame) -> dict[str, Any]:
    """The rows of :func:`analyse` in figures.

    Shares are of the failures for which a passing program is known. An empty program, and one that
    is the same as a passing one, takes no few changes: they count in the whole, not in the part.
    """
    whole = failures.filter(pl.col("status") != UNKNOWN).height
    changed = failures.filter(pl.col("status").is_in([CHANGED, UNPARSABLE]))
    few_places = changed.filter(pl.col("places") <= BOUND)
    largely_correct = few_places.filter(pl.col("kept") >= LARGELY)
    few_lines = changed.filter(pl.col("lines") <= BOUND)
    return {
        "failures": failures.height,
        "statuses": {status: int((failures["status"] == status).sum()) for status in STATUSES},
        "few_places": share_of(few_places.height, whole),
        "few_places_largely_correct": share_of(largely_correct.height, whole),
        "few_lines": share_of(few_lines.height, whole),
        "distribution": {
            name: {str(value): n for value, n in sorted(changed[name].value_counts().rows())}
            for name in ("places", "lines")
        },
    }


# ------------------------------------------------------------------ runs


@dataclasses.dataclass(frozen=True)
class RunPrograms:
    """A run's programs for a benchmark, by task_id: those that pass, and those that do not."""

    passing: Mapping[str, str]
    failing: Mapping[str, str]

    @classmethod
    def of(cls, outcomes: pl.DataFrame, tests: str) -> RunPrograms:
        """From a score's outcomes; ``tests`` is ``base``, or ``plus`` (base and plus tests)."""
        columns = ["task_id", f"{tests}_pass", pl.col("solution").fill_null("")]
        rows = outcomes.select(columns).rows()
        return cls(
            passing={task_id: solution for task_id, passed, solution in rows if passed},
            failing={task_id: solution for task_id, passed, solution in rows if not passed},
        )


def distinct_passing(
    canonical: Mapping[str, str], runs: Mapping[str, RunPrograms]
) -> dict[str, dict[str, str]]:
    """The passing programs of each problem by where they come from, each once.

    Of programs that differ in nothing that acts, the first is kept: the canonical solution before
    the runs', and those in their order.
    """
    problems: dict[str, dict[tuple[str, ...], tuple[str, str]]] = {}
    sources = {CANONICAL_SOURCE: canonical} | {name: run.passing for name, run in runs.items()}
    for source, programs in sources.items():
        for task_id, code in programs.items():
            form = acting_lines(code) or text_lines(code)
            problems.setdefault(task_id, {}).setdefault(form, (source, code))
    return {task_id: dict(forms.values()) for task_id, forms in problems.items()}


def solved_only_by(
    solver: RunPrograms, other: RunPrograms, other_nearest: pl.DataFrame
) -> pl.DataFrame:
    """The problems that one run solves and another does not, and how far the other was off.

    Args:
        other_nearest: the rows of :func:`analyse` for the other run's failures.

    Returns:
        A row a problem: task_id, status, places, lines and kept as of :data:`FAILURE_SCHEMA`,
        against the solver's own program; nearest_places, nearest_lines and nearest_source against
        the nearest program of all.
    """
    both = [task_id for task_id in other.failing if task_id in solver.passing]
    own = analyse(
        {task_id: other.failing[task_id] for task_id in both},
        {task_id: {CANONICAL_SOURCE: solver.passing[task_id]} for task_id in both},
    ).drop("nearest_source", "nearest_code")
    least = other_nearest.select(
        "task_id", "nearest_source", nearest_places="places", nearest_lines="lines"
    )
    return own.join(least, on="task_id", how="left", maintain_order="left")


@dataclasses.dataclass(frozen=True)
class OneSided:
    """What one run solves and another does not."""

    solver: str
    other: str
    programs: tuple[RunPrograms, RunPrograms]
    problems: pl.DataFrame  # of solved_only_by

    @property
    def figures(self) -> dict[str, Any]:
        """How many problems, and for how many of them few changed lines are enough."""
        n = self.problems.height
        few = self.problems.select(pl.col("lines", "nearest_lines").is_between(1, BOUND).sum())
        return {
            "problems": n,
            "few_lines": share_of(few["lines"].item(), n),
            "few_lines_nearest": share_of(few["nearest_lines"].item(), n),
        }
