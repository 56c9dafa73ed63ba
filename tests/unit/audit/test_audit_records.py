"""The problems of a benchmark as records."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fgit.audit.records import only_docstring, python_block, record_of, records
from fgit.benchmarks.problems import read_problems
from fgit.common.code_blocks import main_code, parses
from fgit.common.errors import UserError
from fgit.variants import normalised, read_samples


def test_a_humaneval_problem_as_a_record():
    problem = {
        "task_id": "Tiny/0",
        "prompt": 'def double(x):\n    """Twice x, as in ```2 * x```."""\n',
        "canonical_solution": "    return 2 * x\n",
    }
    found = record_of("humaneval", problem)
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
    found = record_of("mbpp", problem)
    assert found["instruction"] == "Write a function that doubles.\nassert double(1) == 2"
    assert found["response"] == "```python\ndef double(x):\n  return 2 * x\n```\n"


def test_a_problem_with_its_own_tests_keeps_them():
    problem = {"task_id": "a", "prompt": "x = 1\n", "canonical_solution": "y = x", "test": "x"}
    assert record_of("tests", problem)["tests"] == "x"


@given(st.text("`ab \n", max_size=40))
def test_code_in_a_fence_is_found_again(text):
    code = f"x = '''{text}'''"
    assume(parses(code))
    block = main_code(python_block(code))
    assert block is not None and normalised(block.content) == normalised(code)


@pytest.mark.parametrize("prompt", ["", "'''  '''", "def f(", "x = 1", "'a'\n'b'", "1", "\0"])
def test_what_is_not_only_a_docstring(prompt):
    assert only_docstring(prompt) is None


@pytest.mark.parametrize(
    ("kind", "file", "count"),
    [("humaneval", "HumanEvalPlus-v0.1.10", 164), ("mbpp", "MbppPlus-v0.2.0", 378)],
)
def test_the_real_problems_become_records(shared_data, tmp_path, kind, file, count):
    path = shared_data / "evalplus" / f"{file}.jsonl.gz"
    records(kind, path, tmp_path / "records.parquet")
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
        records("pairs", tmp_path / "p.jsonl", tmp_path / "o.parquet")
