"""A sheet of pairs that two people judge, each alone: are the variants similar and incorrect?"""

import csv
import hashlib
import io
import json
import logging
import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit.annotate import PAIRS, SIDES, with_spans
from fgit.common import files
from fgit.common.errors import UserError
from fgit.stage_reports import KappaReport
from fgit.variants import conversation

log = logging.getLogger(__name__)

SHEET_COLUMNS = ["number", "id", "incorrect", "similar"]
READERS = ("reader-1.csv", "reader-2.csv")


def sheet(pairs: Path, out: Path, count: int, seed: int) -> None:
    """Draw pairs at random for two people to judge, each alone.

    Writes in the folder ``out``: ``sheet.html`` (the pairs side by side, in one file that opens
    anywhere), ``reader-1.csv`` and ``reader-2.csv`` (to be filled in: number, id, incorrect,
    similar), and ``sheet.json`` (which pairs were drawn). Answers that someone has begun are
    never overwritten: of the same draw they stay, of another one they are a reason to stop.

    Args:
        pairs: Parquet as select writes it.
        count: how many; all, if there are fewer pairs.

    Raises:
        UserError: if there is no pair, or a reader's file holds answers to another draw.
    """
    frame = files.read_parquet(pairs, PAIRS)
    rows = frame.filter(pl.col("variant").is_not_null()).to_dicts()
    if not rows:
        raise UserError(f"{pairs}: no sample has a variant, so there is nothing to read")
    if len(rows) < count:
        log.warning("%s has only %d pairs: all of them are drawn", pairs, len(rows))
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))
    texts = [[row["id"], conversation(row), *(row[side] for side in SIDES)] for row in drawn]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    mark = f'<meta name="draw" content="{digest}">'
    begun = [name for name in READERS if has_answers(out / name)]
    page = out / "sheet.html"
    if begun and not (page.exists() and mark in page.read_text(encoding="utf-8", errors="replace")):
        raise UserError(
            f"{out / begun[0]}: someone has begun to fill it in, for other pairs than these. "
            f"Nothing was changed: move {out} away, or choose another --out"
        )
    files.write_text(page, sheet_page(drawn, seed, mark, out))
    blank = io.StringIO()
    csv.writer(blank, lineterminator="\n").writerows(
        [SHEET_COLUMNS, *([number, row["id"], "", ""] for number, row in enumerate(drawn, 1))]
    )
    for name in READERS:
        if name not in begun:
            files.write_text(out / name, blank.getvalue())
    files.write_json(
        out / "sheet.json",
        {
            "draw": digest,
            "pairs_sha256": files.sha256(pairs),
            "seed": seed,
            "count": len(drawn),
            "drawn": [{"number": n, "id": row["id"]} for n, row in enumerate(drawn, 1)],
        },
    )
    if begun:
        log.info("The answers in %s stay: they are of this draw", " and ".join(begun))
    log.info("%d pairs to read: %s; answers go into %s", len(drawn), page, " and ".join(READERS))


def kappa_command(folder: Path) -> str:
    """The command that compares the answers in a sheet's folder, and writes what the report shows.

    Args:
        folder: of :func:`sheet`, as it is seen from where the command is run.
    """
    paths = [shlex.quote(str(folder / name)) for name in (*READERS, KappaReport.file)]
    return "fgit audit kappa {} {} --out {}".format(*paths)


def sheet_page(drawn: Sequence[Mapping[str, Any]], seed: int, mark: str, folder: Path) -> str:
    from markupsafe import Markup

    from fgit.report.rendering import page_templates
    from fgit.report.segments import lines_of

    pairs = [
        {"number": number, "lines": lines_of(with_spans(row)), "id": row["id"]}
        | {"instruction": conversation(row)}
        for number, row in enumerate(drawn, 1)
    ]
    template = page_templates().get_template("sheet.html.jinja")
    return template.render(
        pairs=pairs, seed=seed, readers=READERS, command=kappa_command(folder), mark=Markup(mark)
    )


def has_answers(path: Path) -> bool:
    """Whether a reader's file holds anything that would be lost; what cannot be read may."""
    if not path.exists():
        return False
    try:
        rows = read_sheet(path)
    except UserError:
        return path.stat().st_size > 0
    own = {"number", "id"}
    return any(value.strip() for _, row in rows for name, value in row.items() if name not in own)


def read_sheet(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a reader's file, each with the number of its last line in the file.

    As spreadsheets save it: with or without a byte order mark, separated by commas or semicolons,
    with further columns or empty lines.

    Raises:
        UserError: if it is not such a file, or a row has too few or too many fields.
    """
    try:
        text = files.existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in SHEET_COLUMNS if name not in names]:
            raise UserError(
                f"{path}: no column {', '.join(missing)} (it has: {', '.join(names) or 'none'}); "
                "fill in a file that fgit audit sheet wrote"
            )
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{path}, row {reader.line_num}: {len(row)} fields where the heading has "
                    f"{len(names)}; fix the row"
                )
            rows.append((reader.line_num, dict(zip(names, row, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, row {reader.line_num}: not readable as CSV ({error})") from error
    return rows
