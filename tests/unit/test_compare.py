"""fgit compare: two runs on the same problems, from their score folders."""

from __future__ import annotations

import json
import logging

import polars as pl
import pytest

from fgit.cli import main
from fgit.common.errors import UserError
from fgit.common.files import write_json, write_parquet
from fgit.common.statistics import compare_paired, paired_bootstrap, wilson
from fgit.compare import compare
from fgit.scores import write_summary
from tests.results_folder import score_summary

SHA256 = "1a2b3c4d" * 8


def problems(n):
    return [f"HumanEval/{number}" for number in range(n)]


def score(folder, base, plus=None, *, tasks=None, more=None, **changes):
    """A score folder with these outcomes, as the score stage leaves it."""
    passes = {"base": base, "plus": plus}
    n = len(base)
    columns = {"task_id": tasks or problems(n), "solution": ["pass"] * n} | {
        f"{tests}_pass": [None] * n if solved is None else [bool(one) for one in solved]
        for tests, solved in passes.items()
    }
    schema = {"plus_pass": pl.Boolean}
    frame = pl.DataFrame(columns | (more or {}), schema_overrides=schema)
    write_parquet(folder / "outcomes.parquet", frame)
    passed = {tests: None if solved is None else sum(solved) for tests, solved in passes.items()}
    summary = score_summary("humaneval", n, **passed, settings={"min_time_limit": 1.0})
    write_summary(folder, summary | changes)
    return folder


def compared(a, b, tmp_path):
    out = tmp_path / "comparison.json"
    compare(a if isinstance(a, list) else [a], b if isinstance(b, list) else [b], out)
    return json.loads(out.read_text("utf-8"))


A, A_PLUS = [1, 1, 1, 1, 1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1, 0, 0, 1, 0]
B, B_PLUS = [1, 0, 0, 0, 0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0]


@pytest.fixture
def a(tmp_path):
    return score(tmp_path / "a", A, A_PLUS)


@pytest.fixture
def b(tmp_path):
    return score(tmp_path / "b", B, B_PLUS)


# ------------------------------------------------------------------ what it finds


def test_two_runs(a, b, tmp_path):
    result = compared(a, b, tmp_path)
    assert (result["a"], result["b"]) == ([str(a)], [str(b)])
    assert (result["benchmark"], result["n"], result["problems_sha256"]) == (
        "humaneval",
        10,
        SHA256,
    )
    assert result["sandbox"] == {"a": ["bwrap"], "b": ["bwrap"]}
    assert list(result["metrics"]) == ["pass@1 base", "pass@1 plus"]
    base = result["metrics"]["pass@1 base"]
    assert base["a"] == {
        "values": [0.8],
        "mean": 0.8,
        "deviation": None,
        "interval": list(wilson(8, 10)),
    }
    found = compare_paired([A], [B])
    assert (base["difference"], base["interval"]) == (0.5, [found.low, found.high])
    assert base["only_a"] == [f"HumanEval/{number}" for number in range(1, 7)]
    assert base["only_b"] == ["HumanEval/7"]
    assert base["p"] == found.p == 0.125
    plus = result["metrics"]["pass@1 plus"]
    assert (plus["p"], plus["only_b"]) == (0.0625, [])


def test_swapping_the_runs_mirrors_the_result(a, b, tmp_path):
    one, other = (compared(*sides, tmp_path)["metrics"] for sides in ((a, b), (b, a)))
    for metric in one:
        assert one[metric]["difference"] == -other[metric]["difference"]
        assert one[metric]["interval"] == [-end for end in reversed(other[metric]["interval"])]
        assert one[metric]["only_a"] == other[metric]["only_b"]
        assert (one[metric]["a"], one[metric]["p"]) == (other[metric]["b"], other[metric]["p"])


def test_several_seeds(a, b, tmp_path):
    second = score(tmp_path / "a-2", [1] * 10, [1] * 10)
    base = compared([a, second], b, tmp_path)["metrics"]["pass@1 base"]
    assert base["p"] == compare_paired([A, [1] * 10], [B]).p == 3 / 128
    assert base["a"]["values"] == [0.8, 1.0]
    assert base["a"]["deviation"] == pytest.approx(0.02**0.5)
    mean = [(one + 1) / 2 for one in A]
    assert base["a"]["interval"] == list(paired_bootstrap(mean, [0] * 10)[1:])
    assert (base["difference"], *base["interval"]) == paired_bootstrap(mean, B)
    assert base["only_a"] == [f"HumanEval/{number}" for number in range(1, 7)]
    assert base["only_b"] == []  # the second seed of a solves HumanEval/7


