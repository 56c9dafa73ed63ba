"""Records and variants in parts: the same as read at once, and the same complaints."""

import json

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.variants import (
    CODE_AT,
    VARIANT_COLUMNS,
    check_histories,
    conversation,
    read_samples,
    sample_ids,
    sample_parts,
    variant_parts,
)


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
    assert pl.concat(parts).equals(read_samples(path))
    assert read_samples(path).drop("code_at", "history").to_dicts() == rows(7)
    assert sample_ids(path) == [f"s{n}" for n in range(7)]


def test_where_the_code_is_is_read_or_found(tmp_path):
    path = tmp_path / "r.parquet"
    whole = {"start": 0, "end": 5, "indent": 0, "language": "python"}
    first, second = read_samples(write(path, rows(2)))["code_at"]
    assert first == second == whole
    said = whole | {"start": 4}
    frame = pl.DataFrame(rows(2), schema=dict.fromkeys(rows(1)[0], pl.String))
    frame.with_columns(code_at=pl.Series([None, said], dtype=CODE_AT)).write_parquet(path)
    assert read_samples(path)["code_at"].to_list() == [None, said]


@pytest.mark.parametrize("place", ["here", {}, {"start": 1, "end": 9, "indent": 0, "language": ""}])
def test_a_place_that_is_none_is_named(tmp_path, place):
    path = tmp_path / "r.jsonl"
    write(path, [row | {"code_at": place} for row in rows(1)])
    with pytest.raises(UserError, match=r"r\.jsonl, row 1: code_at is .*leave the column out"):
        read_samples(path)


HISTORY = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "Add."},
    {"role": "assistant", "content": "x"},
]


def test_the_turns_before_an_instruction_are_read(tmp_path):
    found = [
        row | {"history": history}
        for row, history in zip(rows(3), [HISTORY, [], None], strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    samples = read_samples(tmp_path / "r.jsonl")
    samples.write_parquet(tmp_path / "r.parquet")
    for frame in (samples, read_samples(tmp_path / "r.parquet")):
        assert frame["history"].to_list() == [HISTORY, None, None]
    assert conversation(samples.row(0, named=True)) == (
        "System:\nBe brief.\n\nUser:\nAdd.\n\nAssistant:\nx\n\nUser:\nDo 0."
    )
    assert conversation(samples.row(1, named=True)) == "Do 1."


@pytest.mark.parametrize("history", ["x", ["x"], [["x", "y"]], [{"role": "user"}], [{"a": 1}], 3])
def test_a_history_that_is_none_is_named(tmp_path, history):
    path = write(tmp_path / "r.jsonl", [row | {"history": history} for row in rows(1)])
    with pytest.raises(UserError, match=r"r\.jsonl, row 1: history is .*leave the column out"):
        read_samples(path)


@pytest.mark.parametrize(
    "history",
    [HISTORY[1:2], HISTORY[2:], HISTORY[::-1], HISTORY * 2, [{"role": "human", "content": "x"}]],
)
def test_a_history_out_of_order_is_named(tmp_path, history):
    frame = pl.DataFrame({"history": [HISTORY, HISTORY[:1], HISTORY[1:], [], None, history]})
    check_histories(tmp_path, frame[:-1])
    check_histories(tmp_path, frame.drop("history"))
    with pytest.raises(UserError, match=r"row 16: history is .* then turns of user and assistant"):
        check_histories(tmp_path, frame, 10)


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
    with pytest.raises(UserError, match=r"r\.parquet, row 4: 'response' is null"):
        list(sample_parts(write(tmp_path / "r.parquet", found), 2))


def test_no_records_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"r\.parquet: no records"):
        sample_ids(write(tmp_path / "r.parquet", []))


def test_the_parts_are_the_variants(tmp_path):
    path = tmp_path / "v.parquet"
    frame = pl.DataFrame(
        [{"id": f"s{n % 3}", "k": n, "code": f"x = {n}" if n % 2 else None} for n in range(8)],
        schema=VARIANT_COLUMNS,
    )
    frame.write_parquet(path)
    parts = list(variant_parts(path, {"s0", "s1", "s2"}, 3))
    assert pl.concat(parts).equals(frame.select("id", "k", "code"))
    with pytest.raises(UserError, match=r"v\.parquet, row 3: a variant of 's2', which is not"):
        list(variant_parts(path, {"s0", "s1"}, 2))
