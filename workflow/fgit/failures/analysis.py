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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import Levenshtein
import polars as pl

from fgit.common.statistics import wilson

FEW = 3  # the paper's bound, of places and of lines
LARGELY = 0.5  # the share of its lines that a largely correct program keeps
# Beyond this many pairs of lines the search for the fewest places would take seconds.
MAX_CELLS = 250_000
CACHED = 1 << 17  # texts, about a thousand characters each

CHANGED = "changed"
UNPARSABLE = "unparsable"  # the failing program is no Python; compared as text
SAME = "same"  # differs from a passing program in nothing that acts: its verdict has other reasons
EMPTY = "empty"  # no program, or comments only
UNKNOWN = "unknown"  # no passing program is known
STATUSES = (CHANGED, UNPARSABLE, SAME, EMPTY, UNKNOWN)
CANONICAL = "canonical solution"  # the source of a passing program that no run wrote
SCHEMA: dict[str, type[pl.DataType]] = {
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
    if len(inner[0]) * len(inner[1]) <= MAX_CELLS:
        found = fewest_places(*inner)
    else:
        found = any_places(*inner)
    blocks = tuple((start + a, start + b, start + c, start + d) for a, b, c, d in found)
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
    stays = [[0] + [never] * len(after)]
    changes = [[never, *(line * j + 1 for j in range(1, width))]]
    for i, mine in enumerate(before, start=1):
        stays_above, changes_above = stays[-1], changes[-1]
        stays_row, changes_row = [never], [line * i + 1]
        # What a further change costs from each of the three prefixes that are one line shorter.
        diagonal = min(changes_above[0], stays_above[0] + 1)
        left = changes_row[0]
        for j, other in enumerate(after):
            above = min(changes_above[j + 1], stays_above[j + 1] + 1)
            change = min(diagonal, above, left) + line
            stay = min(stays_above[j], changes_above[j]) if mine == other else never
            stays_row.append(stay)
            changes_row.append(change)
            diagonal, left = above, min(change, stay + 1)
        stays.append(stays_row)
        changes.append(changes_row)
    return trace(stays, changes, line)


def steps(i: int, j: int) -> Iterator[tuple[int, int]]:
    """The prefixes from which one changed line leads to (i, j)."""
    if i and j:
        yield i - 1, j - 1
    if i:
        yield i - 1, j
    if j:
        yield i, j - 1


def trace(stays: list[list[int]], changes: list[list[int]], line: int) -> list[Block]:
    """The blocks of the best edit, read backwards from the full tables."""
    i, j = len(stays) - 1, len(stays[0]) - 1
    blocks: list[Block] = []
    while i or j:
        if stays[i][j] < changes[i][j]:
            i, j = i - 1, j - 1
            continue
        end = i, j
        inside = True
        while inside:
            cost = changes[i][j] - line
            starts = [(a, b) for a, b in steps(i, j) if stays[a][b] + 1 == cost]
            inside = not starts
            i, j = (starts or [(a, b) for a, b in steps(i, j) if changes[a][b] == cost])[0]
        blocks.append((i, end[0], j, end[1]))
    return blocks[::-1]


def any_places(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    """The blocks of an edit with the fewest lines, whatever their number."""
    blocks: list[Block] = []
    for operation, i, j in Levenshtein.editops(before, after):
        end = i + (operation != "insert"), j + (operation != "delete")
        if blocks and (blocks[-1][1], blocks[-1][3]) == (i, j):
            blocks[-1] = (blocks[-1][0], end[0], blocks[-1][2], end[1])
        else:
            blocks.append((i, end[0], j, end[1]))
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
    found = [(s, changes(wrong, passing[s])) for s, lines in distances.items() if lines == least]
    return min(found, key=lambda pair: pair[1].places, default=None)


def analyse(failing: Mapping[str, str], passing: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
    """How far each failing program is from the nearest passing one.

    Args:
        failing: programs by task_id.
        passing: by task_id, the passing programs by where they come from.

    Returns:
        A row for each failing program, in their order, with the columns of :data:`SCHEMA`: status
        (one of :data:`STATUSES`); places, lines and kept (a fraction); the nearest passing
        program's source and its code as it was written. Places, lines and kept are null where
        there is no program or nothing to compare it with.
    """
    rows = []
    for task_id, wrong in failing.items():
        row: dict[str, Any] = {"task_id": task_id, "status": status_of(wrong)}
        found = nearest(wrong, passing.get(task_id, {})) if row["status"] != EMPTY else None
        if found is not None:
            source, edit = found
            row |= {"places": edit.places, "lines": edit.lines, "kept": edit.kept}
            row |= {"nearest_source": source, "nearest_code": passing[task_id][source]}
            if edit.lines == 0:
                row["status"] = SAME
        elif row["status"] != EMPTY:
            row["status"] = UNKNOWN
        rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def status_of(wrong: str) -> str:
    """What a failing program is, before it is compared."""
    lines = acting_lines(wrong)
    if lines is None:
        return UNPARSABLE
    return CHANGED if lines else EMPTY


def few(lines: int) -> bool:
    """Whether so many lines, or places, are few: some, and three or fewer."""
    return 0 < lines <= FEW


def share_of(part: int, whole: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval, as fractions; both null for a share of nothing."""
    return {
        "n": part,
        "of": whole,
        "share": part / whole if whole else None,
        "interval": list(wilson(part, whole)) if whole else None,
    }


def summary(found: pl.DataFrame) -> dict[str, Any]:
    """What :func:`analyse` found, in figures.

    Shares are of the failures for which a passing program is known. An empty program, and one that
    is the same as a passing one, takes no few changes: they count in the whole, not in the part.
    """
    known = found.filter(pl.col("status") != UNKNOWN)
    changed = known.filter(pl.col("status").is_in([CHANGED, UNPARSABLE]))
    few_places = changed.filter(pl.col("places") <= FEW)
    return {
        "failures": found.height,
        "statuses": {status: int((found["status"] == status).sum()) for status in STATUSES},
        "few_places": share_of(few_places.height, known.height),
        "few_places_largely_correct": share_of(
            few_places.filter(pl.col("kept") >= LARGELY).height, known.height
        ),
        "few_lines": share_of(changed.filter(pl.col("lines") <= FEW).height, known.height),
        "distribution": {
            name: {
                str(value): count for value, count in sorted(changed[name].value_counts().rows())
            }
            for name in ("places", "lines")
        },
    }


# ------------------------------------------------------------------ runs


@dataclasses.dataclass(frozen=True)
class Programs:
    """A run's programs for a benchmark, by task_id: those that pass, and those that do not."""

    passing: Mapping[str, str]
    failing: Mapping[str, str]

    @classmethod
    def of(cls, outcomes: pl.DataFrame, tests: str) -> Programs:
        """From a score's outcomes; ``tests`` is ``base``, or ``plus`` (base and plus tests)."""
        passing: dict[str, str] = {}
        failing: dict[str, str] = {}
        rows = outcomes.select("task_id", f"{tests}_pass", "solution").iter_rows()
        for task_id, passed, solution in rows:
            (passing if passed else failing)[task_id] = solution or ""
        return cls(passing, failing)


def known_passing(
    canonical: Mapping[str, str], runs: Mapping[str, Programs]
) -> dict[str, dict[str, str]]:
    """The passing programs of each problem by where they come from, each once.

    Of programs that differ in nothing that acts, the first is kept: the canonical solution before
    the runs', and those in their order.
    """
    found: dict[str, dict[tuple[str, ...], tuple[str, str]]] = {}
    for source, programs in [(CANONICAL, canonical), *((n, r.passing) for n, r in runs.items())]:
        for task_id, code in programs.items():
            form = acting_lines(code) or text_lines(code)
            found.setdefault(task_id, {}).setdefault(form, (source, code))
    return {task_id: dict(forms.values()) for task_id, forms in found.items()}


def solved_only_by(solver: Programs, other: Programs, other_nearest: pl.DataFrame) -> pl.DataFrame:
    """The problems that one run solves and another does not, and how far the other was off.

    Args:
        other_nearest: what :func:`analyse` says of the other run's failures.

    Returns:
        A row a problem: task_id, status, places, lines and kept as of :data:`SCHEMA`, against the
        solver's own program; nearest_places, nearest_lines and nearest_source against the nearest
        known one.
    """
    both = [task_id for task_id in other.failing if task_id in solver.passing]
    own = analyse(
        {task_id: other.failing[task_id] for task_id in both},
        {task_id: {CANONICAL: solver.passing[task_id]} for task_id in both},
    ).drop("nearest_source", "nearest_code")
    least = other_nearest.select(
        "task_id",
        nearest_places="places",
        nearest_lines="lines",
        nearest_source="nearest_source",
    )
    return own.join(least, on="task_id", how="left", maintain_order="left")


def gap_summary(found: pl.DataFrame) -> dict[str, Any]:
    """What :func:`solved_only_by` found: how many problems, and the shares of few lines."""
    return {
        "problems": found.height,
        "few_lines": share_of(sum(map(few, found["lines"].drop_nulls())), found.height),
        "few_lines_nearest": share_of(
            sum(map(few, found["nearest_lines"].drop_nulls())), found.height
        ),
    }


@dataclasses.dataclass(frozen=True)
class OneSided:
    """What one run solves and another does not."""

    solver: str
    other: str
    programs: tuple[Programs, Programs]
    problems: pl.DataFrame  # of solved_only_by

    @classmethod
    def of(
        cls,
        solver: str,
        other: str,
        programs: tuple[Programs, Programs],
        other_nearest: pl.DataFrame,
    ) -> OneSided:
        return cls(solver, other, programs, solved_only_by(*programs, other_nearest))

    @property
    def figures(self) -> dict[str, Any]:
        return gap_summary(self.problems)
