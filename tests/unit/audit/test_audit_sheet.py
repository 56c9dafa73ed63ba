"""The sheet of pairs for two readers."""

from __future__ import annotations

import re

import polars as pl
import pytest

from fgit.audit.sheet import READERS, sheet
from fgit.common import files
from fgit.common.errors import UserError
from tests.audited import fill, pairs_file, read_rows


def test_a_sheet_for_two_readers(tmp_path):
    pairs = pairs_file(tmp_path / "pairs.parquet", 30)
    sheet(pairs, tmp_path / "a", 10, 0)
    first, second = (tmp_path / "a" / name for name in READERS)
    assert first.read_bytes() == second.read_bytes()
    rows = read_rows(first)
    assert list(rows[0]) == ["number", "id", "incorrect", "similar"]
    assert [row["number"] for row in rows] == [str(n) for n in range(1, 11)]
    assert len({row["id"] for row in rows}) == 10 and "sample,3" not in {r["id"] for r in rows}
    assert {row["incorrect"] + row["similar"] for row in rows} == {""}
    html = (tmp_path / "a/sheet.html").read_text(encoding="utf-8")
    assert "<b>" not in html and "&lt;b&gt;" in html and "<mark>" in html
    assert re.findall(r"<h2 id=.*?<small>(.*?)</small>", html) == [row["id"] for row in rows]
    assert "http" not in html.replace("http-equiv", "")
    drawn = files.read_json(tmp_path / "a/sheet.json")
    assert [str(row["number"]) for row in drawn["drawn"]] == [row["number"] for row in rows]

    sheet(pairs, tmp_path / "b", 10, 0)
    for name in (*READERS, "sheet.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = (tmp_path / "b/sheet.html").read_text(encoding="utf-8")
    assert again == html.replace(f"{tmp_path}/a/", f"{tmp_path}/b/")
    sheet(pairs, tmp_path / "c", 10, 1)
    assert read_rows(tmp_path / "c" / READERS[0]) != rows


def test_fewer_pairs_than_asked_for_are_all_drawn(tmp_path, caplog):
    sheet(pairs_file(tmp_path / "p.parquet", 5), tmp_path / "a", 50, 0)
    assert len(read_rows(tmp_path / "a" / READERS[0])) == 4
    assert "has only 4 pairs" in caplog.text


def test_answers_that_someone_began_are_never_lost(tmp_path):
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    out = tmp_path / "a"
    sheet(pairs, out, 4, 0)
    mine = fill(out / READERS[0], [("yes", "")] + [("", "")] * 3)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    sheet(pairs, out, 4, 0)  # the same draw: nothing changes
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "sheet.json").unlink()  # as Snakemake does before a rule runs again
    before.pop("sheet.json")
    for change in ("draw", "texts", "no page"):
        other = pairs
        if change == "texts":
            other = pairs_file(tmp_path / "other.parquet", 12, twist="0")
        if change == "no page":
            (out / "sheet.html").unlink()
            before.pop("sheet.html")
        with pytest.raises(UserError, match=rf"{mine.name}: someone has begun .* move .* away"):
            sheet(other, out, 4, 1 if change == "draw" else 0)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("content", ["notes of mine", "number;id\n", "\xff\xfe"])
def test_a_file_that_is_no_sheet_is_not_overwritten(tmp_path, content):
    out = tmp_path / "a"
    out.mkdir()
    (out / READERS[1]).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"reader-2\.csv: someone has begun"):
        sheet(pairs_file(tmp_path / "p.parquet", 5), out, 4, 0)
    assert (out / READERS[1]).read_text(encoding="latin-1") == content
    assert len(list(out.iterdir())) == 1


def test_files_that_nobody_began_are_drawn_anew(tmp_path):
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    sheet(pairs, tmp_path / "a", 4, 0)
    sheet(pairs, tmp_path / "a", 4, 1)
    sheet(pairs, tmp_path / "b", 4, 1)
    assert read_rows(tmp_path / "a" / READERS[0]) == read_rows(tmp_path / "b" / READERS[0])


def test_pairs_without_variants_are_refused(tmp_path):
    pl.DataFrame(
        {"id": ["a"], "instruction": ["b"], "response": ["c"], "variant": [None]},
        schema_overrides={"variant": pl.String},
    ).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"p\.parquet: no sample has a variant"):
        sheet(tmp_path / "p.parquet", tmp_path / "a", 4, 0)
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(UserError, match=r"q\.parquet: no column instruction, response, variant"):
        sheet(tmp_path / "q.parquet", tmp_path / "a", 4, 0)
