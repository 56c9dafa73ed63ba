"""What is looked for: the texts of a problem, normalised."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common import files
from fgit.common.errors import UserError
from fgit.decontaminate.texts import (
    docstring,
    normalise,
    problem_texts,
    protected_problem,
    read_benchmark,
    verbatim_texts,
)
from tests.problems import PROBLEM


def test_texts_of_humaneval():
    assert problem_texts(PROBLEM, 40) == {
        "description": "You are given deposits and withdrawals on a bank account that starts\n"
        "    at zero. Tell whether the balance ever falls below zero.",
        "docstring": verbatim_texts(PROBLEM)["docstring"],
        "solution": PROBLEM["canonical_solution"].strip(),
    }


@pytest.mark.parametrize(
    "examples",
    [
        "Example:\n f(3) -> 4",
        "For example, f(3) is 4",
        "Examples\n f(3) -> 4",
        ">>> f(3)\n4",
        "   f(3) == 4",
        "  f('a', 2) = 4",
        "assert f(3) == 4",
    ],
)
def test_prose_ends_at_the_first_example(examples):
    problem = PROBLEM | {"prompt": f'def f(n):\n    """Count.\n{examples}"""\n', "entry_point": "f"}
    assert problem_texts(problem, 1)["description"] == "Count."


def test_a_definition_in_the_prose_is_no_example():
    text = "The factorial is:\n    f(n) = n * f(n-1)\n    where n > 0"
    problem = PROBLEM | {"prompt": f"def f(n):\n    '''{text}'''\n", "entry_point": "f"}
    assert problem_texts(problem, 1)["description"] == text


def test_without_docstring_the_prompt_is_the_description():
    prompt = "# Add the numbers.\ndef f(n):\n"
    assert docstring(prompt, "f") == prompt


def test_texts_of_bigcodebench():
    prompt = (
        'import csv\n\ndef task_func(path):\n    """\n    Read a file.\n\n    Count its rows.\n\n'
        "    Parameters:\n    - path (str): The file.\n\n    Example:\n"
        '    >>> task_func("a")\n    """\n'
    )
    problem = {
        "task_id": "BigCodeBench/0",
        "complete_prompt": prompt,
        "instruct_prompt": "Read a file.",
        "canonical_solution": "    return 1",
        "entry_point": "task_func",
    }
    texts = problem_texts(protected_problem(Path("p"), 1, problem), 1)
    assert texts.pop("docstring").endswith('>>> task_func("a")')
    assert texts == {
        "description": "Read a file.\n\n    Count its rows.",
        "solution": "return 1",
    }


def test_texts_of_mbpp_and_mbpp_plus():
    mbpp = protected_problem(Path("p"), 1, {"task_id": 2, "text": "Add.", "code": "a + b\r\n"})
    assert mbpp["task_id"] == "2"
    assert problem_texts(mbpp, 1) == {"description": "Add.", "solution": "a + b"}
    plus = PROBLEM | {"prompt": '"""\nAdd the two.\nassert add(1, 2) == 3\n"""\n'}
    assert problem_texts(plus, 1)["description"] == "Add the two."


SHORT = PROBLEM | {
    "prompt": "def strlen(string: str) -> int:\n"
    '    """ Return length of string\n    >>> strlen("")\n    """\n',
    "entry_point": "strlen",
    "canonical_solution": "    return len(string)\n",
}


def test_short_texts_are_taken_with_the_head_of_the_function():
    texts = problem_texts(SHORT, 40)
    assert texts["description"] == "Return length of string"
    assert texts["prompt"] == 'def strlen(string: str) -> int:\n    """ Return length of string'
    assert texts["program"] == "def strlen(string: str) -> int:\n    return len(string)"
    assert set(problem_texts(SHORT, 10)) == {"description", "docstring", "solution"}


def test_what_no_text_protects_is_said(tmp_path):
    rows = [{"task_id": 7, "text": "Find it.", "code": "x = 1"}, SHORT, PROBLEM]
    files.write_jsonl(tmp_path / "p.jsonl", rows)
    found = read_benchmark("b", tmp_path / "p.jsonl", 40)
    assert (found.problems, found.unprotected, found.exempt) == (3, ["7"], 4)
    assert [text.what for text in found.texts] == [
        *["prompt", "program"],
        *["description", "solution", "docstring"],
    ]


# ------------------------------------------------------------------ Magicoder's rule


def test_verbatim_is_the_whole_docstring_and_the_solution():
    assert verbatim_texts(PROBLEM) == {
        "docstring": PROBLEM["prompt"].rpartition('"""')[0].rpartition('"""')[2].strip(),
        "solution": PROBLEM["canonical_solution"].strip(),
    }


