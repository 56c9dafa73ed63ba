"""Where a correct response and its incorrect variant part ways (section II-A).

Line spans come from difflib's alignment of the lines; character spans from Levenshtein's edit
operations within each block of changed lines. Over the whole text, ties among equal edits put some
of them into unchanged lines, against the paper's "changed tokens must appear in changed lines".
"""

import dataclasses
import difflib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import Levenshtein
import polars as pl

from fgit.common import processes
from fgit.common.errors import UserError
from fgit.common.files import Layout, parquet_height, read_parquet, read_parts, writing_parquet
from fgit.common.progress import bar
from fgit.stage_reports import AnnotateReport
from fgit.variants import HISTORY, check_histories

log = logging.getLogger(__name__)

Span = tuple[int, int]
SIDES = ("response", "variant")
UNITS = ("lines", "characters")
SPANS_DTYPE = pl.List(pl.List(pl.Int64))
PART = 500  # samples that are annotated at a time


@dataclasses.dataclass(frozen=True)
class Segments:
    """The error-sensitive segments of a pair: half-open character ranges, in order, not touching.

    A line's range takes in the newline behind it. Every character range lies in a line range.
    """

    response_lines: list[Span]
    response_characters: list[Span]
    variant_lines: list[Span]
    variant_characters: list[Span]


SPAN_COLUMNS = tuple(field.name for field in dataclasses.fields(Segments))

PAIRS = Layout(
    dict.fromkeys(("id", "instruction", *SIDES), pl.String),
    optional={"history": HISTORY},
    filled=("instruction", "response"),
    key=("id",),
    advice="name the pairs that fgit select wrote, or make them again",
)
SPANS = dataclasses.replace(
    PAIRS,
    columns={**PAIRS.columns, **dict.fromkeys(SPAN_COLUMNS, SPANS_DTYPE)},
    advice="name what fgit annotate wrote, or run the annotate stage again",
)


