"""What the stages that make variants share: the records, the table of variants, same or not."""

import ast
import hashlib
import itertools
import operator
import types
import warnings
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit.common import files
from fgit.common.code_blocks import block_at, main_code, place_of
from fgit.common.errors import UserError
from fgit.common.files import Layout

# The turns before an instruction, the system turn first: role and content. Null without any.
HISTORY = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
# Of a record, which decontaminate and fgit audit write.
RECORD_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("id", "instruction", "response", "language", "tests"), pl.String),
    "history": HISTORY,
}
# Where the code of its response is; null where it has none.
CODE_AT = pl.Struct({"start": pl.Int64, "end": pl.Int64, "indent": pl.Int64, "language": pl.String})

# One row per answer of the teacher, or per mutant. `code` is null where the answer was refused.
VARIANT_COLUMNS: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "k": pl.Int64,
    "seed": pl.Int64,
    "answer": pl.String,
    "code": pl.String,
    "refused": pl.String,
    "tokens": pl.Int64,
}

# What of them select and verify read; a file of one's own may have no more, and any k.
VARIANTS = Layout(
    {name: VARIANT_COLUMNS[name] for name in ("id", "k", "code")},
    filled=("id",),
    advice="make the variants again, by fgit generate or fgit mutate",
)
ANSWERS = Layout(VARIANT_COLUMNS, key=("id", "k"), advice="make the variants by fgit generate")

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PARTS_OF_CODE = operator.attrgetter(
    *("co_code", "co_exceptiontable", "co_flags"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
    *("co_names", "co_varnames", "co_freevars", "co_cellvars"),
)


def read_samples(path: Path) -> pl.DataFrame:
    """The records, as :func:`sample_parts` yields them, in one table."""
    return pl.concat(sample_parts(path, files.PART_ROWS))


def sample_parts(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    """Yield the records, ``rows`` at a time: :data:`RECORD_COLUMNS`, and ``code_at``.

    A file without ``history`` has none. ``code_at`` (:data:`CODE_AT`) says where the response's
    code is (:func:`fgit.common.code_blocks.block_at`); it is looked for where the file does not
    say it.

    Raises:
        UserError: if a row lacks a field, if an id stands twice, or if there is no row.
    """
    numbered = files.read_objects(path)
    first_rows: dict[str, int] = {}
    while part := list(itertools.islice(numbered, rows)):
        frame, _ = files.read_records(
            path, ["id", "instruction", "response"], ["language", "tests"], rows=part
        )
        for number, sample in frame.select("row", "id").iter_rows():
            first = first_rows.setdefault(sample, number)
            if first != number:
                raise UserError(
                    f"{path}, rows {first} and {number}: the same id {sample!r} twice; "
                    "give every record an id of its own"
                )
        places = [place_in(path, number, row) for number, row in part]
        histories = [history_in(path, number, row) for number, row in part]
        yield frame.drop("row").with_columns(
            pl.Series("history", histories, dtype=HISTORY),
            pl.Series("code_at", places, dtype=CODE_AT),
        )
    if not first_rows:
        raise UserError(f"{path}: no records, so there is nothing to make variants of")


def place_in(path: Path, number: int, row: Any) -> dict[str, Any] | None:
    """Where a record's code is: as it says, or by looking for it."""
    if "code_at" not in row:
        return place_of(main_code(row["response"]))
    try:
        return place_of(block_at(row["response"], row["code_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}, row {number}: code_at is {row['code_at']!r:.100}, which is not where code "
            f"can be ({error}); leave the column out, and it is found anew"
        ) from error


def history_in(path: Path, number: int, row: Any) -> list[dict[str, str]] | None:
    """What stands before the instruction of a record or pair: perhaps a system turn, then turns of
    user and assistant.

    Raises:
        UserError: if it is something else.
    """
    turns = row.get("history") or None
    if turns is None:
        return None
    if not (
        isinstance(turns, list)
        and all(isinstance(turn, dict) and turn.keys() == {"role", "content"} for turn in turns)
        and all(isinstance(text, str) for turn in turns for text in turn.values())
    ):
        reason = "no list of turns of role and content"
    elif not in_order([turn["role"] for turn in turns]):
        reason = "not perhaps a system turn, then turns of user and assistant in turn"
    else:
        return turns
    raise UserError(
        f"{path}, row {number}: history is {turns!r:.100}, and {reason}; leave the column out, or "
        "make the records by fgit decontaminate"
    )


def in_order(roles: Sequence[str]) -> bool:
    """Whether turns of these roles may stand before one of the user."""
    rest = roles[1:] if roles[:1] == ["system"] else roles
    return rest == ["user", "assistant"] * (len(rest) // 2)


def check_histories(path: Path, frame: pl.DataFrame, before: int = 0) -> None:
    """:func:`history_in` of a table's rows; ``before`` of the file are not in it."""
    if "history" in frame.columns:
        for number, turns in enumerate(frame["history"].to_list(), start=before + 1):
            history_in(path, number, {"history": turns})


def conversation(row: Mapping[str, Any]) -> str:
    """What a record asks, in words: its instruction, behind the turns before it if any."""
    if not row.get("history"):
        return row["instruction"]
    turns = [*row["history"], {"role": "user", "content": row["instruction"]}]
    return "\n\n".join(f"{t['role'].capitalize()}:\n{t['content'].strip()}" for t in turns)


def sample_ids(path: Path) -> list[str]:
    """The ids of all records, in order, when each has been checked (:func:`sample_parts`)."""
    return [sample for part in sample_parts(path, files.PART_ROWS) for sample in part["id"]]


def variant_parts(path: Path, ids: Container[str], rows: int) -> Iterator[pl.DataFrame]:
    """Yield the variants of these records, ``rows`` at a time: columns id, k and code, in order.

    The refused ones, whose code is null, are among them.

    Raises:
        UserError: if it is no such file, or a variant belongs to no record.
    """
    before = 0
    for part in files.read_parts(path, rows, VARIANTS, others=False):
        for number, sample in enumerate(part["id"], start=before + 1):
            if sample not in ids:
                raise UserError(
                    f"{path}, row {number}: a variant of {sample!r}, which is not among the "
                    "records; make the variants again from these records"
                )
        before += len(part)
        yield part


def read_variants(path: Path, ids: Container[str]) -> pl.DataFrame:
    """The variants of these records, as :func:`variant_parts` yields them, in one table."""
    return pl.concat(variant_parts(path, ids, files.PART_ROWS))


def seed_of(seed: int, sample: str, k: int) -> int:
    """The 31-bit seed of a sample's k-th variant: no other sample or order changes it."""
    digest = hashlib.sha256(f"{seed}\0{k}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def normalised(code: str) -> str:
    """Code with ``\\n`` line ends, no trailing whitespace, no blank lines around it."""
    unix = code.replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join(line.rstrip() for line in unix.split("\n")).strip("\n")


def bytecode(code: str) -> Hashable | None:
    """A value that is equal for programs that do the same by their bytecode; None if not Python.

    Docstrings, comments, layout and line numbers do not count.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            remove_docstrings(tree)
            # Compiled, since ast.parse alone lets a return outside a function pass.
            return constant_key(compile(tree, "<code>", "exec", dont_inherit=True, optimize=0))
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return None


def remove_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *rest]:
                    node.body = rest or [ast.copy_location(ast.Pass(), docstring)]


def constant_key(value: object) -> Hashable:
    """A constant or code object, made comparable: 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(value, types.CodeType):
        return (*PARTS_OF_CODE(value), *map(constant_key, value.co_consts))
    if isinstance(value, tuple):
        return ("tuple", *map(constant_key, value))
    if isinstance(value, frozenset):
        return ("frozenset", frozenset(map(constant_key, value)))
    return (type(value).__name__, repr(value))
