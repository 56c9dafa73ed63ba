"""The teacher's variants against a benchmark's own tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fgit import cli
from fgit.audit.records import records
from fgit.audit.variants import check_canonical, failures_in_words, variants
from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import ScoreSettings
from fgit.stage_reports import AuditReport
from fgit.variants import VARIANT_COLUMNS, normalised
from tests.audited import CODES, HEAD, PROBLEMS, SCORING, SELECTION, answers


def test_what_the_tests_say(audited):
    rows, summary = audited(CODES)
    assert [
        (key, row["base_status"], row["plus_status"], row["wrong"]) for key, row in rows.items()
    ] == [
        (("Tiny/double", 0), "fail", "fail", True),
        (("Tiny/double", 1), "pass", "pass", False),
        (("Tiny/double", 2), "pass", "fail", True),
        (("Tiny/double", 3), "pass", "pass", False),
        (("Tiny/size", 0), "pass", "fail", True),
        (("Tiny/size", 1), "pass", "fail", True),
        (("Tiny/size", 2), "empty", "empty", True),
        (("Tiny/size", 3), "fail", "fail", True),
        (("Tiny/size", 4), None, None, None),
    ]
    assert [row["similarity"] is None for row in rows.values()] == [
        row["code"] is None for row in rows.values()
    ]
    assert all(0.5 < row["similarity"] <= 1.001 for row in rows.values() if row["code"])
    counts = {
        tests: {
            part: (found["fail"], found["n"]) for part, found in summary["incorrect"][tests].items()
        }
        for tests in ("base", "plus")
    }
    selected = [key for key, row in rows.items() if row["selected"]]
    assert len(selected) == 2 and ("Tiny/size", 0) in selected
    fails = [rows[key]["base_status"] == "fail" for key in selected]
    assert counts["base"] == {"all": (3, 8), "usable": (1, 5), "selected": (sum(fails), 2)}
    wrong = [rows[key]["wrong"] for key in selected]
    assert counts["plus"] == {"all": (6, 8), "usable": (4, 5), "selected": (sum(wrong), 2)}
    low, high = summary["incorrect"]["plus"]["all"]["interval"]
    assert 0 < low < 6 / 8 < high < 1
    assert summary["refused"] == {
        "same_code": 1,
        "no_code": 1,
        "does_not_parse": 1,
        "prompt_too_long": 1,
    }
    assert (summary["problems"], summary["with_variant"]) == (3, 2)
    assert (summary["answers"], summary["usable"]) == (9, 5)
    similarity = [row["similarity"] for row in rows.values() if row["code"]]
    assert summary["similarity"]["usable"]["mean"] == pytest.approx(np.mean(similarity))
    assert summary["sandbox"] in ("bwrap", "rlimits")


def test_the_selected_one_is_what_select_chooses(audited, tmp_path):
    from fgit.select.stage import select

    rows, _ = audited(CODES)
    records("humaneval", tmp_path / "problems.jsonl", tmp_path / "records.parquet")
    select(
        tmp_path / "records.parquet",
        tmp_path / "generated.parquet",
        tmp_path / "pairs.parquet",
        tmp_path / "pairs.json",
        SELECTION,
    )
    chosen = [row for row in rows.values() if row["selected"]]
    pairs = pl.read_parquet(tmp_path / "pairs.parquet").filter(pl.col("variant").is_not_null())
    assert pairs["id"].to_list() == [row["id"] for row in chosen]
    for pair, row in zip(pairs.to_dicts(), chosen, strict=True):
        assert normalised(row["code"]) in pair["variant"]
        assert pair["similarity"] == pytest.approx(row["similarity"], abs=1e-6)


def test_problems_with_a_program_of_tests_have_no_plus_tests(audited):
    problems = [
        {
            "task_id": "Tiny/double",
            "prompt": HEAD["Tiny/double"],
            "canonical_solution": "    return 2 * x\n",
            "entry_point": "double",
            "test": "assert double(2) == 4\nassert double(3) == 6\n",
        }
    ]
    rows, summary = audited(
        {"Tiny/double": ["    return x + 2\n", "    return x + x\n"]}, problems, "tests"
    )
    assert [row["wrong"] for row in rows.values()] == [True, False]
    assert summary["incorrect"]["plus"] is None


def test_problems_whose_canonical_solution_fails_are_left_out():
    problems = Path("problems.jsonl")
    check_canonical([], 164, 1.0, problems)
    check_canonical(["a"], 164, 0.99, problems)
    with pytest.raises(UserError, match=r"problems\.jsonl: 2 of 164 .* \(a, b\)"):
        check_canonical(["a", "b"], 164, 0.99, problems)


def test_canonical_solutions_that_fail_are_an_error(audited, tmp_path):
    problems = [
        {
            "task_id": "Tiny/double",
            "prompt": HEAD["Tiny/double"],
            "canonical_solution": "    return x\n",
            "entry_point": "double",
            "test": "assert double(2) == 4\n",
        }
    ]
    with pytest.raises(UserError, match=r"canonical solution"):
        audited({"Tiny/double": ["    return x + 2\n"]}, problems, "tests")
    assert not (tmp_path / "out" / "audit.json").exists()


def test_no_usable_answer_is_said(audited):
    rows, summary = audited({"Tiny/size": [("No.", "no_code")]})
    assert [row["wrong"] for row in rows.values()] == [True]
    empty = {"n": 0, "fail": 0, "share": None, "interval": None}
    assert summary["incorrect"]["base"]["selected"] == empty
    assert summary["similarity"]["selected"] == {"mean": None, "median": None, "min": None}
    assert "–" in failures_in_words(AuditReport(**summary))


def test_variants_of_other_problems_are_refused(audited):
    HEAD["Other/1"] = "x = 1\n"
    with pytest.raises(UserError, match=r"generated\.parquet, row 1: a variant of 'Other/1'"):
        audited({"Other/1": ["y = 2\n"]})


def test_mutants_without_answers_are_refused(tmp_path):
    files.write_jsonl(tmp_path / "p.jsonl", PROBLEMS)
    frame = pl.DataFrame({"id": ["Tiny/size"], "k": [0], "code": ["x"]})
    frame.write_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match=r"v\.parquet: no column seed, answer, refused"):
        variants(
            *("humaneval", tmp_path / "p.jsonl", tmp_path / "v.parquet", tmp_path / "out"),
            *(SCORING, SELECTION),
            threads=1,
        )


def test_the_commands_of_the_audit(tmp_path, caplog):
    caplog.set_level("INFO")
    files.write_jsonl(tmp_path / "p.jsonl", PROBLEMS)
    answers(CODES).write_parquet(tmp_path / "v.parquet")
    common = ["--benchmark", "humaneval", "--problems", tmp_path / "p.jsonl"]
    records = ["audit", "records", *common, "--out", tmp_path / "r.parquet"]
    variants = ["audit", "variants", *common, "--variants", tmp_path / "v.parquet"]
    variants += ["--out", tmp_path / "a", "--embedder", SELECTION.embedder, "--prefix", ""]
    for words in (records, [*variants, "--threads", "1", "--min-time-limit", "2"]):
        assert cli.main([str(word) for word in words]) == 0
    told = caplog.text
    assert re.search(r"base, all +37\.5 %  \(.*; 3 of 8\)", told) and "94.1 %" in told
    assert json.loads((tmp_path / "a/provenance.json").read_text())["stage"] == "audit variants"


@pytest.mark.slow
def test_the_bugs_of_humanevalpack_fail_the_tests_of_humaneval(shared_data, tmp_path):
    """Real variants: humanevalpack's bugs, against HumanEval+ of EvalPlus."""
    problems = shared_data / "evalplus" / "HumanEvalPlus-Mini-v0.1.10.jsonl.gz"
    rows = []
    for _, row in files.read_objects(shared_data / "pairs" / "humanevalpack-python.jsonl.gz"):
        code = row["prompt"] + row["buggy_solution"]
        name = row["task_id"].replace("Python", "HumanEval")
        rows.append({"id": name, "k": 0, "answer": code, "code": code})
    pl.DataFrame(rows, schema=VARIANT_COLUMNS).write_parquet(tmp_path / "v.parquet")
    variants(
        *("humaneval", problems, tmp_path / "v.parquet", tmp_path / "out"),
        *(ScoreSettings(), SELECTION),
        threads=2,
    )
    summary = files.read_json(tmp_path / "out" / "audit.json")
    base = summary["incorrect"]["base"]["selected"]
    left_out = len(summary["canonical_fails"])
    assert left_out <= 1 and base["n"] == 164 - left_out and base["fail"] >= 160 - left_out
    assert summary["similarity"]["selected"]["mean"] > 0.9
