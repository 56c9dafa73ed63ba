"""Records and variants in parts: the same as read at once, and the same complaints."""

import json

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.variants import SCHEMA, read_samples, sample_ids, sample_parts, variant_parts


def rows(count):
    return [
        {
            "id": f"s{n}",
            "instruction": f"Do {n}.",
            "response": f"x = {n}",
            "language": "python" if n % 2 else None,
            "tests": None,
        }
        for n in range(count)
    ]


def write(path, found):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        pl.DataFrame(found, schema=dict.fromkeys(rows(1)[0], pl.String)).write_parquet(path)
    return path


@pytest.mark.parametrize("name", ["r.parquet", "r.jsonl"])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_parts_are_the_records(tmp_path, name, size):
    path = write(tmp_path / name, rows(7))
    parts = list(sample_parts(path, size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert pl.concat(parts).to_dicts() == read_samples(path).to_dicts() == rows(7)
    assert sample_ids(path) == [f"s{n}" for n in range(7)]


@pytest.mark.parametrize("name", ["r.parquet", "r.jsonl"])
def test_an_id_that_stands_twice_in_different_parts_is_named(tmp_path, name):
    found = rows(5)
    found[4]["id"] = "s1"
    path = write(tmp_path / name, found)
    with pytest.raises(UserError, match=rf"{name}, rows 2 and 5: the same id 's1' twice"):
        list(sample_parts(path, 2))
    with pytest.raises(UserError, match="the same id 's1' twice"):
        read_samples(path)


def test_a_row_without_a_response_is_named(tmp_path):
    found = rows(5)
    found[3]["response"] = None
    with pytest.raises(UserError, match=r"r\.parquet, row 4: no field 'response'"):
        list(sample_parts(write(tmp_path / "r.parquet", found), 2))


def test_no_records_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"r\.parquet: no records"):
        sample_ids(write(tmp_path / "r.parquet", []))


def test_the_parts_are_the_variants(tmp_path):
    path = tmp_path / "v.parquet"
    frame = pl.DataFrame(
        [{"id": f"s{n % 3}", "k": n, "code": f"x = {n}" if n % 2 else None} for n in range(8)],
        schema=SCHEMA,
    )
    frame.write_parquet(path)
    parts = list(variant_parts(path, {"s0", "s1", "s2"}, 3))
    assert pl.concat(parts).equals(frame.select("id", "k", "code"))
    with pytest.raises(UserError, match=r"v\.parquet, row 3: a variant of 's2', which is not"):
        list(variant_parts(path, {"s0", "s1"}, 2))
