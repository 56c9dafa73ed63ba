"""Reading and writing the files that flow between the stages.

Every writer writes to a temporary name in the same folder and renames, so that a file that exists
is a file that is whole. Records travel as Parquet; JSONL (plain or gzipped) and JSON arrays are
accepted wherever records are read.
"""

import codecs
import contextlib
import dataclasses
import errno
import gzip
import hashlib
import importlib.util
import itertools
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import polars as pl
from pydantic import BaseModel, ValidationError

from fgit.common.dataset_fields import value_of
from fgit.common.errors import UserError, full_place, number_of
from fgit.common.replacing import remove, replacing

PACKAGE_PREFIX = "package:"
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_LINE = 64 << 20  # bytes
PART_ROWS = 1000  # of a Parquet file, as Python objects
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
JsonModel = TypeVar("JsonModel", bound=BaseModel)
ROW_GROUP = 5000  # rows; a reader of a Parquet file holds a few groups at a time


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that could not be used: ``row`` counts from 1 (for JSONL: the line).

    ``kind`` is the reason in a word or three, for counting.
    """

    path: str
    row: int
    reason: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}, row {self.row}: {self.reason}"


# ------------------------------------------------------------------ writing


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, open_binary(temporary, "wb") as file:
        for row in rows:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def write_parquet(path: str | os.PathLike[str], frame: pl.DataFrame) -> None:
    with replacing(path) as temporary:
        frame.write_parquet(temporary, row_group_size=ROW_GROUP)


@contextlib.contextmanager
def writing_parquet(
    path: str | os.PathLike[str], schema: Mapping[str, Any]
) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that takes the rows of a Parquet file, some hundred or thousand at a time.

    The file appears, whole, when the block ends, and never if it raises. Until then its parts lie
    in a hidden folder beside it, so that memory does not grow with their number.

    Args:
        schema: names and types of the columns; each frame must have them, in this order.
    """
    with replacing(path) as temporary:
        # By this name, too, the next writer knows it.
        folder = temporary.with_name(f"{temporary.stem}.parts.tmp{temporary.suffix}")
        folder.mkdir()
        parts: list[Path] = []

        def write(frame: pl.DataFrame) -> None:
            if frame.schema != pl.Schema(schema):
                raise ValueError(f"{path}: rows of {frame.schema}, not of {pl.Schema(schema)}")
            parts.append(folder / f"{len(parts)}.parquet")
            frame.write_parquet(parts[-1], compression="lz4")

        try:
            write(pl.DataFrame(schema=schema))
            yield write
            pl.scan_parquet(parts, glob=False).sink_parquet(temporary, row_group_size=ROW_GROUP)
        except pl.exceptions.PolarsError as error:
            # Before the folder goes, and the disk has room again.
            if number_of(error, folder) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        finally:
            remove(folder)


# ------------------------------------------------------------------ reading


def read_json(path: str | os.PathLike[str]) -> Any:
    existing(path)
    try:
        with open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))  # some editors write a BOM
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"{path}: not readable JSON: {error}") from error
    except BROKEN_GZIP as error:
        raise UserError(f"{path}: broken gzip file ({error}); fetch it again") from error


class MissingKey(ValueError):
    """What a validator of a model raises for an object without a key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no key {key!r}")
        self.key = key


def read_model(path: str | os.PathLike[str], model: type[JsonModel], advice: str) -> JsonModel:
    """JSON that another step wrote, as a Pydantic model.

    Raises:
        UserError: naming file and key, what is wrong there, and the advice.
    """
    return as_model(path, read_json(path), model, advice)


def as_model(
    where: str | os.PathLike[str], values: Any, model: type[JsonModel], advice: str
) -> JsonModel:
    """:func:`read_model` of values that were read already; ``where`` names them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raised = first.get("ctx", {}).get("error")  # by a validator of ours
        lacking = [raised.key] if isinstance(raised, MissingKey) else []
        places = [*first["loc"], *lacking]
        key = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in places)
        key = key.removeprefix(".")
        reason = first["msg"].removeprefix("Value error, ")
        if not key and first["type"] in ("model_type", "model_attributes_type"):
            reason = "not a JSON object"
        elif lacking or first["type"] == "missing":
            reason = f"missing (it has: {', '.join(map(str, first['input']))})"
        elif key:
            reason = f"{reason}, not {first['input']!r:.60}"
        in_it = f", key {key!r}" if key else ""
        raise UserError(f"{where}{in_it}: {reason}; {advice}") from error