@pytest.mark.parametrize(
    ("solution", "looked_for"),
    [
        ("return x + y", False),
        ("return len(string)", False),
        ("return n**2", False),
        ("return ''.join(strings)", True),
        ("return n ** 2", True),
    ],
)
def test_three_trivial_solutions_are_let_pass(solution, looked_for):
    found = verbatim_texts(PROBLEM | {"canonical_solution": f"    {solution}\n"})
    assert ("solution" in found) == looked_for


def test_of_mbpp_only_the_test_split_is_verbatim():
    def found(task_id, **others):
        row = {"task_id": task_id, "text": "Add.", "code": "a + b", **others}
        return verbatim_texts(protected_problem(Path("p"), 1, row))

    whole = {"description": "Add.", "solution": "a + b"}
    assert found(10, test_list=[]) == found(511, test_list=[]) == {}
    assert found(11, test_list=[]) == found(510, test_list=[]) == whole
    assert found("11", test_list=[]) == whole and found("511", test_list=[]) == {}
    assert found(600) == whole  # not MBPP itself


# ------------------------------------------------------------------ other benchmarks


def test_texts_of_ds_1000():
    prompt = (
        "Problem:\nSort the frame.\n\nA:\n<code>\nimport pandas\n</code>\nBEGIN SOLUTION\n<code>\n"
    )
    problem = protected_problem(Path("p"), 3, {"prompt": prompt, "reference_code": "df.sort()"})
    assert problem["task_id"] == "3"
    assert problem_texts(problem, 1) == {
        "description": "Problem:\nSort the frame.",
        "solution": "df.sort()",
    }
    assert verbatim_texts(problem) == {"description": prompt.partition("BEGIN")[0]}


def test_texts_of_apps():
    row = {"problem_id": 12, "question": "Add the two.", "solutions": "[]"}
    problem = protected_problem(Path("p"), 3, row)
    assert problem["task_id"] == "12"
    assert problem_texts(problem, 1) == {"description": "Add the two."}
    assert verbatim_texts(problem) == {"description": "Add the two."}


def test_benchmark_formats(tmp_path):
    rows = [PROBLEM, PROBLEM | {"task_id": "HumanEval/1001"}]
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(tmp_path / "p.json.gz", "wt") as file:  # keyed by task, as BigCodeBench's
        json.dump({row["task_id"]: row for row in rows}, file)
    found = [read_benchmark("b", path, 40) for path in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert all(each == found[0] for each in found)
    assert found[0].problems == 2
    (tmp_path / "bad.json").write_text('{"a": {}, "b": 1}')
    with pytest.raises(UserError, match="row 1"):
        read_benchmark("b", tmp_path / "bad.json", 40)


# ------------------------------------------------------------------ normalising

TEXT = st.text(alphabet=st.sampled_from("abAB \n\t\r\u00a0\u2003\x1cΣσςİßé😀(="), max_size=40)


@given(st.one_of(TEXT, st.text(max_size=60)))
def test_normalise_is_character_by_character(text):
    plain = "".join(c.lower() for c in text if not c.isspace())
    assert normalise(text) == plain.replace("ς", "σ")
    assert normalise(text) == "".join(map(normalise, text))


# ------------------------------------------------------------------ real data


@pytest.mark.parametrize(
    ("path", "problems"),
    [
        ("humaneval/HumanEval.jsonl.gz", 164),
        ("evalplus/HumanEvalPlus-v0.1.10.jsonl.gz", 164),
        ("mbpp/mbpp.jsonl.gz", 974),
        ("evalplus/MbppPlus-v0.2.0.jsonl.gz", 378),
        ("bigcodebench/BigCodeBench.jsonl.gz", 1140),
        ("bigcodebench/bigcodebench_hard.json.gz", 148),
    ],
)
def test_real_benchmarks(shared_data, path, problems):
    found = read_benchmark("b", shared_data / path, 40)
    assert found.problems == problems
    assert len(found.texts) + found.exempt >= 2 * problems
    assert all(len(normalise(item.text)) >= 40 for item in found.texts)
    for item in found.texts:
        if item.what == "description":
            assert ">>>" not in item.text
            assert not normalise(item.text).endswith(("example", "forexample:", "parameters:"))


def test_bigcodebench_descriptions_open_the_instruct_prompt(shared_data):
    """The same sentences stand in both prompts, so one text covers both."""
    path = shared_data / "bigcodebench/BigCodeBench.jsonl.gz"
    for number, row in files.read_objects(path):
        description = problem_texts(protected_problem(path, number, row), 40)["description"]
        assert normalise(row["instruct_prompt"]).startswith(normalise(description))
