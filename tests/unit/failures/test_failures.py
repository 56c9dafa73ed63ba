"""The failures of scored runs: the command, its page, and the report's section."""

import json

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.common.files import sha256, write_json, write_jsonl, write_parquet
from fgit.config import parse_config
from fgit.failures.analysis import (
    BLANK,
    CANONICAL_SOURCE,
    CHANGED,
    FAILURE_SCHEMA,
    OneSided,
    RunPrograms,
)
from fgit.failures.stage import failures
from fgit.report.evaluations import read_evaluations
from fgit.report.failures import (
    MOST,
    canonical_programs,
    failures_section,
    most_of_each,
)
from fgit.runs import all_runs, evaluations
from fgit.scores import read_evaluation, write_summary
from tests.results_folder import score_summary

EVIL = "<script>alert('x')</script>"


def add(expression, name="add"):
    return f"def {name}(a, b):\n    total = {expression}\n    return total\n"


def problem(number):
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": 'def add(a, b):\n    """Add two numbers."""\n',
        "entry_point": "add",
        "contract": "",
        "canonical_solution": "    total = a + b\n    return total\n",
        "base_input": [[1, 2]],
        "plus_input": [[3, 4]],
        "atol": 0,
    }


@pytest.fixture
def problems(tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", [problem(number) for number in range(4)])
    return tmp_path / "problems.jsonl"


def score_folder(folder, problems, programs):
    """A folder as the score stage leaves it; programs are (solution, passes base, passes plus)."""
    rows = [
        {"task_id": f"HumanEval/{number}", "solution": code, "base_pass": base, "plus_pass": plus}
        for number, (code, base, plus) in enumerate(programs)
    ]
    schema = {"base_pass": pl.Boolean, "plus_pass": pl.Boolean}
    write_parquet(folder / "outcomes.parquet", pl.DataFrame(rows, schema_overrides=schema))
    n = len(rows)
    passed = {"base": sum(row["base_pass"] for row in rows)}
    passed["plus"] = sum(row["plus_pass"] for row in rows)
    values = {"problems": str(problems), "problems_sha256": sha256(problems)}
    write_summary(folder, score_summary("humaneval", n, **passed, **values))
    return folder


@pytest.fixture
def scores(tmp_path, problems):
    right, wrong = (add("a + b"), True, True), (add("a - b"), False, False)
    halfway = (add(f'a + b if a < 3 else "{EVIL}"'), True, False)
    return {
        "fgit": score_folder(tmp_path / "fgit", problems, [right, right, wrong, halfway]),
        "sft": score_folder(
            tmp_path / "sft",
            problems,
            [wrong, ("", False, False), (add("b + a"), True, True), right],
        ),
    }


def test_a_canonical_solution_that_failed_there_is_no_passing_program(tmp_path, problems, scores):
    truths = {"fgit": None, "sft": {"passing": 0.5, "failing": ["HumanEval/0", "HumanEval/2"]}}
    for name, truth in truths.items():
        path = scores[name] / "summary.json"
        values = json.loads(path.read_text("utf-8"))
        write_json(path, values | {"ground_truth": truth})
    failures(scores, "humaneval", problems, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "failures.parquet")
    found = {
        (run, task): source
        for run, task, source in rows.select("run", "task_id", "nearest_source").iter_rows()
    }
    assert found == {
        ("fgit", "HumanEval/2"): "sft",
        ("fgit", "HumanEval/3"): CANONICAL_SOURCE,
        ("sft", "HumanEval/0"): "fgit",
        ("sft", "HumanEval/1"): None,  # empty
    }
    evaluations = {name: read_evaluation(folder) for name, folder in scores.items()}
    canonical, _ = canonical_programs("humaneval", evaluations)
    assert list(canonical) == ["HumanEval/1", "HumanEval/3"]
    for broken in ({"failing": "HumanEval/0"}, {}, []):
        write_json(path, values | {"ground_truth": broken})
        with pytest.raises(UserError, match=r"summary\.json, key 'ground_truth"):
            failures(scores, "humaneval", problems, tmp_path / "out")


def test_the_command_writes_rows_figures_and_a_page(tmp_path, problems, scores):
    text = failures(scores, "humaneval", problems, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "failures.parquet")
    assert dict(rows.schema) == {"run": pl.String} | FAILURE_SCHEMA
    assert rows["run"].to_list() == ["fgit", "fgit", "sft", "sft"]
    assert rows["status"].to_list() == [CHANGED, CHANGED, CHANGED, BLANK]
    assert rows["nearest_source"].to_list() == [
        CANONICAL_SOURCE,
        CANONICAL_SOURCE,
        CANONICAL_SOURCE,
        None,
    ]
    found = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (found["tests"], found["problems_sha256"]) == ("plus", sha256(problems))
    assert found["runs"]["sft"]["few_lines"]["n"] == 1
    assert [(p["solved_by"], p["not_by"], p["problems"]) for p in found["pairs"]] == [
        ("fgit", "sft", 2),
        ("sft", "fgit", 2),
    ]
    assert found["pairs"][0]["few_lines"]["share"] == 0.5  # the empty answer is not near
    assert "| sft" in text and "50.0 % (1 of 2;" in text


def test_the_page_is_whole_and_escaped(tmp_path, problems, scores):
    failures(scores, "humaneval", problems, tmp_path / "out")
    page = (tmp_path / "out" / "failures.html").read_text("utf-8")
    assert EVIL not in page and "alert" in page
    assert "prefers-color-scheme: dark" in page and "34.5 % of Llama" in page
    assert "fgit solves, sft does not: 2 problems" in page
    assert "sft, fails" in page and "fgit, passes" in page
    assert "total = a <mark>-</mark> b" in page and "total = a <mark>+</mark> b" in page
    assert "1 line in 1 place" in page and "an empty answer" in page
    assert page.index("HumanEval/0") < page.index("HumanEval/1")


def test_base_tests_can_be_asked_for(tmp_path, problems, scores):
    failures(scores, "humaneval", problems, tmp_path / "out", tests="base")
    rows = pl.read_parquet(tmp_path / "out" / "failures.parquet").filter(run="fgit")
    assert rows["task_id"].to_list() == ["HumanEval/2"]


def test_the_same_scores_give_the_same_files(tmp_path, problems, scores):
    for out in ("one", "two"):
        failures(scores, "humaneval", problems, tmp_path / out)
    for name in ("failures.parquet", "summary.json", "failures.html"):
        assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name)


def refused(*names, **values):
    with pytest.raises(UserError) as caught:
        failures(**values)
    for name in names:
        assert str(name) in str(caught.value)


def test_what_does_not_fit_is_named(tmp_path, problems, scores):
    asked = {"runs": scores, "kind": "humaneval", "problems": problems, "out": tmp_path / "out"}
    refused("pairs", **asked | {"kind": "pairs"})
    refused("canonical", **asked | {"runs": {CANONICAL_SOURCE: scores["sft"]}})
    refused(tmp_path / "none", **asked | {"runs": {"x": tmp_path / "none"}})
    other = tmp_path / "other.jsonl"
    write_jsonl(other, [problem(number) for number in range(3)])
    refused(scores["fgit"], sha256(problems), sha256(other), **asked | {"problems": other})
    (scores["fgit"] / "summary.json").unlink()
    (scores["sft"] / "summary.json").unlink()
    refused(scores["fgit"], "'HumanEval/3'", **asked | {"problems": other})
    frame = pl.read_parquet(scores["sft"] / "outcomes.parquet")
    write_parquet(scores["sft"] / "outcomes.parquet", pl.concat([frame, frame[:1]]))
    refused(scores["sft"], "'HumanEval/0' twice", **asked)
    write_parquet(scores["sft"] / "outcomes.parquet", frame.with_columns(plus_pass=None))
    refused(scores["sft"], "--tests base", **asked | {"tests": "plus"})
    write_parquet(scores["sft"] / "outcomes.parquet", frame.drop("solution"))
    refused(scores["sft"], "solution", **asked)
    assert not (tmp_path / "out").exists()


def test_programs_that_are_too_long_are_named_only(tmp_path, problems, scores):
    long = "x = 1\n" * 3000
    score_folder(scores["sft"], problems, [(long, False, False)] + [(add("a + b"), True, True)] * 3)
    failures(scores, "humaneval", problems, tmp_path / "out")
    page = (tmp_path / "out" / "failures.html").read_text("utf-8")
    assert "Too long to be shown." in page and len(page) < 100_000


# ------------------------------------------------------------------ the report's section


def make_config(problems, **more):
    methods = {"fgit": {}, "plain": {"objective": "fixed"}, "fixed-2": {"objective": "fixed"}}
    methods["fixed-2"] |= {"weight": 2.0}
    return parse_config(
        {
            "name": "made-up",
            "models": {"tiny": {"path": "somewhere/tiny"}},
            "datasets": {"tasks": {"path": "tasks.jsonl"}},
            "benchmarks": {
                "easy": {"kind": "humaneval", "problems": str(problems)},
                "part": {"kind": "humaneval", "problems": str(problems), "part_of": "easy"},
            },
            "decontaminate": {"against": ["easy"]},
            "methods": methods,
            "tables": {
                "main": {
                    "caption": "All methods",
                    "columns": ["easy", "easy+", "part"],
                    "rows": [
                        {"model": "tiny", "method": "base"},
                        *(
                            {"model": "tiny", "dataset": "tasks", "method": method}
                            for method in methods
                        ),
                    ],
                }
            },
        }
        | more
    )


def results_of(config, root, problems, programs):
    """The evaluations of a results folder; ``programs`` gives each method's."""
    for run, benchmark in evaluations(config, config.tables):
        method = all_runs(config)[run].method
        score_folder(root / "score" / run / benchmark, problems, programs[method])
    return read_evaluations(config, root)


