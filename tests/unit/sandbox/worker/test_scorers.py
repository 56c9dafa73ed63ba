"""The worker in a box: its protocol and its verdicts."""

from __future__ import annotations

import json
import pickle
import subprocess
import threading
from collections.abc import Iterator

import pytest

from fgit.sandbox.box import Box, Limits
from fgit.sandbox.strength import choose
from tests.conftest import REPOSITORY

WORKER = REPOSITORY / "workflow/fgit/sandbox/worker"


class Session:
    def __init__(self, box: Box, kind: str) -> None:
        self.process: subprocess.Popen[bytes] = box.start(WORKER, kind)
        self.box = box

    def answer(self) -> dict:
        timer = threading.Timer(60, self.box.stop)
        timer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        timer.cancel()
        assert line, self.box.errors()
        return json.loads(line)

    def send(self, solution: str, **changes: object) -> None:
        problem = {
            "task_id": "T/1",
            "prompt": "def f(x):\n",
            "entry_point": "f",
            "canonical_solution": "    return [2 * x]\n",
            "base_input": [[1], [2]],
            "plus_input": [[-1]],
            "atol": 0,
        }
        submission = {
            "problem": problem | changes,
            "solution": solution,
            "min_time_limit": 1.0,
            "gt_time_limit_factor": 4.0,
        }
        assert self.process.stdin is not None
        pickle.dump(submission, self.process.stdin)
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(choose("auto"), Limits(memory_mb=1500, disk_mb=48, processes=60)) as made:
        yield made


@pytest.fixture
def start(box):
    def make(kind: str) -> Session:
        session = Session(box, kind)
        assert session.answer() == {"ready": True}
        return session

    yield make
    box.stop()


def test_the_answers_of_evalplus_kinds(start):
    session = start("humaneval")
    session.send("def f(x): return [x + x]\n")
    expected = session.answer()
    # Two inputs of a second each and EvalPlus's two seconds; one input and two seconds.
    assert expected.keys() == {"expected", "limit", "base_seconds", "plus_seconds"}
    assert expected["limit"] == 7.0
    result = session.answer()
    seconds = result.pop("seconds")
    assert result == {"base": "pass", "plus": "pass", "limit": 7.0}
    assert 0 < seconds < 7


def test_a_canonical_solution_that_raises(start):
    session = start("humaneval")
    session.send("def f(x): return 1\n", canonical_solution="    return 1 / 0\n")
    assert "the canonical solution raises ZeroDivisionError" in session.answer()["error"]
    session.send("def f(x): return [x + x]\n")  # the worker goes on
    assert session.answer()["expected"] is True
    assert session.answer()["base"] == "pass"


HONEST = {
    "numpy": "import numpy as np\ndef f(x): return [int(np.array(x) * 2)]\n",
    "own-list": "class Mine(list): pass\ndef f(x): return Mine([2 * x])\n",
    "own-eq": "class A:\n    def __init__(self, x): self.x = x\n"
    "    def __eq__(self, other): return self.x == other.x\n"
    "def f(x): return [A(x).x * 2] if A(x) == A(x) else None\n",
    "sys": "import sys\nsys.setrecursionlimit(5000)\ndef f(x): return [2 * x]\n",
    "state": "import os\ncount = [0]\ndef f(x):\n    count[0] += 1\n    return [2 * x]\n",
    "random": "import os, random\ndef f(x): return [2 * x + random.randint(0, 1) * 0]\n",
    "eval": "def f(x): return [eval('2 * x')]\n",
}


def test_an_honest_program_that_is_looked_at_passes(start):
    session = start("humaneval")
    for name, program in HONEST.items():
        session.send(program, plus_input=[])  # each part is looked at, which takes time
        session.answer()
        result = session.answer()
        assert result["base"] == "pass" and result["suspicious"], name


def test_outputs_of_mbpps_own_comparisons(start):
    """Sets of two lists, and not None: what is recorded is what counts."""
    session = start("mbpp")
    session.send(
        "def similar_elements(a, b):\n    print.__doc__\n    return (x for x in a if x in b)\n",
        prompt="def similar_elements(a, b):\n",
        entry_point="similar_elements",
        canonical_solution="    return tuple(set(a) & set(b))\n",
        base_input=[[(1, 2), (2, 3)]],
        plus_input=[[(1,), (2,)]],
    )
    session.answer()
    result = session.answer()
    assert (result["base"], result["plus"]) == ("pass", "pass") and result["suspicious"]
    session.send(
        "import re, sys\ndef check_str(x): return re.match('a', x)\n",
        prompt="import re\ndef check_str(x):\n",
        entry_point="check_str",
        canonical_solution="    return re.match('^a', x)\n",
        base_input=[["ab"], ["b"]],
        plus_input=[["a"]],
    )
    session.answer()
    result = session.answer()
    assert (result["base"], result["plus"]) == ("pass", "pass") and result["suspicious"]


def test_drawn_numbers_are_the_same_in_every_check(start):
    session = start("humaneval")
    found = []
    for _ in range(2):
        session.send(
            "import random\ndef f(x): return [random.random()]\n",
            canonical_solution="    import random\n    random.seed(0)\n"
            "    return [random.random()]\n",
            base_input=[[1]],
        )
        session.answer()
        found.append(session.answer()["base"])
    assert found == ["pass", "pass"]


TESTS = {
    "passes": ("def f(x): return 2 * x\n", "assert f(1) == 2\n", "pass"),
    "fails": ("def f(x): return x\n", "assert f(1) == 2\n", "fail"),
    "raises": ("def f(x): return x.y\n", "assert f(1) == 2\n", "fail"),
    "not-python": ("def f(x:\n", "assert True\n", "fail"),
    "guarded-tests-run": (
        "def f(x): return x\n",
        "if __name__ == '__main__':\n    assert f(1) == 2\n",
        "fail",
    ),
    "guarded-solution-does-not": (
        "def f(x): return 2 * x\nif __name__ == '__main__':\n    1 / 0\n",
        "assert f(1) == 2\n",
        "pass",
    ),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport pickle\n"
        "@dataclass\nclass A:\n    x: int\ndef f(x): return pickle.loads(pickle.dumps(A(2 * x))).x",
        "assert f(1) == 2\n",
        "pass",
    ),
    "prints-and-asks": ("print('x' * 10**6)\ndef f(x): return input()\n", "f(1)\n", "fail"),
}


def test_programs_of_tests(start):
    session = start("tests")
    for name, (solution, test, verdict) in TESTS.items():
        session.send(solution, test=test)
        assert session.answer() == {"expected": True, "limit": 10.0}
        result = session.answer()
        assert (result["base"], result["plus"]) == (verdict, None), name


def test_bigcodebench_lets_tests_patch(start):
    """Tests that replace a builtin for a while, as BigCodeBench's do, are no forgery."""
    session = start("bigcodebench")
    for solution, verdict in (
        ("    return sorted([x])[0] * 2\n", "pass"),
        ("    return 1\n", "fail"),
    ):
        session.send(
            "def f(x):\n" + solution,
            code_prompt="def f(x):",
            test="import unittest\nfrom unittest.mock import patch\n"
            "class TestCases(unittest.TestCase):\n"
            "    @patch('builtins.print')\n    @patch('builtins.sorted')\n"
            "    def test_one(self, replaced, _):\n        replaced.return_value = [1]\n"
            "        self.assertEqual(f(1), 2)\n",
        )
        assert session.answer() == {"expected": True, "limit": 243.0}
        assert session.answer()["base"] == verdict
