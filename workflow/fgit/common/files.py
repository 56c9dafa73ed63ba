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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import polars as pl
from pydantic import BaseModel, ValidationError

from fgit.common.dataset_fields import value_of, why_nothing
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
        parts = read_parts(path, PART_ROWS)
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
                return why_nothing(row, name)
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


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a Parquet file must have, so that a stage can read it.

    A column of a type without other values is taken, and read as the type that it should have:
    smaller integers for Int64, Categorical for String, nothing but nulls for anything, and for
    ``id`` integers.

    Attributes:
        columns: name -> type. optional: likewise, of columns that are null where they are absent.
        filled: columns without nulls.
        key: columns whose values, which are not null, name a row: no two rows have the same.
        empty: whether there may be no row.
        advice: what to do about a file that is otherwise.
    """

    columns: Mapping[str, Any]
    advice: str
    optional: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    filled: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    empty: bool = False

    @property
    def types(self) -> pl.Schema:
        return pl.Schema({**self.columns, **self.optional})


ANYTHING = Layout({}, "make it again", empty=True)


def scan_parquet(path: str | os.PathLike[str], layout: Layout = ANYTHING) -> pl.LazyFrame:
    """A Parquet file of this layout: its columns are of the types that they should have.

    Raises:
        UserError: naming the file, the column or the rows, what is there, what should be, and what
            to do, if the file is missing, broken or of another layout.
    """
    if not existing(path).is_file():
        raise UserError(f"{path}: a folder, and no Parquet file; {layout.advice}")
    with readable(path, layout):
        frame = pl.scan_parquet(Path(path), glob=False)
        schema = frame.collect_schema()
        if missing := ", ".join(name for name in layout.columns if name not in schema):
            names = ", ".join(schema) or "none"
            raise UserError(f"{path}: no column {missing} (it has: {names}); {layout.advice}")
        for name, kind in layout.types.items():
            number = name == "id" and name in schema and schema[name].is_integer()
            if name in schema and not (number or can_be(schema[name], kind)):
                raise UserError(
                    f"{path}: the column {name} is of type {schema[name]}, not {kind}; "
                    f"{layout.advice}"
                )
        frame = frame.with_columns(
            pl.col(name).cast(kind) if name in schema else pl.lit(None, kind).alias(name)
            for name, kind in layout.types.items()
            if schema.get(name) != kind
        )
        if not layout.empty and not parquet_height(path):
            raise UserError(f"{path}: no rows in it; {layout.advice}")
        for name in (*layout.key, *layout.filled):
            nulls = frame.select(pl.arg_where(pl.col(name).is_null())).head(1).collect()
            for row in nulls.to_series():
                raise UserError(f"{path}, row {row + 1}: {name!r} is null; {layout.advice}")
        if layout.key:
            check_key(path, frame.select(layout.key).collect(), layout)
    return frame


def check_key(path: str | os.PathLike[str], keys: pl.DataFrame, layout: Layout) -> None:
    """No two rows alike."""
    twice = keys.with_row_index("row", 1).filter(keys.is_duplicated()).rows()
    if twice:
        rows = [str(row) for row, *values in twice if values == [*twice[0][1:]]]
        value = ", ".join(f"{n} {v!r}" for n, v in zip(layout.key, twice[0][1:], strict=True))
        where = f"{path}, rows {rows[0]} and {rows[1]}"
        raise UserError(f"{where}: the same {value} twice; {layout.advice}")


def can_be(has: Any, needed: Any) -> bool:
    """Whether each value of a type is one of the other type too."""
    if has in (needed, pl.Null):
        return True
    if isinstance(needed, pl.Struct) and isinstance(has, pl.Struct):
        kinds = {field.name: field.dtype for field in has.fields}
        return kinds.keys() == {field.name for field in needed.fields} and all(
            can_be(kinds[field.name], field.dtype) for field in needed.fields
        )
    if isinstance(needed, pl.List):
        return isinstance(has, pl.List | pl.Array) and can_be(has.inner, needed.inner)
    if needed == pl.String:
        return has in (pl.Categorical, pl.Enum)
    if needed == pl.Float64:
        return has == pl.Float32
    smaller = (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)
    return bool(needed == pl.Int64 and has in smaller)


@contextlib.contextmanager
def readable(path: str | os.PathLike[str], layout: Layout) -> Iterator[None]:
    """Say of a Parquet file that cannot be read which it is."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        broken = f"{path}: not a readable Parquet file ({' '.join(str(error).split()):.200})"
        raise UserError(f"{broken}; {layout.advice}") from error


def parquet_height(path: str | os.PathLike[str]) -> int:
    """Rows of a Parquet file, as it says itself."""
    existing(path)
    with readable(path, ANYTHING):
        return int(pl.scan_parquet(Path(path), glob=False).select(pl.len()).collect().item())


def read_parquet(path: str | os.PathLike[str], layout: Layout = ANYTHING) -> pl.DataFrame:
    """A Parquet file of this layout (:func:`scan_parquet`), all columns, in memory."""
    with readable(path, layout):
        return scan_parquet(path, layout).collect()


def read_parts(
    path: str | os.PathLike[str], rows: int, layout: Layout = ANYTHING, *, others: bool = True
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file of this layout in order, so many at a time.

    The last part may have fewer. Of a file without rows comes one part without rows, so that there
    always is a schema. Memory holds a few of the file's row groups, whatever their number.

    Args:
        others: whether the columns that the layout does not name are read too.

    Raises:
        UserError: as :func:`scan_parquet` does.
    """
    frame = scan_parquet(path, layout)
    if not others:
        frame = frame.select(list(layout.types))
    left = height = parquet_height(path)
    with readable(path, layout):
        for part in frame.collect_batches(chunk_size=rows, lazy=True):
            left -= len(part)
            yield part
        if not height:
            yield frame.collect()
    if left:  # what breaks behind the first rows ends the batches without an error
        raise UserError(
            f"{path}: not a readable Parquet file (only {height - left} of {height} rows); "
            f"{layout.advice}"
        )


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