def section_of(config, found):
    return failures_section(config, found, {run: run for run in all_runs(config)})


def test_the_section_compares_with_base_and_with_standard_sft(tmp_path, problems):
    config = make_config(problems)
    right, wrong = (add("a + b"), True, True), (add("a - b"), False, False)
    late, early = [wrong, right, right, right], [right, right, wrong, wrong]
    programs = {"base": early, "fgit": late, "plain": early, "fixed-2": late}
    (item,) = section_of(config, results_of(config, tmp_path, problems, programs))
    # The part is left out: its problems are the larger one's.
    assert (item["benchmark"], item["tests"], item["without_canonical"]) == ("easy", "plus", None)
    base, fgit, plain, fixed = all_runs(config)
    assert [(gained["solver"], gained["other"]) for gained, _ in item["pairs"]] == [
        (fgit, base),
        (fgit, plain),
        (plain, base),
        (fixed, base),
        (fixed, plain),
    ]
    gained, lost = item["pairs"][0]
    assert (gained["problems"], lost["problems"]) == ("2", "1")
    assert gained["few_lines"] == ("100.0 %", "2 of 2; 34 to 100")
    assert [row["failures"] for row in item["runs"]] == ["2", "1", "2", "1"]
    assert [(view["solver"], view["other"]) for view in item["views"]][:2] == [
        (fgit, base),
        (base, fgit),
    ]


