"""Reading benchmarks: the formats, the checks, MBPP's types."""

from __future__ import annotations

import gzip
import json

import pytest

from fgit.benchmarks.problems import read_problems
from fgit.common.errors import UserError
from fgit.common.files import sha256

EVALPLUS = {
    "task_id": "Test/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "contract": "",
    "canonical_solution": "    return x\n",
    "base_input": [[1]],
    "plus_input": [[2]],
    "atol": 0,
}
BIGCODEBENCH = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": "def task_func(x):\n",
    "instruct_prompt": "Write task_func.",
    "canonical_solution": "    return x\n",
    "code_prompt": "def task_func(x):\n",
    "test": "class TestCases: pass",
    "entry_point": "task_func",
}


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_reads_problems_in_order(tmp_path, name):
    rows = [EVALPLUS | {"task_id": f"Test/{n}"} for n in (3, 1, 2)]
    problems = read_problems("humaneval", write(tmp_path / name, rows))
    assert list(problems) == ["Test/3", "Test/1", "Test/2"]
    assert problems["Test/1"] == rows[1]


def test_reads_json_arrays_and_objects_by_task_id(tmp_path):
    array, by_id = tmp_path / "a.json", tmp_path / "o.json"
    array.write_text(json.dumps([BIGCODEBENCH]))
    by_id.write_text(json.dumps({"BigCodeBench/0": BIGCODEBENCH}))
    expected = {"BigCodeBench/0": BIGCODEBENCH}
    assert read_problems("bigcodebench", array) == expected
    assert read_problems("bigcodebench", by_id) == expected


@pytest.mark.parametrize(
    ("kind", "problem"), [("humaneval", EVALPLUS), ("bigcodebench", BIGCODEBENCH)]
)
def test_each_field_is_needed(tmp_path, kind, problem):
    for field in problem:
        rest = {key: value for key, value in problem.items() if key != field}
        other = problem | {"task_id": "other/1"}
        path = write(tmp_path / "p.jsonl", [other, rest])
        with pytest.raises(UserError, match=rf"p\.jsonl, row 2: no field '{field}'"):
            read_problems(kind, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 3}, "row 1: 'prompt' is not text: 3"),
        ({"entry_point": " "}, "row 1: 'entry_point' is empty"),
        ({"atol": "0"}, "row 1: 'atol' is not a number"),
        ({"atol": True}, "row 1: 'atol' is not a number"),
        ({"base_input": [1]}, "row 1: 'base_input' is not a list of argument lists"),
        ({"base_input": []}, "row 1: 'base_input' is empty"),
        ({"plus_input": "x"}, "row 1: 'plus_input' is not a list of argument lists"),
    ],
)
def test_wrong_types_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_problems("humaneval", write(tmp_path / "p.jsonl", [EVALPLUS | change]))


def test_duplicates_name_both_rows(tmp_path):
    path = write(tmp_path / "p.jsonl", [EVALPLUS, EVALPLUS])
    with pytest.raises(UserError, match=r"row 2: task_id 'Test/0' is also in row 1"):
        read_problems("humaneval", path)


def test_digest(tmp_path):
    path = write(tmp_path / "p.jsonl", [EVALPLUS])
    read_problems("humaneval", path, sha256(path).upper())
    with pytest.raises(UserError) as raised:
        read_problems("humaneval", path, "0" * 64)
    assert sha256(path) in str(raised.value) and "0" * 64 in str(raised.value)


def test_broken_empty_and_missing_files(tmp_path):
    broken = tmp_path / "b.jsonl"
    broken.write_text(json.dumps(EVALPLUS) + "\n{")
    with pytest.raises(UserError, match=r"b\.jsonl, row 2: broken JSON"):
        read_problems("humaneval", broken)
    with pytest.raises(UserError, match="no problems"):
        read_problems("humaneval", write(tmp_path / "e.jsonl", []))
    with pytest.raises(UserError, match="no such file"):
        read_problems("humaneval", tmp_path / "missing.jsonl")


def test_mbpp_inputs_get_the_types_that_json_lacks(tmp_path):
    rows = [
        EVALPLUS | {"task_id": "Mbpp/2", "base_input": [[[3, 4], [5]]], "plus_input": {}},
        EVALPLUS | {"task_id": "Mbpp/252", "base_input": [["(3+4j)"]]} | {"plus_input": [["1j"]]},
        EVALPLUS | {"task_id": "Mbpp/9001", "base_input": [[[1]]]},
    ]
    problems = read_problems("mbpp", write(tmp_path / "p.jsonl", rows))
    assert problems["Mbpp/2"]["base_input"] == [[(3, 4), (5,)]]
    assert problems["Mbpp/2"]["plus_input"] == []
    assert problems["Mbpp/252"]["base_input"] == [[3 + 4j]]
    assert problems["Mbpp/9001"]["base_input"] == [[[1]]]


def test_mbpp_numbers(tmp_path):
    path = write(tmp_path / "p.jsonl", [EVALPLUS | {"task_id": "Mbpp/one"}])
    with pytest.raises(UserError, match="must end in /NUMBER"):
        read_problems("mbpp", path)
    path = write(tmp_path / "p.jsonl", [EVALPLUS | {"task_id": "Mbpp/2"}])  # tuples, not numbers
    with pytest.raises(UserError, match="not the form that EvalPlus knows for Mbpp/2"):
        read_problems("mbpp", path)


@pytest.mark.parametrize(
    ("kind", "file", "count"),
    [
        ("humaneval", "evalplus/HumanEvalPlus-v0.1.10.jsonl.gz", 164),
        ("mbpp", "evalplus/MbppPlus-v0.2.0.jsonl.gz", 378),
        ("bigcodebench", "bigcodebench/BigCodeBench.jsonl.gz", 1140),
        ("bigcodebench", "bigcodebench/bigcodebench_hard.json.gz", 148),
    ],
)
def test_the_published_files_are_readable(shared_data, kind, file, count):
    assert len(read_problems(kind, shared_data / file)) == count