def read_objects(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield ``(row number from 1, object or BadRow)`` for each row of a records file.

    Formats by name: ``.parquet``, ``.json`` (one array) and ``.jsonl``; the latter two may end in
    ``.gz``. For JSONL the row number is the line number; blank lines are passed over.
    """
    return parsed(str(path), raw_rows(path))


def parsed(
    name: str, rows: Iterable[tuple[int, Any]]
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Numbered rows, those that are still lines of JSON parsed."""
    for number, row in rows:
        yield number, parse_line(name, number, row) if isinstance(row, bytes) else row


def raw_rows(
    path: str | os.PathLike[str],
) -> Iterator[tuple[int, bytes | dict[str, Any] | BadRow]]:
    """:func:`read_objects` with the lines of JSONL as they are, for :func:`parsed`."""
    name = str(path)
    existing(path)
    plain = name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        parts = read_parts(path, None, PART_ROWS)
        rows = itertools.chain.from_iterable(part.iter_rows(named=True) for part in parts)
        yield from enumerate(rows, start=1)
    elif plain.endswith(".json"):
        rows = read_json(path)
        if not isinstance(rows, list):
            raise UserError(f"{name}: a .json file must hold one array of objects")
        for number, row in enumerate(rows, start=1):
            yield number, row if isinstance(row, dict) else not_an_object(name, number)
    elif plain.endswith(".jsonl"):
        with open_binary(path) as file:
            try:
                yield from numbered_lines(name, file)
            except BROKEN_GZIP as error:
                raise UserError(f"{name}: broken gzip file ({error}); fetch it again") from error
    else:
        raise UserError(f"{name}: unknown format; use .parquet, .json, .jsonl or .jsonl.gz")


def numbered_lines(name: str, file: IO[bytes]) -> Iterator[tuple[int, bytes | BadRow]]:
    """The lines that are not blank; one of more than MAX_LINE bytes is never held whole."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            reason = f"a line of more than {MAX_LINE >> 20} MiB"
            yield number, BadRow(name, number, reason, "too long")
        elif not line.isspace():
            yield number, line


def read_records(
    path: str | os.PathLike[str],
    required: Iterable[str],
    optional: Iterable[str] = (),
    *,
    rows: Iterable[tuple[int, Mapping[str, Any] | BadRow]] | None = None,
    fields: Mapping[str, str] | None = None,
    on_bad_row: str | None = None,
    empty: Iterable[str] = (),
) -> tuple[pl.DataFrame, list[BadRow]]:
    """Read text columns from a records file. An ``id`` may be an integer.

    Args:
        required: columns that every row must have as a non-empty string.
        optional: columns that a row may have as a string; missing ones become null.
        rows: the numbered rows, if they were read already.
        fields: our name -> the file's name, where they differ.
        on_bad_row: ``fail`` raises at the first bad row; ``skip`` leaves bad rows out; None raises
            for readers that have no such setting.
        empty: required columns that may be an empty string.

    Returns:
        The frame (String columns ``required + optional``, and ``row``: Int64, from 1) and the bad
        rows that were skipped.

    Raises:
        UserError: naming file and row, if a row is bad and ``on_bad_row`` is not ``skip``.
    """
    required, optional = list(required), list(optional)
    names = {column: (fields or {}).get(column, column) for column in required + optional}
    filled = set(required).difference(empty)
    good: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for number, row in read_objects(path) if rows is None else rows:
        values = row if isinstance(row, BadRow) else text_columns(row, names, required, filled)
        if isinstance(values, tuple):
            values = BadRow(str(path), number, *values)
        if isinstance(values, dict):
            good.append({"row": number} | values)
        elif on_bad_row == "skip":
            bad.append(values)
        else:
            skip = ", or set on_bad_row: skip to leave such rows out" if on_bad_row else ""
            raise UserError(f"{values}. Fix the row{skip}")
    schema = {"row": pl.Int64} | dict.fromkeys(names, pl.String)
    return pl.DataFrame(good, schema=schema), bad


def text_columns(
    row: Mapping[str, Any],
    names: Mapping[str, str],
    required: Container[str],
    filled: Container[str],
) -> dict[str, str | None] | tuple[str, str]:
    """The texts of a row by column; or why it cannot be used, in a sentence and in a word or three.

    Args:
        names: column -> the row's name of it.
        required: columns that must not be null; filled: those that must not be blank.
    """
    values: dict[str, str | None] = {}
    for column, name in names.items():
        value = value_of(row, name)
        if column == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            if column in required:
                return f"no field {name!r} (it has: {', '.join(row)})", "missing field"
        elif not isinstance(value, str):
            return f"{name!r} is {type(value).__name__}, not text: {value!r:.60}", "not text"
        elif column in filled and not value.strip():
            return f"{name!r} is empty", "empty"
        elif not value.isascii() and SURROGATE.search(value):
            return f"{name!r} holds a lone surrogate", "not UTF-8"
        values[column] = value
    return values


def parse_line(name: str, number: int, line: bytes) -> dict[str, Any] | BadRow:
    kind = "broken JSON"
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason, kind = f"not UTF-8 at byte {error.start} of the line", "not UTF-8"
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        reason = "broken JSON: nested too deeply"
    except ValueError as error:
        reason = f"not readable JSON: {error}"
    else:
        return value if isinstance(value, dict) else not_an_object(name, number)
    return BadRow(name, number, reason, kind)


def not_an_object(path: str, number: int) -> BadRow:
    return BadRow(path, number, "not a JSON object", "not an object")


def read_parquet(path: str | os.PathLike[str]) -> pl.DataFrame:
    existing(path)
    try:
        return pl.read_parquet(Path(path))
    except pl.exceptions.ComputeError as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); make it again") from error


def read_parts(
    path: str | os.PathLike[str], columns: Sequence[str] | None, rows: int
) -> Iterator[pl.DataFrame]:
    """Yield a Parquet file's rows in order, so many at a time; the last part may have fewer.

    Of a file without rows comes one part without rows, so that there always is a schema. Memory
    holds a few of the file's row groups, whatever their number.

    Args:
        columns: those to read; None reads all.

    Raises:
        UserError: if the file is missing or broken, or lacks a column.
    """
    existing(path)
    try:
        frame = pl.scan_parquet(Path(path), glob=False)
        names = frame.collect_schema().names()
        if missing := [name for name in columns or [] if name not in names]:
            raise UserError(f"{path}: no column {', '.join(missing)} (it has {', '.join(names)})")
        frame = frame.select(names if columns is None else columns)
        empty = True
        for part in frame.collect_batches(chunk_size=rows, lazy=True):
            empty = False
            yield part
        if empty:
            yield frame.collect()
    except pl.exceptions.ComputeError as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); make it again") from error


def open_binary(path: str | os.PathLike[str], mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """A file, gzipped if it is named so."""
    opener: Any = gzip.open if str(path).endswith(".gz") else open
    return opener(path, mode)


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, or a clear error if nothing is there."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file or folder (from {os.getcwd()})")
    return Path(path)


def resolve(location: str) -> Path:
    """The path that a location of the config means.

    ``package:NAME/relative/path`` is a file shipped inside the installed Python package ``NAME``;
    anything else is a path.
    """
    if not location.startswith(PACKAGE_PREFIX):
        return Path(location).expanduser()
    package, _, relative = location.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{location}: the Python package {package!r} is not installed here; install it "
            "(make install brings those that the quickstart names)"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    if not path.exists():
        raise UserError(f"{location}: the installed package has no {relative!r}")
    return path


def is_offline() -> bool:
    """Whether the model hub is not to be asked (``hub: offline`` of a config, or the library's own
    HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file.

    Raises:
        OSError: naming the file, if its disk cannot read it.
    """
    with open(path, "rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, removed in the end.

    Raises:
        OSError: naming the folder, if its disk is full, whatever the writer raised.
    """
    with tempfile.TemporaryDirectory(prefix="fgit-") as name:
        folder = Path(name)
        try:
            yield folder
        except Exception as error:
            named = getattr(error, "filename", None)
            if named or number_of(error, folder) != errno.ENOSPC or full_place([folder]) != folder:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name) from error