def test_the_order_of_the_rows_does_not_matter(a, b, tmp_path):
    expected = compared(a, b, tmp_path)
    path = b / "outcomes.parquet"
    write_parquet(path, pl.read_parquet(path).reverse())
    assert compared(a, b, tmp_path) == expected


def test_a_benchmark_without_plus_tests(tmp_path):
    folders = [score(tmp_path / name, A, benchmark="bigcodebench") for name in ("a", "b")]
    result = compared(*folders, tmp_path)
    assert list(result["metrics"]) == ["pass@1 base"]
    base = result["metrics"]["pass@1 base"]
    assert (base["difference"], base["interval"], base["p"]) == (0, [0, 0], 1)


def sides(folder, correct, incorrect):
    solved = [c is not None and c > i for c, i in zip(correct, incorrect, strict=True)]
    gap = {"mean": 0.1, "interval": [0.0, 0.2], "n": 3}
    more = {"prefers": solved, "p_correct": correct, "p_incorrect": incorrect}
    changes = {"benchmark": "pairs", "sandbox": None, "gap": gap}
    score(folder, solved, more=more, **changes)
    frame = pl.read_parquet(folder / "outcomes.parquet").drop("base_pass", "plus_pass")
    write_parquet(folder / "outcomes.parquet", frame)
    return folder


def test_pairs_have_a_preference_and_a_gap(tmp_path, capsys):
    a = sides(tmp_path / "a", [0.5, 0.75, 0.5, None], [0.25, 0.25, 0.75, None])
    b = sides(tmp_path / "b", [0.5, 0.5, None, 0.5], [0.5, 0.25, None, 0.25])
    metrics = compared(a, b, tmp_path)["metrics"]
    assert list(metrics) == ["preference", "gap"]
    assert metrics["preference"]["a"]["mean"] == 0.5
    assert metrics["preference"]["only_a"] == ["HumanEval/0"]
    gap = metrics["gap"]  # over the first two pairs, which both could compare
    assert (gap["n"], gap["a"]["mean"], gap["b"]["mean"]) == (2, 0.375, 0.125)
    assert (gap["difference"], *gap["interval"]) == (0.25, 0.25, 0.25)
    assert "p" not in gap
    assert "gap (n = 2)  0.3750 (0.2500 to 0.5000)" in capsys.readouterr().out


def test_pairs_that_no_two_runs_compared_have_no_gap(tmp_path):
    a = sides(tmp_path / "a", [0.5, None], [0.25, None])
    b = sides(tmp_path / "b", [None, 0.5], [None, 0.5])
    assert list(compared(a, b, tmp_path)["metrics"]) == ["preference"]


# ------------------------------------------------------------------ what it prints


def test_the_table_is_readable(a, b, tmp_path, capsys):
    compared(a, b, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"a: {a}", f"b: {b}", "humaneval: 10 problems, sha256 1a2b3c4d…"]
    assert lines[4].split() == [*("a", "b", "a", "-", "b", "only", "a", "only", "b", "p")]
    assert lines[5].startswith("pass@1 base  80.0 (49.0 to 94.3)  30.0 (10.8 to 60.3)  +50.0 (+")
    assert lines[5].endswith("  6       1       0.125")
    assert "pass@1 base, only b: HumanEval/7" in lines
    assert not any(line.startswith("pass@1 plus, only b") for line in lines)
    assert "±" not in "".join(lines)
    assert any(line.endswith("p: exact McNemar test.") for line in lines)


def test_the_deviation_over_seeds_is_printed(a, b, tmp_path, capsys):
    second = score(tmp_path / "a-2", [1] * 10, [1] * 10)
    compared([a, second], b, tmp_path)
    text = capsys.readouterr().out
    assert "90.0 ± 14.1 (" in text and "standard deviation over the seeds" in text
    assert "p: exact sign-flip test of the problems' means over the seeds." in text


def test_the_command_writes_provenance(a, b, tmp_path, capsys):
    out = tmp_path / "comparison.json"
    assert main(["compare", "--a", str(a), "--b", str(b), "--out", str(out)]) == 0
    assert "pass@1 plus" in capsys.readouterr().out
    provenance = json.loads((tmp_path / "comparison.json.provenance.json").read_text("utf-8"))
    assert list(provenance["inputs"]) == ["a 1", "b 1"]


