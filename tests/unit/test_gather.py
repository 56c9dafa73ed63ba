"""Shards are joined when they belong together, and refused by name when they do not."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.gather import gather, one_promise, rows_of_shard
from fgit.generate import generate
from fgit.inference import engines
from fgit.inference.requests import Answer

CODE = "def add(a, b):\n    return a + b\n"


@given(st.integers(0, 500), st.integers(1, 60))
def test_parts_are_all_rows_once_in_order_and_alike_in_size(count, shards):
    parts = [rows_of_shard(count, shard, shards) for shard in range(1, shards + 1)]
    rows = [row for one in parts for row in range(count)[one]]
    assert rows == list(range(count))
    sizes = [one.stop - one.start for one in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("promises", "expected"),
    [
        (["batch_1", "batch_1"], "batch_1"),
        (["batch_invariant", "none"], "none"),
        (["batch_invariant", "batch_1"], "none"),
        ([], None),
    ],
)
def test_the_promise_is_what_all_have(promises, expected):
    assert one_promise(promises) == expected


@pytest.fixture
def records(tmp_path):
    frame = pl.DataFrame(
        {
            "id": [f"s{number}" for number in range(6)],
            "instruction": ["Add."] * 6,
            "response": [CODE] * 6,
            "language": pl.Series([None] * 6, dtype=pl.String),
            "tests": pl.Series([None] * 6, dtype=pl.String),
        }
    )
    frame.write_parquet(tmp_path / "records.parquet")
    return tmp_path / "records.parquet"


@pytest.fixture
def shards(tmp_path, records, monkeypatch):
    """Three, as fgit generate writes them; the teacher answers with a mistake."""

    def answers(requests, settings, spent=0.0):
        for index, request in enumerate(requests):
            wrong = CODE.replace("+", f"- {request.k} *")
            yield Answer(index, f"```python\n{wrong}```", 10)

    monkeypatch.setattr(engines, "answers", answers)
    monkeypatch.setattr(engines, "with_dtype", lambda settings, begun=None: settings)
    settings = GenerateSettings(backend="openai", variants=2, shards=3)
    files = [tmp_path / "shards" / f"{number}-of-3.parquet" for number in (1, 2, 3)]
    for number, file in enumerate(files, start=1):
        generate(records, file, file.with_suffix(".json"), settings, shard=number)
    return files


def edit(shard, /, **changes):
    path = shard.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(shards, records, tmp_path, message):
    out = [tmp_path / "variants.parquet", tmp_path / "report.json"]
    with pytest.raises(UserError, match=message):
        gather(shards, records, *out)
    assert not any(path.exists() for path in out)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_whatever_their_order_shards_are_joined_in_the_records(tmp_path, records, shards, order):
    edit(shards[0], seconds=1.5, refused={"no_code": 2})
    edit(shards[1], seconds=2.5, refused={"no_code": 1, "same_code": 5})
    edit(shards[2], seconds=1.0, refused={})
    out = [tmp_path / "variants.parquet", tmp_path / "report.json"]
    gather([shards[index] for index in order], records, *out)
    frame = pl.read_parquet(out[0])
    assert frame["id"].to_list() == [f"s{number // 2}" for number in range(12)]
    report = json.loads(out[1].read_text())
    expected = {"samples": 6, "answers": 12, "usable": 12, "tokens": 120, "seconds": 5.0}
    assert {name: report[name] for name in expected} == expected
    assert report["refused"] == {"same_code": 5, "no_code": 3}
    assert report["tokens_per_second"] == 24.0
    assert report["shards"] == 3 and "shard" not in report


def test_missing_shards_are_named(tmp_path, records, shards):
    refused(shards[1:2], records, tmp_path, "of 3 shards, 1, 3 not given")


def test_a_shard_that_is_there_twice_is_refused(tmp_path, records, shards):
    edit(shards[1], shard=1)
    refused(
        shards, records, tmp_path, r"2-of-3\.parquet: shard 1 of 3, which .*1-of-3\.parquet is too"
    )


def test_shards_of_different_numbers_are_refused(tmp_path, records, shards):
    edit(shards[1], shards=4)
    refused(shards, records, tmp_path, r"2-of-3\.parquet: one of 4 shards, but .* is one of 3")


def test_shards_of_different_settings_are_refused(tmp_path, records, shards):
    edit(shards[2], temperature=0.1)
    refused(shards, records, tmp_path, r"3-of-3\.parquet: made with temperature 0\.1, but .* 0\.8")


def test_each_dtype_that_the_teacher_had_is_named(tmp_path, records, shards):
    """Answers are data and are paid for: they are taken, and the report says what they are."""
    out = [tmp_path / "variants.parquet", tmp_path / "report.json"]
    for third, expected in [("bfloat16", "bfloat16"), ("float32", "bfloat16 and float32")]:
        for shard, dtype in zip(shards, ["bfloat16", "bfloat16", third], strict=True):
            edit(shard, dtype=dtype)
        gather(shards, records, *out)
        assert json.loads(out[1].read_text())["dtype"] == expected


def test_what_changes_the_speed_only_may_differ(tmp_path, records, shards):
    edit(shards[2], **dict.fromkeys(GenerateSettings.speed_fields(), 5))
    gather(shards, records, tmp_path / "variants.parquet", tmp_path / "report.json")


def test_shards_of_other_records_are_refused(tmp_path, records, shards):
    frame = pl.read_parquet(records)
    changed = pl.when(pl.col("id") == "s3").then(pl.lit("Sum.")).otherwise(pl.col("instruction"))
    frame.with_columns(instruction=changed).write_parquet(records)
    refused(shards, records, tmp_path, r"2-of-3\.parquet: its shard was made of other records")


def test_a_shard_without_its_report_is_named(tmp_path, records, shards):
    shards[0].with_suffix(".json").unlink()
    refused(shards, records, tmp_path, r"1-of-3\.json")


def test_a_report_that_is_none_is_named(tmp_path, records, shards):
    shards[0].with_suffix(".json").write_text("{}")
    refused(shards, records, tmp_path, r"1-of-3\.json, key 'samples': missing")


def test_no_usable_answer_in_any_shard(tmp_path, records, shards):
    for shard in shards:
        edit(shard, usable=0, refused={"no_code": 4})
        answers = pl.read_parquet(shard)
        answers.with_columns(code=pl.lit(None, pl.String)).write_parquet(shard)
    refused(shards, records, tmp_path, r"none of the 12 answers .* usable \(\{'no_code': 12\}\)")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.rename({"code": "a"}), "no column code .*remove the shard"),
        (lambda f: pl.DataFrame({"a": [1]}), "no column id, k, seed, answer"),
        (lambda f: f.drop("tokens"), "no column tokens"),
        (lambda f: f.with_columns(pl.col("k").cast(pl.Float64)), "column k is of type Float64"),
        (lambda f: f.with_columns(code=pl.lit(b"x")), "column code is of type Binary, not String"),
        (lambda f: f.with_columns(id=pl.lit(0.5)), "column id is of type Float64, not String"),
        (
            lambda f: f.with_columns(answer=pl.concat_list("answer")),
            "column answer is of type List",
        ),
        (lambda f: f.head(3), "its report says answers 4, but it has 3"),
        (lambda f: f.head(0), "its report says answers 4, but it has 0"),
        (lambda f: pl.concat([f, f.tail(1).with_columns(k=pl.lit(7, pl.Int64))]), "has 5"),
        (lambda f: f.with_columns(k=pl.lit(0, pl.Int64)), "rows 1 and 2: the same id 's2', k 0"),
        (lambda f: f.with_columns(k=pl.lit(None, pl.Int64)), "row 1: 'k' is null"),
        (lambda f: f.with_columns(id=pl.lit(None, pl.String)), "row 1: 'id' is null"),
        (lambda f: f.with_columns(id=pl.col("id").replace("s2", "s0")), "'s0', which is not among"),
        (lambda f: f.with_columns(code=pl.lit(None, pl.String)), "usable 4, but it has 0"),
    ],
)
def test_a_shard_that_is_no_shard_is_named(tmp_path, records, shards, damage, message):
    damage(pl.read_parquet(shards[1])).write_parquet(shards[1])
    refused(shards, records, tmp_path, rf"2-of-3\.parquet.*{message}")


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_a_cut_shard_is_named(tmp_path, records, shards, cut):
    shards[1].write_bytes(shards[1].read_bytes()[:cut])
    refused(shards, records, tmp_path, r"2-of-3\.parquet: not a readable Parquet file .*remove the")


def test_columns_that_hold_the_same_are_taken(tmp_path, records, shards):
    """As other libraries write them: smaller integers, dictionaries of texts, nothing but nulls."""
    expected = tmp_path / "expected.parquet"
    gather(shards, records, expected, tmp_path / "report.json")
    frame = pl.read_parquet(shards[1]).with_columns(
        pl.col("k").cast(pl.UInt8), pl.col("id").cast(pl.Categorical), refused=pl.lit(None)
    )
    frame.select(sorted(frame.columns)).with_columns(more=1).write_parquet(shards[1])
    gather(shards, records, tmp_path / "variants.parquet", tmp_path / "report.json")
    assert pl.read_parquet(tmp_path / "variants.parquet").equals(pl.read_parquet(expected))
