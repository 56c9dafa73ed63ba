"""The published numbers that stand beside ours: what a paper or a leaderboard prints."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import existing, resolve
from fgit.config import PUBLISHED, Config

CSV_COLUMNS = ("table", "model", "dataset", "method", "column", "value")

Key = tuple[str, str | None, str]  # of a row of a table: model, dataset, method
Published = dict[tuple[str, Key, str], float]  # by table, row and column, in percent


def read_published(config: Config) -> Published:
    """What the config's file of published numbers says; empty if the config names none.

    The file is CSV with the columns :data:`CSV_COLUMNS`: the config's names, an empty dataset for
    rows that have none, and the value in percent as it is printed. A table with an average may have
    a printed one too (column ``average``); the tables show the mean of the columns.

    Raises:
        UserError: naming file, row and value, if the file cannot be read, if a number belongs to no
            cell of the config's tables, is no percentage, or is there twice, or if a row that is
            only quoted has no number.
    """
    if config.published is None:
        return {}
    path = existing(resolve(config.published))
    values: Published = {}
    rows: dict[tuple[str, Key, str], int] = {}
    for number, texts in read_rows(path):
        cell, value = read_row(config, f"{path}, row {number}", texts)
        if cell in rows:
            name, key, column = cell
            raise UserError(
                f"{path}, row {number}: a second number for {column} of {row_text(key)} in {name}; "
                f"the first is in row {rows[cell]}; remove one of the two"
            )
        rows[cell] = number
        values[cell] = value
    for name, table in config.tables.items():
        for row in table.rows:
            quoted = any((name, row.key, column) in values for column in table.columns)
            if row.method == PUBLISHED and not quoted:
                raise UserError(
                    f"{path}: no number for the row {row.name!r} of {name}, which is only quoted; "
                    f"add rows that begin with {name},{row.model},,{PUBLISHED}, or remove the row "
                    "from the config's table"
                )
    return values


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows by column, with their numbers in the file; blank ones are passed over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    reader = csv.DictReader(lines)
    if missing := [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]:
        raise UserError(
            f"{path}, row 1: no column {', '.join(missing)}; the first row names the columns: "
            f"{','.join(CSV_COLUMNS)}"
        )
    for row in reader:
        if missing := [name for name in CSV_COLUMNS if row[name] is None]:
            raise UserError(
                f"{path}, row {reader.line_num}: nothing for {', '.join(missing)}; give a value "
                f"for each of {','.join(CSV_COLUMNS)}"
            )
        yield reader.line_num, {name: row[name].strip() for name in CSV_COLUMNS}


def read_row(config: Config, where: str, row: dict[str, str]) -> tuple[tuple[str, Key, str], float]:
    """The cell that a row of the file is for, and its value."""
    name, column, text = row["table"], row["column"], row["value"]
    if name not in config.tables:
        raise UserError(f"{where}: no table is called {name!r}; known: {', '.join(config.tables)}")
    table = config.tables[name]
    key = (row["model"], row["dataset"] or None, row["method"])
    keys = [other.key for other in table.rows]
    if key not in keys:
        raise UserError(
            f"{where}: {name} has no row {row_text(key)}; it has: {'; '.join(map(row_text, keys))};"
            " correct the row, or add it to the config's table"
        )
    columns = [*table.columns, *(["average"] if table.average else [])]
    if column not in columns:
        raise UserError(f"{where}: {name} has no column {column!r}; it has: {', '.join(columns)}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UserError(f"{where}: the value {text!r} is no percentage; give a number, 0 to 100")
    return (name, key, column), value


def row_text(key: Key) -> str:
    return " / ".join(part for part in key if part is not None)
