"""Where a correct response and its incorrect variant part ways (section II-A).

Line spans come from difflib's alignment of the lines; character spans from Levenshtein's edit
operations within each block of changed lines. Over the whole text, ties among equal edits put some
of them into unchanged lines, against the paper's "changed tokens must appear in changed lines".
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import Levenshtein
import polars as pl

from fgit.errors import UserError
from fgit.files import read_parquet, write_json, write_parquet
from fgit.progress import bar

log = logging.getLogger(__name__)

Span = tuple[int, int]
SIDES = ("response", "variant")
SPANS = pl.List(pl.List(pl.Int64))


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
    work = list(zip(frame["response"], frame["variant"], strict=True))
    names = [field.name for field in dataclasses.fields(Segments)]
    rows: list[dict[str, list[Span] | None]] = []
    for found in bar(each(work, threads), description="annotate", total=len(work), unit="pair"):
        rows.append(dataclasses.asdict(found) if found else dict.fromkeys(names))
    spans = pl.DataFrame(rows, schema=dict.fromkeys(names, SPANS))
    result = pl.concat([frame, spans], how="horizontal")
    summary = {
        "samples": result.height,
        "pairs": sum(variant is not None for _, variant in work),
        "without_marked_response": sum(row["response_characters"] == [] for row in rows),
        "without_marked_variant": sum(row["variant_characters"] == [] for row in rows),
        "changed_lines": {side: mean(changed_lines(work, rows, side)) for side in SIDES},
        "changed_characters": {side: mean(changed_characters(rows, side)) for side in SIDES},
    }
    write_parquet(out, result)
    write_json(report, summary)
    log.info("%d samples, %d pairs with segments", summary["samples"], summary["pairs"])


def each(work: list[tuple[str, str | None]], threads: int) -> Iterable[Segments | None]:
    if threads == 1 or len(work) < 1000:  # starting processes would cost more than it saves
        yield from map(pair_segments, work)
        return
    with ProcessPoolExecutor(threads, mp_context=get_context("spawn")) as pool:
        yield from pool.map(pair_segments, work, chunksize=250)


def pair_segments(pair: tuple[str, str | None]) -> Segments | None:
    response, variant = pair
    return None if variant is None else segments(response, variant)


def changed_lines(
    work: list[tuple[str, str | None]], rows: list[dict[str, list[Span] | None]], side: str
) -> Iterable[int]:
    """Marked lines of one side, for each pair."""
    for texts, row in zip(work, rows, strict=True):
        text, spans = texts[SIDES.index(side)], row[f"{side}_lines"]
        if text is not None and spans is not None:
            yield sum(text.count("\n", start, end - 1) + 1 for start, end in spans)


def changed_characters(rows: list[dict[str, list[Span] | None]], side: str) -> Iterable[int]:
    """Marked characters of one side, for each pair."""
    for row in rows:
        spans = row[f"{side}_characters"]
        if spans is not None:
            yield sum(end - start for start, end in spans)


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
