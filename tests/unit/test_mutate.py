"""Mutants that are programs, differ in bytecode, and are drawn by the seed."""

import ast
import contextlib
import dis
import io
import json
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from universalmutator import mutator

from fgit import variants
from fgit.common.errors import UserError
from fgit.config import MutateSettings
from fgit.mutate import LONGEST_LINE, RULE_FILES, draw_mutants, mutants, mutate

PROGRAMS = [
    "def add(a, b):\n    return a + b\n",
    'def middle(xs):\n    """The middle one: xs[len(xs) // 2] == 1."""\n'
    "    # a comment with 1 + 1\n"
    "    for i in range(len(xs)):\n"
    "        if i == len(xs) // 2 and xs:\n"
    "            break\n"
    "    return xs[i]",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item=0, *, times=1):\n        self.items += [item] * times\n",
    "import math\r\n\r\nprint(math.sqrt(16) > 3.0)\r\n",
]


def disassembly(code: str) -> list[tuple]:
    """An independent reading: the instructions of all nested code objects, docstrings removed."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        match body:
            case [ast.Expr(value=ast.Constant(value=str())), _, *_]:
                del body[0]
    found = []
    pending = [compile(tree, "x", "exec")]
    while pending:
        program = pending.pop()
        found.append(
            (
                program.co_argcount,
                program.co_posonlyargcount,
                program.co_kwonlyargcount,
                program.co_varnames,
            )
        )
        for step in dis.get_instructions(program):
            nested = hasattr(step.argval, "co_code")
            found.append((step.opname, None if nested else repr(step.argval)))
            if nested:
                pending.append(step.argval)
    return found


def plain_mutants(code: str) -> list[str]:
    """Every mutant as a whole program, from universalmutator itself."""
    lines = [f"{line}\n" for line in code.split("\n")]
    with contextlib.redirect_stdout(io.StringIO()):
        found = mutator.mutants_regexp(lines, ruleFiles=RULE_FILES, ignorePatterns=[])
    return ["".join([*lines[: number - 1], new, *lines[number:]]) for number, new, *_ in found]


@pytest.mark.parametrize("code", PROGRAMS)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_draw_is_of_a_random_order_of_all_mutants(code, seed):
    code = variants.normalised(code)
    candidates = plain_mutants(code)
    random.Random(seed).shuffle(candidates)
    seen = {variants.bytecode(code), None}
    expected = []
    for mutant in map(variants.normalised, candidates):
        meaning = variants.bytecode(mutant)
        if meaning not in seen:
            seen.add(meaning)
            expected.append(mutant)
    assert draw_mutants(code, 4, seed)[0] == expected[:4]


def test_a_long_line_is_left_as_it_is():
    """Of one line of 5,000 numbers there are 50,000 mutants of 30,000 characters each."""
    data = f"data = [{', '.join(map(str, range(5000)))}]"
    chosen, _ = draw_mutants(f"{data}\nx = 1 + 2", 10_000, seed=0)
    assert chosen and all(mutant.startswith(f"{data}\n") for mutant in chosen)
    short = f"data = {'1' * (LONGEST_LINE - 8)}\n"
    assert len(short) == LONGEST_LINE
    assert mutants([short]) and not mutants(["1" + short])


@pytest.mark.parametrize("code", PROGRAMS)
def test_every_mutant_is_a_program_with_other_bytecode(code):
    code = variants.normalised(code)
    chosen, refused = draw_mutants(code, 10_000, seed=1)
    assert len(chosen) > 5
    assert len(chosen) + sum(refused.values()) == len(plain_mutants(code))
    seen = [disassembly(code), *map(disassembly, chosen)]
    assert all(one not in seen[:number] for number, one in enumerate(seen))
    for mutant in chosen:
        different = [a != b for a, b in zip(mutant.split("\n"), code.split("\n"), strict=False)]
        assert sum(different) == 1 or mutant.count("\n") != code.count("\n")


def test_the_draw_is_the_seeds_and_without_replacement():
    code = variants.normalised(PROGRAMS[1])
    assert draw_mutants(code, 3, 5) == draw_mutants(code, 3, 5)
    draws = {tuple(draw_mutants(code, 3, seed)[0]) for seed in range(8)}
    assert len(draws) > 4
    assert all(len(set(drawn)) == 3 for drawn in draws)
    assert draw_mutants(code, 3, 5)[0] == draw_mutants(code, 6, 5)[0][:3]


@settings(max_examples=60)
@given(st.text(alphabet=" \n\t\\abif:=+-*/(){}[]0123'\"#\r\f,.", max_size=60))
def test_any_program_can_be_mutated(code):
    code = variants.normalised(code)
    if variants.bytecode(code) is not None:
        for mutant in draw_mutants(code, 5, 0)[0]:
            compile(mutant, "x", "exec")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x  =  1  # one", True),
        ("def f():\n    'a'\n    return 1", "def f():\n\n    'b'\n    return 1", True),
        ("def f():\n    'a'", "def f():\n    pass", True),
        ("class A:\n    'a'\n    x = 1", "class A:\n    x = 1", True),
        ("'a'\nx = 1", "x = 1", True),
        ("x = (1 + 1)", "x = 2", True),
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("x = 0.0", "x = -0.0", False),
        ("x = (1, 2)", "x = (1, True)", False),
        ("y = x in {1, 2}", "y = x in {1, 3}", False),
        ("y = x in {1, 2}", "y = x in {True, 2}", False),
        ("x = y.a", "x = y.b", False),
        ("def f(a, b): return a", "def f(b, a): return a", False),
        ("def f(*, a): return a", "def f(a): return a", False),
        ("f = lambda: 1", "f = lambda: 2", False),
        ("x = 'a'", "x = b'a'", False),
        ("def f():\n    yield\n    return 1", "def f():\n    return 1", False),
    ],
)
def test_bytecode_tells_programs_apart(one, other, same):
    assert (variants.bytecode(one) == variants.bytecode(other)) is same


@pytest.mark.parametrize("code", ["return 1", "break", "def", "\x00", "(" * 500])
def test_what_is_no_program_has_no_bytecode(code):
    assert variants.bytecode(code) is None


def write_records(path, responses):
    pl.DataFrame(
        {
            "id": [f"s{number}" for number in range(len(responses))],
            "instruction": ["Do it."] * len(responses),
            "response": responses,
            "language": ["python"] * len(responses),
            "tests": pl.Series([None] * len(responses), dtype=pl.String),
        }
    ).write_parquet(path)
    return path


def test_the_stage_writes_variants_and_a_report(tmp_path, capsys):
    responses = [
        f"Code:\n```python\n{PROGRAMS[0]}```\n",
        "Words.",
        "```js\nlet x = 1;\n```",
        "```\npass\n```",
        PROGRAMS[3],
    ]
    records = write_records(tmp_path / "r.parquet", responses)
    for name in ("one", "two"):
        mutate(
            records,
            tmp_path / f"{name}.parquet",
            tmp_path / f"{name}.json",
            MutateSettings(variants=2, seed=3),
        )
    assert "MUTATING" not in capsys.readouterr().out
    frame = pl.read_parquet(tmp_path / "one.parquet")
    assert frame.equals(pl.read_parquet(tmp_path / "two.parquet"))
    assert frame.schema == pl.Schema(variants.VARIANT_COLUMNS)
    assert frame["id"].to_list() == ["s0", "s0", "s4", "s4"]
    assert frame["k"].to_list() == [0, 1, 0, 1]
    assert frame["code"].equals(frame["answer"]) and frame["refused"].null_count() == 4
    report = json.loads((tmp_path / "one.json").read_text())
    expected = {
        "samples": 5,
        "without_code": 1,
        "not_python": 1,
        "samples_with_variant": 2,
        "usable": 4,
    }
    assert {key: report[key] for key in expected} == expected
    assert report["mutants_tried"] == 4 + sum(report["refused"].values())


def test_processes_and_parts_change_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("fgit.common.processes.FEW", 500)
    names = "abcdefghij"
    programs = [
        f"def {a}({b}):\n    return {a} + {n}\n" for n in range(6) for a in names for b in names
    ]
    responses = [
        "Words." if number % 7 == 6 else program for number, program in enumerate(programs)
    ]
    assert len(responses) > 500 and "Words." in responses
    records = write_records(tmp_path / "r.parquet", responses)
    for threads in (1, 2):
        out = tmp_path / f"{threads}.parquet"
        mutate(records, out, out.with_suffix(".json"), MutateSettings(variants=1), threads)
    one, two = (tmp_path / f"{threads}.parquet" for threads in (1, 2))
    assert pl.read_parquet(one).equals(pl.read_parquet(two))
    reports = [json.loads(path.with_suffix(".json").read_text()) for path in (one, two)]
    assert reports[0] | {"seconds": 0} == reports[1] | {"seconds": 0}
    assert reports[0]["without_code"] == responses.count("Words.")
    expected = [
        (f"s{number}", draw_mutants(program.strip(), 1, variants.seed_of(0, f"s{number}", 0))[0][0])
        for number, program in enumerate(responses[:40])
        if program != "Words."
    ]
    assert list(pl.read_parquet(one).select("id", "code").iter_rows())[: len(expected)] == expected
    assert "MUTATING" not in capfd.readouterr().out


def test_an_id_that_stands_twice_is_named(tmp_path):
    frame = pl.read_parquet(write_records(tmp_path / "r.parquet", [PROGRAMS[0]] * 3))
    frame.with_columns(id=pl.Series(["a", "b", "a"])).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"r\.parquet, rows 1 and 3: the same id 'a' twice"):
        mutate(tmp_path / "r.parquet", tmp_path / "o", tmp_path / "o.json", MutateSettings())


def test_nothing_usable_is_an_error(tmp_path):
    records = write_records(tmp_path / "r.parquet", ["Words.", "```\npass\n```"])
    with pytest.raises(UserError, match=r"no usable mutant .* \(1 without code, 0 not Python; inv"):
        mutate(records, tmp_path / "o.parquet", tmp_path / "o.json", MutateSettings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.parquet"]


def test_real_solutions_have_mutants(shared_data):
    import gzip

    with gzip.open(shared_data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in file][:40]
    for problem in problems:
        chosen, _ = draw_mutants(problem["prompt"] + problem["canonical_solution"], 3, 0)
        assert chosen, problem["task_id"]
