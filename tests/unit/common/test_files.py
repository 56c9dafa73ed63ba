"""Files between the stages: whole or absent when written, named by row when broken."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgit.common import files
from fgit.common.errors import UserError

ROWS = [{"a": "x\n", "b": 1}, {"a": "ä\u2028ß", "b": None}]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------ writing


def write_in_parts(path, rows):
    with files.writing_parquet(path, {"a": pl.String}) as write:
        for part in pl.DataFrame(rows).iter_slices(500):
            write(part)


WRITERS = {
    "text": lambda path, rows: files.write_text(path, json.dumps(rows)),
    "json": lambda path, rows: files.write_json(path, rows),
    "jsonl": lambda path, rows: files.write_jsonl(path, rows),
    "parquet": lambda path, rows: files.write_parquet(path, pl.DataFrame(rows)),
    "parts": write_in_parts,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(small_disk, kind):
    target = small_disk / f"rows.{kind}"
    WRITERS[kind](target, [{"a": "old"}])
    before = target.read_bytes()
    rows = [{"a": os.urandom(50).hex()} for _ in range(3000)]
    with pytest.raises(OSError, match=r"No space left on device") as caught:
        WRITERS[kind](target, rows)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(target)
    assert target.read_bytes() == before
    assert names(small_disk) == {target.name}
    target.unlink()


def test_write_text_keeps_newlines(tmp_path):
    files.write_text(tmp_path / "a", "x\r\ny\rz\n")
    assert (tmp_path / "a").read_bytes() == b"x\r\ny\rz\n"


# ------------------------------------------------------------------ round trips

text = st.text(st.characters(exclude_categories=["Cs"]))
value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@many
@given(rows=st.lists(st.dictionaries(text, value, max_size=4), max_size=5))
def test_jsonl_round_trip(tmp_path, name, rows):
    files.write_jsonl(tmp_path / name, rows)
    assert list(files.read_objects(tmp_path / name)) == list(enumerate(rows, start=1))


@many
@given(rows=st.lists(st.dictionaries(text, value, max_size=4), max_size=5))
def test_json_round_trip(tmp_path, rows):
    files.write_json(tmp_path / "a.json", rows)
    assert files.read_json(tmp_path / "a.json") == rows
    assert list(files.read_objects(tmp_path / "a.json")) == list(enumerate(rows, start=1))


@many
@given(texts=st.lists(st.none() | text, min_size=1, max_size=6))
def test_parquet_round_trip(tmp_path, texts):
    frame = pl.DataFrame({"t": texts}, schema={"t": pl.String})
    files.write_parquet(tmp_path / "a.parquet", frame)
    assert files.read_parquet(tmp_path / "a.parquet").equals(frame)
    rows = list(files.read_objects(tmp_path / "a.parquet"))
    assert rows == [(i, {"t": t}) for i, t in enumerate(texts, start=1)]


@many
@given(
    texts=st.lists(st.none() | text, max_size=12), written=st.integers(1, 5), read=st.integers(1, 5)
)
def test_parquet_in_parts_round_trip(tmp_path, texts, written, read):
    schema = {"t": pl.String, "n": pl.List(pl.Int64)}
    frame = pl.DataFrame({"t": texts, "n": [[i] for i in range(len(texts))]}, schema=schema)
    with files.writing_parquet(tmp_path / "a.parquet", schema) as write:
        for part in frame.iter_slices(written):
            write(part)
    assert files.read_parquet(tmp_path / "a.parquet").equals(frame)
    layout = files.Layout({"n": schema["n"]}, "make it again", empty=True)
    parts = list(files.read_parts(tmp_path / "a.parquet", read, layout, others=False))
    assert [part.height for part in parts[:-1]] == [read] * (len(parts) - 1)
    assert pl.concat(parts).equals(frame.select("n"))
    assert names(tmp_path) == {"a.parquet"}


def test_a_parquet_file_of_parts_is_whole_or_absent(tmp_path):
    target = tmp_path / "a.parquet"
    files.write_parquet(target, pl.DataFrame({"a": ["old"]}))
    with (
        pytest.raises(RuntimeError),
        files.writing_parquet(target, {"a": pl.String}) as write,
    ):
        write(pl.DataFrame({"a": ["new"]}))
        raise RuntimeError
    with (
        pytest.raises(ValueError, match=r"a\.parquet: rows of .*Int64.*, not of .*String"),
        files.writing_parquet(target, {"a": pl.String}) as write,
    ):
        write(pl.DataFrame({"a": [1]}))
    assert files.read_parquet(target)["a"].to_list() == ["old"]
    assert names(tmp_path) == {"a.parquet"}


def test_parts_of_a_killed_writer_are_removed(tmp_path):
    code = (
        "import os, sys; import polars as pl; from fgit.common.files import writing_parquet\n"
        "with writing_parquet(sys.argv[1], {'a': pl.String}) as write:\n"
        "    write(pl.DataFrame({'a': ['x']})); os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "a.parquet"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with files.writing_parquet(target, {"a": pl.String}):
        pass
    assert names(tmp_path) == {"a.parquet"}


def test_every_format_gives_the_same_records(tmp_path):
    rows = [{"x": f"text {i}", "y": None if i % 2 else "ä\n"} for i in range(10)]
    text_rows = [{"row": i, **row} for i, row in enumerate(rows, start=1)]
    files.write_jsonl(tmp_path / "a.jsonl", rows)
    files.write_jsonl(tmp_path / "b.jsonl.gz", rows)
    files.write_json(tmp_path / "c.json", rows)
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    files.write_parquet(tmp_path / "e.parquet", pl.DataFrame(rows))
    for path in sorted(tmp_path.iterdir()):
        frame, bad = files.read_records(path, ["x"], ["y"])
        assert frame.to_dicts() == text_rows, path
        assert frame.schema == {"row": pl.Int64, "x": pl.String, "y": pl.String}
        assert bad == []


# ------------------------------------------------------------------ reading what is broken


def test_broken_json_names_file_and_line(tmp_path):
    path = tmp_path / "big.jsonl"
    lines = ['{"a": "x"}'] * 6000
    lines[99] = ""
    lines[4710] = '{"a": "x"'
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"big\.jsonl, row 4711: broken JSON: .*column"):
        files.read_records(path, ["a"])
    frame, bad = files.read_records(path, ["a"], on_bad_row="skip")
    assert [(b.row, b.path) for b in bad] == [(4711, str(path))]
    assert frame.height == 5998
    assert frame["row"].to_list() == [n for n in range(1, 6001) if n not in (100, 4711)]


BAD_ROWS = {
    b"\xff\xfe": "not UTF-8 at byte 0",
    b'{"a": "\xe4"}': "not UTF-8 at byte 7",
    b"[1]": "not a JSON object",
    b"null": "not a JSON object",
    b'{"b": "x"}': r"no field 'a' \(it has: b\)",
    b'{"a": null}': "'a' is null",
    b'{"a": 3}': "'a' is int, not text: 3",
    b'{"a": ["x"]}': "'a' is list, not text",
    b'{"a": " \\n"}': "'a' is empty",
    b'{"a": "\\ud800"}': "lone surrogate",
    b'{"a": "x", "b": 1}': "'b' is int, not text",
    b'{"a": "x"} {}': "broken JSON: Extra data",
    b"[" * 100_000: "nested too deeply",
    b'{"a": ' + b"9" * 5000 + b"}": "not readable JSON",
}


@pytest.mark.parametrize("line", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_or_counted(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "x"}\n' + line + b'\n{"a": "y"}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl, row 2: .*{BAD_ROWS[line]}"):
        files.read_records(path, ["a"], ["b"])
    frame, bad = files.read_records(path, ["a"], ["b"], on_bad_row="skip")
    assert frame["a"].to_list() == ["x", "y"]
    assert [b.row for b in bad] == [2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_byte_order_mark_is_passed_over(tmp_path, name):
    text = '{"a": 1}\n' if name.endswith("l") else '[{"a": 1}]'
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(files.read_objects(tmp_path / name)) == [(1, {"a": 1})]


def test_bad_rows_of_a_json_array(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, [{"a": "x"}, "text", {"a": 1}, {"a": "y"}])
    frame, bad = files.read_records(path, ["a"], on_bad_row="skip")
    assert frame["row"].to_list() == [1, 4]
    assert [str(b) for b in bad] == [
        f"{path}, row 2: not a JSON object",
        f"{path}, row 3: 'a' is int, not text: 1",
    ]


def test_fields_are_renamed_and_named_as_the_file_has_them(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_jsonl(path, [{"problem": "p"}, {"instruction": "i"}])
    frame, bad = files.read_records(
        path, ["instruction"], fields={"instruction": "problem"}, on_bad_row="skip"
    )
    assert frame["instruction"].to_list() == ["p"]
    assert "no field 'problem' (it has: instruction)" in bad[0].reason


def test_empty_text_where_it_is_allowed(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_jsonl(path, [{"a": ""}])
    assert files.read_records(path, ["a"], empty=["a"])[0]["a"].to_list() == [""]


def test_an_empty_file_has_no_records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n")
    frame, bad = files.read_records(path, ["a"], ["b"])
    assert frame.shape == (0, 3) and not bad


GOOD_GZIP = gzip.compress(b'[{"a": "x"},\n {"a": "y"}]\n', mtime=0)
DAMAGE = {
    "truncated": (GOOD_GZIP[:-12], EOFError),
    "no gzip": (b'{"a": 1}', gzip.BadGzipFile),
    "checksum": (GOOD_GZIP[:-8] + b"0000" + GOOD_GZIP[-4:], gzip.BadGzipFile),
    "contents": (GOOD_GZIP[:10] + b"\xff\xff\xff" + GOOD_GZIP[13:], zlib.error),
}


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_gzip(tmp_path, name, damage):
    content, raised = DAMAGE[damage]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(raised):
        gzip.decompress(content)
    # Of a JSONL file, rows before the damage come first.
    with pytest.raises(UserError, match=rf"{name}: broken gzip file \(.*fetch it again"):
        list(files.read_objects(path))


BAD_JSON = {
    b'{"a":\n\n 1,}': r"a\.json, line 3: not valid JSON",
    b"": r"a\.json, line 1: not valid JSON",
    b'{"a": "\xff"}': r"a\.json: not UTF-8 \(byte 7\)",
    b"[" * 100_000: r"a\.json: not readable JSON",
    b"9" * 5000: r"a\.json: not readable JSON",
    b'{"a": 1}': r"a\.json: a \.json file must hold one array",
}


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
def test_a_broken_json_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=BAD_JSON[content]):
        list(files.read_objects(tmp_path / "a.json"))


def test_broken_parquet(tmp_path):
    whole = tmp_path / "whole.parquet"
    files.write_parquet(whole, pl.DataFrame({"a": [str(i) for i in range(1000)]}))
    content = whole.read_bytes()
    path = tmp_path / "a.parquet"
    for broken in (
        b"",
        b"text",
        content[:-50],
        content[:-60] + b"\xff" * 30 + content[-30:],
        content[:200] + b"\0" * 200 + content[400:],
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file"):
            files.read_parquet(path)
        with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file"):
            list(files.read_parts(path, 10))


@many
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_parquet_file_is_refused(tmp_path, share):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"id": [f"s{i}" for i in range(300)]})
    frame.write_parquet(path, row_group_size=100)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    layout = files.Layout(dict(frame.schema), "make it again")
    for read in (files.read_parquet, lambda *given: list(files.read_parts(given[0], 40, given[1]))):
        with pytest.raises(UserError, match=r"a\.parquet: not a readable.*; make it again"):
            read(path, layout)


def test_parts_that_end_too_soon_are_an_error(tmp_path, monkeypatch):
    """As polars ends them, without an exception, where some pages are broken."""
    path = tmp_path / "a.parquet"
    files.write_parquet(path, pl.DataFrame({"a": ["x"] * 4}))
    monkeypatch.setattr(files, "parquet_height", lambda path: 5)
    with pytest.raises(UserError, match=r"a\.parquet: not a readable .* \(only 4 of 5 rows\)"):
        list(files.read_parts(path, 2))


NESTED = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
LAYOUT = files.Layout(
    {"id": pl.String, "k": pl.Int64, "p": pl.Float64, "spans": pl.List(pl.List(pl.Int64))},
    advice="run fgit it",
    optional={"history": NESTED},
    filled=("p",),
    key=("id", "k"),
)
TURN = {"role": "user", "content": "x"}


def good():
    return pl.DataFrame(
        {"id": ["a", "a", "b"], "k": [0, 1, 0], "p": [0.0] * 3, "spans": [[[0, 1]], [], None]},
        schema=LAYOUT.columns,
    )


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"more": pl.lit(1)},
        {"k": pl.col("k").cast(pl.Int8)},
        {"k": pl.col("k").cast(pl.UInt32)},
        {"p": pl.col("p").cast(pl.Float32)},
        {"id": pl.col("id").cast(pl.Categorical)},
        {"id": pl.col("id").cast(pl.Enum(["a", "b"]))},
        {"id": pl.Series([1, 1, 2], dtype=pl.UInt64)},
        {"spans": pl.lit(None)},
        {"spans": pl.col("spans").cast(pl.List(pl.List(pl.Int32)))},
        {"spans": pl.lit([[3, 4]]).cast(pl.List(pl.Array(pl.Int16, 2)))},
        {"history": pl.lit(None)},
        {"history": pl.Series([[TURN]] * 3, dtype=NESTED)},
        {"history": pl.Series([[dict(reversed(TURN.items()))], [], None])},
        {
            "history": pl.Series([[TURN]] * 3).cast(
                pl.List(pl.Struct(dict.fromkeys(TURN, pl.Categorical)))
            )
        },
    ],
)
def test_what_holds_the_same_is_read_as_the_type_that_it_should_have(tmp_path, other):
    path = tmp_path / "a.parquet"
    frame = good().with_columns(**other)
    frame.select(sorted(frame.columns)).write_parquet(path)
    read = files.read_parquet(path, LAYOUT)
    assert {name: read.schema[name] for name in LAYOUT.types} == LAYOUT.types
    same = [name for name in LAYOUT.columns if name not in other]
    assert read.select(same).equals(good().select(same))
    (part,) = files.read_parts(path, 10, LAYOUT, others=False)
    assert part.equals(read.select(list(LAYOUT.types)))
    assert read["k"].to_list() == [0, 1, 0]
    assert read["history"].to_list()[0] in (None, [TURN])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.drop("k", "p"), r"no column k, p \(it has: id, spans\)"),
        (lambda f: pl.DataFrame(), r"no column id, k, p, spans \(it has: none\)"),
        (lambda f: f.rename({"id": "ID"}), "no column id"),
        (lambda f: f.with_columns(id=pl.col("p")), "column id is of type Float64, not String"),
        (lambda f: f.with_columns(id=pl.lit(b"x")), "column id is of type Binary, not String"),
        (lambda f: f.with_columns(pl.col("k").cast(pl.String)), "k is of type String, not Int64"),
        (lambda f: f.with_columns(k=pl.lit(0.5)), "column k is of type Float64, not Int64"),
        (lambda f: f.with_columns(k=pl.lit(True)), "column k is of type Boolean, not Int64"),
        (lambda f: f.with_columns(pl.col("k").cast(pl.UInt64)), "k is of type UInt64, not Int64"),
        (lambda f: f.with_columns(p=pl.lit("x")), "column p is of type String, not Float64"),
        (lambda f: f.with_columns(spans=pl.concat_list("k")), "spans is of type List.Int64., not"),
        (lambda f: f.with_columns(spans=pl.lit("[[0, 1]]")), "spans is of type String, not List"),
        (lambda f: f.with_columns(spans=pl.concat_list("p").implode()), "spans is of type List"),
        (lambda f: f.with_columns(history=pl.lit("x")), "column history is of type String"),
        (
            lambda f: f.with_columns(history=pl.Series([[{"from": "x", "value": "y"}]] * 3)),
            r"history is of type List\(Struct\({'from'.*not List\(Struct\({'role'",
        ),
        (lambda f: f.head(0), "no rows in it"),
        (lambda f: f.with_columns(id=pl.lit(None)), "row 1: 'id' is null"),
        (lambda f: f.with_columns(p=pl.Series([0.0, None, 0.0])), "row 2: 'p' is null"),
        (lambda f: f.with_columns(k=pl.lit(0)), "column k is of type Int32|rows 1 and 2"),
        (lambda f: f.with_columns(id=pl.lit("a")), "rows 1 and 3: the same id 'a', k 0 twice"),
    ],
)
def test_what_is_otherwise_is_named(tmp_path, damage, message):
    path = tmp_path / "a.parquet"
    damage(good()).write_parquet(path)
    for read in (files.read_parquet, lambda *given: list(files.read_parts(given[0], 2, given[1]))):
        with pytest.raises(UserError, match=rf"a\.parquet.*{message}.*; run fgit it"):
            read(path, LAYOUT)


def test_a_folder_is_no_parquet_file(tmp_path):
    good().write_parquet(tmp_path / "part.parquet")
    for read in (files.read_parquet, files.scan_parquet):
        with pytest.raises(UserError, match="a folder, and no Parquet file"):
            read(tmp_path)


def test_missing_and_unknown_files(tmp_path):
    for name in ("no.json", "no.jsonl", "no.parquet"):
        with pytest.raises(UserError, match=rf"{name}: no such file or folder \(from "):
            list(files.read_objects(tmp_path / name))
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"a\.csv: unknown format; use \.parquet, \.json"):
        files.read_records(tmp_path / "a.csv", ["a"])


# ------------------------------------------------------------------ locations and digests


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "some_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "a.jsonl").write_text("{}")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def test_resolve(package, tmp_path):
    assert files.resolve("package:some_package/data/a.jsonl") == package / "data" / "a.jsonl"
    assert files.resolve("package:some_package/data") == package / "data"
    assert files.resolve("data/a.jsonl") == Path("data/a.jsonl")
    assert files.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("package:no_such_package/a", "'no_such_package' is not installed here; install it"),
        ("package:no.such.package/a", "'no.such.package' is not installed"),
        ("package:/a", "'' is not installed"),
        ("package:..a/b", "'..a' is not installed"),
        ("package:some_package/none.jsonl", "the installed package has no 'none.jsonl'"),
    ],
)
def test_a_package_without_the_file(package, location, message):
    with pytest.raises(UserError) as caught:
        files.resolve(location)
    assert str(caught.value).startswith(f"{location}: ") and message in str(caught.value)


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "a") == digest


def test_scratch_is_removed():
    with pytest.raises(RuntimeError), files.scratch() as folder:
        (folder / "a").write_text("a")
        raise RuntimeError
    assert not folder.exists()


def test_a_file_never_replaces_a_folder(tmp_path):
    """A folder of the user's in the place of an output is refused, and kept."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="a folder of yours is in the way"):
        files.write_json(folder, {})
    assert (folder / "precious.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("inside", "replaced"), [([], True), (["config.json"], True), (["x"], False)]
)
def test_a_folder_replaces_only_a_saved_model(tmp_path, inside, replaced):
    target = tmp_path / "model"
    target.mkdir()
    for name in inside:
        (target / name).write_text("{}")

    def write():
        with files.replacing(target) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("x")

    if replaced:
        write()
        assert [path.name for path in target.iterdir()] == ["new"]
    else:
        with pytest.raises(UserError, match="in the way"):
            write()
        assert [path.name for path in target.iterdir()] == inside


def test_what_a_killed_writer_left_is_removed(tmp_path):
    """A process that was killed leaves its temporary; the next writer of that name clears it."""
    code = (
        "import os, sys; from fgit.common.files import replacing\n"
        "with replacing(sys.argv[1]) as path:\n"
        "    path.mkdir(); (path / 'half').write_text('x'); os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "model"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with files.replacing(target) as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_integer_id_is_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 7, "response": "x"}\n')
    assert files.read_records(path, ["id", "response"])[0]["id"].to_list() == ["7"]


def test_only_readers_that_can_skip_say_so(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"Fix the row$"):
        files.read_records(path, ["response"])
    with pytest.raises(UserError, match="on_bad_row: skip"):
        files.read_records(path, ["response"], on_bad_row="fail")
