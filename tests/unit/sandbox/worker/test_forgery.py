"""Which programs are looked at more closely."""

from __future__ import annotations

import pytest

from fgit.benchmarks.problems import read_problems
from fgit.sandbox.worker.forgery import suspicion

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
