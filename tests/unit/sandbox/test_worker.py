"""The worker: its protocol, which programs it looks at more closely, and what counts as output."""

from __future__ import annotations

import collections
import gzip
import io
import json
import math
import pickle
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fgit.benchmarks.problems import read_problems
from fgit.sandbox import worker
from fgit.sandbox.box import Box, Limits, choose
from fgit.sandbox.worker import PlainPickler, PlainUnpickler, empty, player, suspicion

WORKER = Path(worker.__file__)


# ------------------------------------------------------------------ programs that are looked at

HARMLESS = {
    "arithmetic": "def f(x):\n    return x * 2 + 1\n",
    "imports": "import math, re\nfrom collections import Counter, defaultdict\n"
    "from typing import List, Optional\nimport itertools as it\n"
    "def f(x: List[int]) -> Optional[int]:\n    return math.gcd(*x) + len(list(it.chain(x)))\n",
    "everything-of-math": "from math import *\ndef f(x): return floor(sqrt(x))\n",
    "format": "def f(x): return '{} {:>3} {name}'.format(x, 1, name=2) + f'{x!r:>{3}}'\n",
    "type-of-one": "def f(x): return type(x) is int and isinstance(x, int)\n",
    "class": "class Node:\n    def value(self): return self._value()\n"
    "    def _value(self): return 1\ndef f(x): return Node().value()\n",
    "exception": "class Bad(ValueError):\n    pass\ndef f(x):\n    try: raise Bad('x')\n"
    "    except (Bad, KeyError) as error: return str(error)\n",
    "main": "def f(x): return x\nif __name__ == '__main__':\n    print(f(1))\n",
    "generator": "def f(x):\n    return sorted(set(y for y in x if y), key=lambda y: -y)[:3]\n",
    "match": "def f(x):\n    match x:\n        case [a, *_]: return a\n        case _: return x\n",
}
SUSPICIOUS = {
    "no-python": "def f(x:\n",
    "null": "def f(x): return x  # \0\n",
    "dunder": "def f(x): return x.__class__\n",
    "dunder-name": "def f(x): return __builtins__\n",
    "dunder-text": "def f(x): return '__eq__'\n",
    "dunder-bytes": "def f(x): return b'__eq__'\n",
    "special-method": "class A:\n    def __eq__(self, other): return True\n",
    "special-name": "class A:\n    __eq__ = lambda self, other: True\n",
    "special-class": "class A:\n    class __eq__:\n        def __init__(self, x): pass\n",
    "special-import": "class A:\n    from itertools import repeat as __eq__\n",
    "special-exception": "class A:\n    try: x\n    except ValueError as __eq__: pass\n",
    "special-capture": "class A:\n    match 1:\n        case __eq__: pass\n",
    "special-star": "class A:\n    match [1]:\n        case [*__eq__]: pass\n",
    "special-rest": "class A:\n    match {}:\n        case {**__eq__}: pass\n",
    "special-global": "def f():\n    global __builtins__\n",
    "special-argument": "def f(__class__): pass\n",
    "base": "class A(int): pass\n",
    "base-of-a-call": "class A(type(1)): pass\n",
    "metaclass": "class A(metaclass=type): pass\n",
    "made-class": "A = type('A', (int,), {})\n",
    "type-as-a-value": "make = type\n",
    "type-with-star": "def f(x): return type(*x)\n",
    "getattr": "def f(x): return getattr(x, 'y')\n",
    "getattr-as-a-value": "def f(x): return list(map(getattr, x))\n",
    "eval": "def f(x): return eval(x)\n",
    "open": "def f(x): return open(x)\n",
    "globals": "def f(x): return globals()\n",
    "locals": "class A:\n    locals()['x'] = 1\n",
    "module": "import sys\n",
    "module-within": "def f(x):\n    import os.path\n",
    "numpy": "import numpy as np\n",
    "relative": "from . import x\n",
    "part": "from functools import update_wrapper\n",
    "part-of": "import functools\ndef f(x): return functools.update_wrapper(x, x)\n",
    "all-parts": "from operator import *\n",
    "module-of-a-module": "import re\ndef f(x): return re.enum\n",
    "module-of-a-random": "from random import _os\n",
    "module-as-a-value": "import math\nself = math\n",
    "module-as-an-argument": "import math\ndef f(x): return vars_of(math)\n",
    "module-named-self": "import random as self\ndef f(x): return self._os\n",
    "assigns": "import math\nmath.pow = lambda a, b: 0\n",
    "assigns-in-a-loop": "import math\nfor math.pow in [1]: pass\n",
    "assigns-to-self": "class A:\n    def f(self): self.pow = 1\n",
    "deletes": "def f(x): del x.y\n",
    "generator-frame": "def f(x): return x.gi_frame\n",
    "frame": "def f(x): return x.f_back\n",
    "traceback": "def f(x): return x.tb_next\n",
    "private": "def f(x): return x._y\n",
    "format-of-a-name": "def f(x): return x.format(x)\n",
    "format-with-attributes": "def f(x): return '{0.y}'.format(x)\n",
    "format-with-items": "def f(x): return '{0[y]}'.format(x)\n",
    "format-with-formats": "def f(x): return '{0:{1}}'.format(x, x)\n",
    "format-as-a-value": "make = '{}'.strip().format\n",
    "format-map": "def f(x): return '{}'.format_map(x)\n",
    "matches-attributes": "def f(x):\n    match x:\n        case object(y=z): return z\n",
    "unicode-name": "def f(x): return x._\uff3fclass\uff3f\uff3f\n",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_plain_program_is_not_suspicious(name):
    assert suspicion(HARMLESS[name]) == ""


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_a_program_that_could_forge_is_suspicious(name):
    assert suspicion(SUSPICIOUS[name])


def test_a_very_deep_program_is_suspicious():
    assert suspicion("x = " + "(" * 5000 + ")" * 5000) and suspicion("x = " + "-" * 100_000 + "1")


def test_few_canonical_solutions_are_suspicious(shared_data):
    """The closer look takes time: it must stay the exception."""
    for kind, name in (
        ("humaneval", "HumanEvalPlus-v0.1.10.jsonl.gz"),
        ("mbpp", "MbppPlus-v0.2.0.jsonl.gz"),
    ):
        problems = read_problems(kind, shared_data / "evalplus" / name)
        programs = [item["prompt"] + item["canonical_solution"] for item in problems.values()]
        found = [reason for reason in map(suspicion, programs) if reason]
        assert len(found) / len(programs) < 0.02, found


# ------------------------------------------------------------------ outputs as plain data


class Everything(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __int__(self) -> int:
        return 99

    def __reduce__(self):
        return print, ("called",)


class Point(NamedTuple):
    x: int
    y: int


class Items(list):
    def __iter__(self):
        return iter([99])

    def __eq__(self, other: object) -> bool:
        return True


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "other"


def there_and_back(value):
    file = io.BytesIO()
    PlainPickler(file, protocol=4).dump(value)
    return PlainUnpickler(io.BytesIO(file.getvalue())).load()


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (Everything(3), 3),
        ([Everything(3), {Everything(1): Everything(2)}], [3, {1: 2}]),
        (Items([1, 2]), [1, 2]),
        (Text("text"), "text"),
        (Point(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        ({"a": 1}.keys(), {"a"}),
        ({"a": 1}.items(), {("a", 1)}),
        (True, True),
        (None, None),
        (1 + 2j, 1 + 2j),
        (range(3), range(3)),
        ({1, 2}, {1, 2}),
        (frozenset({1}), frozenset({1})),
        (b"bytes", b"bytes"),
        (Fraction(1, 3), Fraction(1, 3)),
        (collections.deque([1]), collections.deque([1])),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
    ],
)
def test_an_output_becomes_plain(value, seen):
    found = there_and_back(value)
    assert repr(found) == repr(seen) or (found == seen and isinstance(value, np.generic))
    assert type(found).__module__ != __name__


def test_arrays_and_odd_floats_stay():
    found = there_and_back([np.arange(3), float("-0.0"), float("nan")])
    assert (found[0] == np.arange(3)).all()
    assert math.copysign(1, found[1]) == -1 and math.isnan(found[2])


@pytest.mark.parametrize("value", [print, Path("x"), object(), io.StringIO(), np.allclose])
def test_what_is_no_data_is_not_loaded(value):
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        there_and_back(value)


def test_outputs_are_played_in_their_order():
    recorded = gzip.compress(b"".join(pickle.dumps(value) for value in (1, [2], "3")))
    play = player(recorded)
    assert [play("any"), play(), play(1, 2)] == [1, [2], "3"]
    with pytest.raises(EOFError):
        play()


# ------------------------------------------------------------------ the protocol


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
        job = {
            "problem": problem | changes,
            "solution": solution,
            "min_time_limit": 1.0,
            "gt_time_limit_factor": 4.0,
        }
        assert self.process.stdin is not None
        pickle.dump(job, self.process.stdin)
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


# ------------------------------------------------------------------ after a solution


def test_emptying_a_folder_keeps_what_stood_there(tmp_path):
    (tmp_path / "stands/inner").mkdir(parents=True)
    (tmp_path / "stands/inner/left").touch()
    (tmp_path / "gone/deep/deeper").mkdir(parents=True)
    (tmp_path / "gone/deep/deeper/file").touch()
    keep = frozenset({tmp_path / "stands", tmp_path / "stands/inner"})
    empty(tmp_path, keep)
    assert set(tmp_path.rglob("*")) == keep


def test_emptying_a_very_deep_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").touch()
    for _ in range(2000):
        Path("x" * 20).mkdir()
        monkeypatch.chdir("x" * 20)
    Path("link").symlink_to(tmp_path / "victim")
    monkeypatch.chdir(tmp_path)
    empty(tmp_path, frozenset({tmp_path / "victim"}))
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