def test_the_section_says_why_canonical_solutions_are_not_used(tmp_path, problems):
    config = make_config(problems)
    wrong = [(add("a - b"), False, False)] * 4
    programs = dict.fromkeys(("base", "fgit", "plain", "fixed-2"), wrong)
    found = results_of(config, tmp_path, problems, programs)
    write_jsonl(problems, [problem(number) for number in range(3)])
    (item,) = section_of(config, found)
    assert str(problems) in item["without_canonical"]
    assert item["runs"][0]["aside"] == "4 no passing program known"
    assert item["runs"][0]["few_lines"] == ("–", "")
    assert item["views"] == []


def test_the_section_shows_a_bounded_number_of_problems(tmp_path, problems):
    write_jsonl(problems, [problem(number) for number in range(MOST + 9)])
    config = make_config(problems)
    right, wrong = (add("a + b"), True, True), (add("a - b"), False, False)
    programs = dict.fromkeys(("base", "plain", "fixed-2"), [wrong] * (MOST + 9))
    programs["fgit"] = [right] * (MOST + 9)
    (item,) = section_of(config, results_of(config, tmp_path, problems, programs))
    assert [view["total"] for view in item["views"]] == [MOST + 9] * 2
    assert [len(view["problems"]) for view in item["views"]] == [MOST] * 2
    assert most_of_each([view_of(9)] * 1000, 400) == 1
    assert most_of_each([view_of(9)] * 40 + [view_of(0)] * 100, 400) == 10


def view_of(problems):
    nothing = RunPrograms({}, {})
    return OneSided("a", "b", (nothing, nothing), pl.DataFrame({"task_id": ["t"] * problems}))
