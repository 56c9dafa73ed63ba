"""Where a correct response and its incorrect variant part ways (section II-A).

Line spans come from difflib's alignment of the lines; character spans from Levenshtein's edit
operations within each block of changed lines. Over the whole text, ties among equal edits put some
of them into unchanged lines, against the paper's "changed tokens must appear in changed lines".
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import Levenshtein
import polars as pl

from fgit import processes
from fgit.errors import UserError
from fgit.files import read_parquet, write_json, write_parquet
from fgit.progress import bar

log = logging.getLogger(__name__)

Span = tuple[int, int]
SIDES = ("response", "variant")
SPANS = pl.List(pl.List(pl.Int64))
PART = 500  # pairs that are annotated at a time
FEW = 1000  # pairs for which starting processes would cost more than it saves


@dataclasses.dataclass(frozen=True)
class Segments:
    """The error-sensitive segments of a pair: half-open character ranges, in order, not touching.

    A line's range takes in the newline behind it. Every character range lies in a line range.
    """

    response_lines: list[Span]
    response_characters: list[Span]
    variant_lines: list[Span]
    variant_characters: list[Span]


def segments(response: str, variant: str) -> Segments:
    """Mark what differs between the correct response y and the variant y'."""
    matcher = difflib.SequenceMatcher(
        None, response.split("\n"), variant.split("\n"), autojunk=False
    )
    changed = [block for tag, *block in matcher.get_opcodes() if tag != "equal"]
    return segments_in(response, variant, changed)


def segments_in(response: str, variant: str, blocks: Iterable[Sequence[int]]) -> Segments:
    """Mark blocks of changed lines, and in them the characters that differ.

    Args:
        blocks: (a, b, c, d) each, in order: lines a to b of the response, b not included, face
            lines c to d of the variant.
    """
    starts = line_starts(response, response.split("\n")), line_starts(variant, variant.split("\n"))
    found: tuple[list[Span], ...] = ([], [], [], [])
    for i1, i2, j1, j2 in blocks:
        y_start, y_end = starts[0][i1], starts[0][i2]
        v_start, v_end = starts[1][j1], starts[1][j2]
        found[0].append((y_start, y_end))
        found[2].append((v_start, v_end))
        for operation, i, j in Levenshtein.editops(response[y_start:y_end], variant[v_start:v_end]):
            if operation != "insert":
                found[1].append((y_start + i, y_start + i + 1))
            if operation != "delete":
                found[3].append((v_start + j, v_start + j + 1))
    return Segments(*[merged(spans) for spans in found])


def line_starts(text: str, lines: list[str]) -> list[int]:
    """Where each line starts, and, as the last entry, where the text ends."""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] = len(text)
    return starts


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, empty ones left out, touching ones joined."""
    result: list[Span] = []
    for start, end in spans:
        if start == end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def annotate(pairs: Path, out: Path, report: Path, threads: int = 1) -> None:
    """Add the spans of each pair to ``pairs``; they are found once, without a tokenizer.

    Output columns beside those of ``pairs``: response_lines, response_characters, variant_lines,
    variant_characters, each a list of [start, end) in characters; null where there is no variant.
    """
    frame = read_parquet(pairs)
    missing = {"id", *SIDES} - set(frame.columns)
    if missing:
        raise UserError(f"{pairs}: no column {', '.join(sorted(missing))}; is it a pairs file?")
    pairs_only = frame.select(SIDES)
    parts = [pairs_only.slice(start, PART) for start in range(0, max(len(frame), 1), PART)]
    # Starting processes for few pairs would cost more than it saves.
    found = processes.each(annotate_part, parts, threads if len(frame) >= FEW else 1)
    spans: list[pl.DataFrame] = []
    counts: Counter[str] = Counter()
    for part, counted in bar(found, description="annotate", total=len(parts), unit="part"):
        spans.append(part)
        counts.update(counted)
    summary = {
        "samples": frame.height,
        "pairs": counts["pairs"],
        "without_marked_response": counts["without_marked_response"],
        "without_marked_variant": counts["without_marked_variant"],
        "changed_lines": {side: a_pair(counts, f"{side}_lines") for side in SIDES},
        "changed_characters": {side: a_pair(counts, f"{side}_characters") for side in SIDES},
    }
    write_parquet(out, pl.concat([frame, pl.concat(spans)], how="horizontal"))
    write_json(report, summary)
    log.info("%d samples, %d pairs with segments", summary["samples"], summary["pairs"])


def annotate_part(pairs: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """The spans of some pairs, and what the report counts of them.

    Args:
        pairs: response and variant; the latter is null where there is no pair.

    Returns:
        The four columns of spans, null where there is no pair; and the numbers of pairs, of sides
        without a marked character, and of marked lines and characters of each side.
    """
    columns: dict[str, list[list[Span] | None]] = {
        field.name: [] for field in dataclasses.fields(Segments)
    }
    counts: Counter[str] = Counter()
    for texts in pairs.iter_rows(named=True):
        found = None if texts["variant"] is None else segments(texts["response"], texts["variant"])
        for name, column in columns.items():
            column.append(None if found is None else getattr(found, name))
        if found is None:
            continue
        counts["pairs"] += 1
        for side in SIDES:
            lines, characters = (
                getattr(found, f"{side}_lines"),
                getattr(found, f"{side}_characters"),
            )
            counts[f"without_marked_{side}"] += not characters
            counts[f"{side}_lines"] += sum(
                texts[side].count("\n", start, end - 1) + 1 for start, end in lines
            )
            counts[f"{side}_characters"] += sum(end - start for start, end in characters)
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, SPANS)), counts


def a_pair(counts: Counter[str], name: str) -> float | None:
    """The mean over the pairs; None if there is none."""
    return counts[name] / counts["pairs"] if counts["pairs"] else None