def with_spans(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with the columns that :func:`annotate` adds, null where it has no variant."""
    variant = row["variant"]
    spans = {} if variant is None else vars(segments(row["response"], variant))
    return {**row, **dict.fromkeys(SPAN_COLUMNS), **spans}


def segments(response: str, variant: str) -> Segments:
    """Mark what differs between the correct response y and the variant y'.

    Nothing is cut or simplified, so the time has no bound: it grows with the product of the
    numbers of lines where lines repeat (2 s for 5,000 blank lines on each side), and with the
    product of the lengths of two blocks that face each other (2 s for 200,000 characters each).
    """
    lines = response.split("\n"), variant.split("\n")
    matcher = difflib.SequenceMatcher(None, *lines, autojunk=False)
    changed = [block for tag, *block in matcher.get_opcodes() if tag != "equal"]
    return segments_in(response, variant, changed)


def segments_in(response: str, variant: str, blocks: Iterable[Sequence[int]]) -> Segments:
    """Mark blocks of changed lines, and in them the characters that differ.

    Args:
        blocks: (a, b, c, d) each, in order: lines a to b of the response, b not included, face
            lines c to d of the variant.
    """
    y_starts, v_starts = line_starts(response), line_starts(variant)
    marked = Segments([], [], [], [])
    for i1, i2, j1, j2 in blocks:
        y_start, y_end = y_starts[i1], y_starts[i2]
        v_start, v_end = v_starts[j1], v_starts[j2]
        mark(marked.response_lines, y_start, y_end)
        mark(marked.variant_lines, v_start, v_end)
        # The edit operations, those of one kind that follow each other as one.
        for operation, y1, y2, v1, v2 in Levenshtein.opcodes(
            response[y_start:y_end], variant[v_start:v_end]
        ):
            if operation != "equal":
                mark(marked.response_characters, y_start + y1, y_start + y2)
                mark(marked.variant_characters, v_start + v1, v_start + v2)
    return marked


def line_starts(text: str) -> list[int]:
    """Where each line starts, and, as the last entry, where the text ends."""
    starts = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
    starts[-1] = len(text)
    return starts


def mark(spans: list[Span], start: int, end: int) -> None:
    """Put a span behind the others: none if it is empty, as one with the last if they touch."""
    if start == end:
        return
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], end)
    else:
        spans.append((start, end))


def annotate(pairs: Path, out: Path, report: Path, threads: int = 1) -> None:
    """Add the spans of each pair to ``pairs``; they are found once, without a tokenizer.

    Output columns beside those of ``pairs``: response_lines, response_characters, variant_lines,
    variant_characters, each a list of [start, end) in characters; null where there is no variant.
    The report is :class:`fgit.stage_reports.AnnotateReport`. Memory holds a few parts of the
    samples, whatever their number.

    Raises:
        UserError: if ``pairs`` are none.
    """
    parts = read_parts(pairs, PART, PAIRS)
    first = next(parts)
    samples = parquet_height(pairs)
    whole, texts = itertools.tee(itertools.chain([first], parts))
    parts_only = (part.select(SIDES) for part in texts)
    annotated = processes.each(annotate_part, parts_only, threads, samples)
    progress = bar(annotated, description="annotate", total=-(-samples // PART), unit="part")
    counts: Counter[tuple[str, int]] = Counter()
    with writing_parquet(
        out, {**first.schema, **dict.fromkeys(SPAN_COLUMNS, SPANS_DTYPE)}
    ) as write:
        for number, (part, (spans, part_counts)) in enumerate(zip(whole, progress, strict=True)):
            check_histories(pairs, part, number * PART)
            write(part.with_columns(spans))
            counts.update(part_counts)
    summary = summary_of(samples, counts)
    summary.write(report)
    log.info("%d samples, %d pairs with segments", samples, summary.pairs)


def annotate_part(texts: pl.DataFrame) -> tuple[pl.DataFrame, Counter[tuple[str, int]]]:
    """The spans of some pairs, and how much is marked.

    Args:
        texts: response and variant; the latter is null where there is no pair.

    Returns:
        The four columns of spans, null where there is no pair; and how many pairs have how many
        marked lines or characters: (column, number) -> pairs. A fifth column, ``characters``, has
        those of both sides.
    """
    columns: dict[str, list[str]] = {name: [] for name in SPAN_COLUMNS}
    counts: Counter[tuple[str, int]] = Counter()
    for response, variant in texts.select(SIDES).iter_rows():
        spans = {} if variant is None else vars(segments(response, variant))
        for name, column in columns.items():
            column.append(json.dumps(spans.get(name)))
        if spans:
            numbers = {
                "response_lines": line_count(response, spans["response_lines"]),
                "variant_lines": line_count(variant, spans["variant_lines"]),
                "response_characters": character_count(spans["response_characters"]),
                "variant_characters": character_count(spans["variant_characters"]),
            }
            numbers["characters"] = numbers["response_characters"] + numbers["variant_characters"]
            counts.update(numbers.items())
    # By way of JSON, since polars takes nested lists of Python ten times as slowly.
    texts_of_spans = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return texts_of_spans.with_columns(pl.all().str.json_decode(SPANS_DTYPE)), counts


def read_spans(path: Path) -> pl.DataFrame:
    """What :func:`annotate` wrote, all columns.

    Raises:
        UserError: if it is no such file, or spans are none of their texts.
    """
    frame = read_parquet(path, SPANS)
    check_spans(path, frame)
    check_histories(path, frame)
    return frame


def check_spans(path: Path, frame: pl.DataFrame) -> None:
    """Each pair's spans are [start, end) within its text, in order, and do not overlap.

    Raises:
        UserError: naming the row and the column of one that is not so.
    """
    pairs = frame.with_row_index("row", 1).filter(pl.col("variant").is_not_null())
    for name in SPAN_COLUMNS:
        length = pl.col(name.partition("_")[0]).str.len_chars().cast(pl.Int64)
        spans = pairs.select("row", pl.col(name).alias("spans"), length=length)
        filled = spans.filter(pl.col("spans").list.len() > 0).explode("spans")
        start, end = (pl.col("spans").list.get(at, null_on_oob=True) for at in (0, 1))
        previous = pl.when(pl.col("row") == pl.col("row").shift()).then(end.shift())
        within = (pl.col("spans").list.len() == 2) & (start < end) & (end <= pl.col("length"))
        good = within & (start >= previous.fill_null(0))
        bad = pl.concat(
            [
                spans.filter(pl.col("spans").is_null()).select("row"),
                filled.filter(~good.fill_null(False)).select("row"),
            ]
        )
        if len(bad):
            row = frame.row(bad["row"][0] - 1, named=True)
            raise UserError(
                f"{path}, row {bad['row'][0]} ({row['id']!r}): {name} {row[name]!r:.80} are not "
                f"[start, end) within its text, in order; {SPANS.advice}"
            )


def line_count(text: str, spans: Iterable[Span]) -> int:
    return sum(text.count("\n", start, end - 1) + 1 for start, end in spans)


def character_count(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)


def summary_of(samples: int, counts: Mapping[tuple[str, int], int]) -> AnnotateReport:
    """The report; ``counts`` is of all pairs, as :func:`annotate_part` gives them."""
    numbers: dict[str, Counter[int]] = {name: Counter() for name in (*SPAN_COLUMNS, "characters")}
    for (name, number), pairs in counts.items():
        numbers[name][number] = pairs
    changed = {
        f"changed_{unit}": {side: numbers[f"{side}_{unit}"] for side in SIDES} for unit in UNITS
    }
    return AnnotateReport(
        samples=samples,
        pairs=numbers["characters"].total(),
        no_difference=numbers["characters"][0],
        **{f"without_marked_{side}": numbers[f"{side}_characters"][0] for side in SIDES},
        **{name: {side: average(sides[side]) for side in SIDES} for name, sides in changed.items()},
        distribution={
            name: {side: bins(sides[side]) for side in SIDES} for name, sides in changed.items()
        },
    )


def average(numbers: Counter[int]) -> float | None:
    """The mean of numbers that occur so often; None if there is none."""
    count = numbers.total()
    return sum(number * often for number, often in numbers.items()) / count if count else None


def bins(numbers: Counter[int]) -> list[tuple[float, float, int]]:
    """(lowest, highest, how often) for 0, 1, 2 to 3, 4 to 7, and so on up to the last in use."""
    often: Counter[int] = Counter()
    for number, count in numbers.items():
        often[number.bit_length()] += count
    return [
        (1 << digits >> 1, (1 << digits) - 1, often[digits])
        for digits in range(max(often, default=-1) + 1)
    ]