def test_runs_scored_in_another_way_are_warned_of(a, b, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        compared(a, b, tmp_path)
        assert not caplog.messages
        score(b, B, B_PLUS, sandbox="rlimits")
        compared(a, b, tmp_path)
    assert caplog.messages == [
        f"{a} and {b} were not scored alike: their summary.json differ in sandbox"
    ]


# ------------------------------------------------------------------ bad input


def refusal(a, b, tmp_path):
    with pytest.raises(UserError) as caught:
        compared(a, b, tmp_path)
    assert not (tmp_path / "comparison.json").exists()
    return str(caught.value)


def test_other_problems_are_named(a, tmp_path):
    other = score(tmp_path / "b", B, B_PLUS, tasks=[*problems(9), "HumanEval/99"])
    assert refusal(a, other, tmp_path) == (
        f"{a} and {other} cannot be compared: not the same problems: 1 only in {a} (HumanEval/9); "
        f"1 only in {other} (HumanEval/99)"
    )


def test_a_part_of_the_problems_is_named(a, tmp_path):
    other = score(tmp_path / "b", B[:3], B_PLUS[:3])
    message = refusal(a, other, tmp_path)
    assert "7 only in" in message and "HumanEval/7, …" in message and str(other) in message


def test_another_file_of_the_same_problems_is_refused(a, tmp_path):
    other = score(tmp_path / "b", B, B_PLUS, problems_sha256="f" * 64)
    message = refusal(a, other, tmp_path)
    assert all(text in message for text in (str(a), str(other), SHA256, "f" * 64))


def test_another_benchmark_is_refused(a, tmp_path):
    other = score(tmp_path / "b", B, B_PLUS, benchmark="mbpp")
    expected = f"{a} and {other} cannot be compared: benchmarks of kind humaneval and mbpp"
    assert refusal(a, other, tmp_path) == expected


def test_a_score_without_plus_tests_is_refused(a, tmp_path):
    assert "plus tests" in refusal(a, score(tmp_path / "b", B), tmp_path)


def test_seeds_of_one_side_must_agree_too(a, b, tmp_path):
    other = score(tmp_path / "b-2", B, B_PLUS, problems_sha256="f" * 64)
    assert str(other) in refusal(a, [b, other], tmp_path)


@pytest.mark.parametrize("missing", ["summary.json", "outcomes.parquet"])
def test_a_folder_that_is_no_score_folder(a, b, tmp_path, missing):
    (b / missing).unlink()
    assert refusal(a, b, tmp_path).startswith(
        f"--b: {b} is not a score folder (there is no {missing} in it)"
    )


def test_a_missing_folder(a, tmp_path):
    assert "nowhere: no such file or folder" in refusal(a, tmp_path / "nowhere", tmp_path)


def test_a_seed_twice(a, b, tmp_path):
    message = refusal([a, a / ".." / "a"], b, tmp_path)
    assert "--a: " in message and "is named twice" in message


def test_a_problem_twice(a, tmp_path):
    other = score(tmp_path / "b", B, B_PLUS, tasks=["HumanEval/0", *problems(9)])
    assert "the same task_id 'HumanEval/0' twice;" in refusal(a, other, tmp_path)


def test_an_older_layout_is_scored_again(a, b, tmp_path):
    values = json.loads((b / "summary.json").read_text("utf-8"))
    del values["interval"]
    write_json(b / "summary.json", values)
    message = refusal(a, b, tmp_path)
    assert f"{b / 'summary.json'}, key 'interval': missing" in message
    assert "run the score stage again" in message


def test_pairs_need_their_probabilities(tmp_path):
    a = sides(tmp_path / "a", [0.5, 0.75], [0.25, 0.25])
    path = a / "outcomes.parquet"
    write_parquet(path, pl.read_parquet(path).drop("p_correct"))
    assert f"{path}: no column p_correct" in refusal(a, a, tmp_path)


def test_pairs_scored_before_the_column_prefers_are_refused(tmp_path):
    a = sides(tmp_path / "a", [0.5, 0.75], [0.25, 0.25])
    path = a / "outcomes.parquet"
    write_parquet(path, pl.read_parquet(path).rename({"prefers": "base_pass"}))
    assert f"{path}: no column prefers (it has: " in refusal(a, a, tmp_path)
