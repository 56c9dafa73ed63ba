"""How far failing programs are from passing ones: the smallest edits, and what is counted."""

import gzip
import itertools
import json
import time

import Levenshtein
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.statistics import wilson
from fgit.failures import analysis as module
from fgit.failures.analysis import (
    BLANK,
    CANONICAL_SOURCE,
    CHANGED,
    EQUAL,
    FAILURE_SCHEMA,
    UNKNOWN,
    UNPARSABLE,
    RunPrograms,
    acting_lines,
    analyse,
    any_places,
    changed_lines,
    changes,
    distinct_passing,
    failure_figures,
    nearest,
    solved_only_by,
)

STATEMENTS = ["a = 1", "b = 2", "c = a + b", "print(c)", "if a:\n    b = 3"]
PROGRAMS = st.lists(st.sampled_from(STATEMENTS), max_size=7).map("\n".join)
FEW_LINES = st.lists(st.sampled_from("abc"), max_size=5).map(tuple)


def add(expression, name="add"):
    return f"def {name}(a, b):\n    total = {expression}\n    return total\n"


# ------------------------------------------------------------------ the smallest edit


def cheapest(before, after):
    """(lines, places) of the best of all alignments of equal lines: slow, and on its own."""
    best = None
    for size in range(min(len(before), len(after)) + 1):
        for left in itertools.combinations(range(len(before)), size):
            for right in itertools.combinations(range(len(after)), size):
                if any(before[i] != after[j] for i, j in zip(left, right, strict=True)):
                    continue
                ends = [(-1, -1), *zip(left, right, strict=True), (len(before), len(after))]
                gaps = [(c - a - 1, d - b - 1) for (a, b), (c, d) in itertools.pairwise(ends)]
                cost = sum(max(gap) for gap in gaps), sum(1 for gap in gaps if any(gap))
                best = cost if best is None else min(best, cost)
    return best


@given(FEW_LINES, FEW_LINES)
def test_no_alignment_has_fewer_lines_or_places(before, after):
    found = changed_lines(before, after)
    assert (found.lines, found.places) == cheapest(before, after)


@given(FEW_LINES, FEW_LINES)
def test_blocks_turn_one_side_into_the_other(before, after):
    for blocks in (changed_lines(before, after).blocks, any_places(before, after)):
        made, position = [], 0
        for a, b, c, d in blocks:
            assert (a, c) < (b, d) and (position == 0 or a > position)
            made += [*before[position:a], *after[c:d]]
            position = b
        assert tuple(made) + before[position:] == after


@given(FEW_LINES, FEW_LINES)
def test_the_form_for_long_programs_has_as_few_lines(before, after):
    lines = sum(max(b - a, d - c) for a, b, c, d in any_places(before, after))
    assert lines == changed_lines(before, after).lines


@given(PROGRAMS)
def test_a_program_needs_no_change_to_be_itself(program):
    found = changes(program, program)
    assert (found.lines, found.places, found.blocks) == (0, 0, ())


@given(PROGRAMS, PROGRAMS)
def test_both_directions_take_the_same(first, second):
    there, back = changes(first, second), changes(second, first)
    assert (there.lines, there.places) == (back.lines, back.places)


@given(PROGRAMS, PROGRAMS, PROGRAMS)
def test_a_detour_is_no_shorter(first, second, third):
    direct = changes(first, third).lines
    assert direct <= changes(first, second).lines + changes(second, third).lines


@given(PROGRAMS, st.data())
def test_comments_and_layout_do_not_count(program, data):
    lines = []
    for line in program.split("\n"):
        lines += data.draw(st.sampled_from([[], [""], ["# a comment"], ["    # deep", "   "]]))
        lines.append(line + data.draw(st.sampled_from(["", "  ", "  # why"])))
    assert changes(program, "\n".join(lines)).lines == 0


def test_docstrings_parentheses_and_quotes_do_not_count():
    plain = "class A:\n    def f(self):\n        return 'x'\n"
    dressed = (
        '"""A module."""\n\n\nclass A:\n    """A class."""\n    def f(self):\n'
        '        """A method."""\n        return ("x")  # done\n'
    )
    assert changes(plain, dressed).lines == 0
    assert changes("def f():\n    ...\n", 'def f():\n    """Later."""\n').lines == 0


def test_names_annotations_and_imports_count():
    assert changes("def f(a):\n    return a\n", "def f(b):\n    return b\n").lines == 2
    assert changes("def f(a):\n    return a\n", "def f(a: int):\n    return a\n").lines == 1
    assert changes("x = sqrt(2)\n", "from math import sqrt\nx = sqrt(2)\n").lines == 1


@pytest.mark.parametrize(
    ("before", "after", "lines", "places", "kept"),
    [
        ("abcd", "abxd", 1, 1, 0.75),
        ("abcd", "axyzd", 3, 1, 0.5),  # two lines become three
        ("abcd", "xbcy", 2, 2, 0.5),
        ("abcd", "abcdef", 2, 1, 1.0),  # lines that are added only
        ("abcd", "wxyz", 4, 1, 0.0),  # one place, but nothing of it stays
        ("abab", "ab", 2, 1, 0.5),  # not a place at each end
        ("", "ab", 2, 1, 0.0),
    ],
)
def test_lines_and_places(before, after, lines, places, kept):
    found = changed_lines(tuple(before), tuple(after))
    assert (found.lines, found.places, found.kept) == (lines, places, kept)


def test_programs_that_are_no_python_are_compared_as_text():
    found = changes("def f(:\n    return 1   \n\n", "def f():\n    return 1\n")
    assert (found.lines, found.places) == (1, 1)
    assert found.before == ("def f(:", "    return 1")


@pytest.mark.parametrize(
    "program",
    ["(" * 500, "-" * 50_000 + "1", "+".join("1" * 50_000), "\0", "x = '\\d'\n" * 3, "\ud800"],
)
def test_odd_programs_are_taken(program):
    assert changes(program, program).lines == 0
    assert changes(program, "y = 1\n").lines > 0


@pytest.mark.parametrize("count", [10_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_a_megabyte_is_compared_in_seconds(count):
    """And less in less."""
    long = "".join(f"x{number} = {number}\n" for number in range(count))
    started = time.monotonic()
    assert changes(long, add("a + b")).lines == count
    assert changes(long, long.replace("x7 =", "y7 =")).lines == 1
    assert changes(long, long.replace("1\n", "2\n")).lines == count // 10
    assert time.monotonic() - started < count / 1000


# ------------------------------------------------------------------ the nearest passing program


def test_the_nearest_is_by_lines_then_places_and_keeps_its_source():
    wrong = "a = 1\nb = 2\nc = 3\nd = 4\n"
    passing = {
        CANONICAL_SOURCE: "x = 0\n" * 9,
        "apart": "A = 1\nb = 2\nc = 3\nD = 4\n",
        "together": "a = 1\nB = 2\nC = 3\nd = 4\n",
        "further": "A = 1\nB = 2\nC = 3\nd = 4\n",
        "together too": "a = 1\nBB = 2\nCC = 3\nd = 4\n",
    }
    source, found = nearest(wrong, passing)
    assert (source, found.lines, found.places) == ("together", 2, 1)
    assert nearest(wrong, {}) is None


@given(PROGRAMS, st.lists(PROGRAMS, min_size=1, max_size=5))
def test_nothing_known_is_nearer_than_the_nearest(wrong, passing):
    source, found = nearest(wrong, {str(number): code for number, code in enumerate(passing)})
    every = [changes(wrong, code) for code in passing]
    assert (found.lines, found.places) == min((e.lines, e.places) for e in every)
    assert found == changes(wrong, passing[int(source)])


def test_analysis_has_a_row_for_each_failure():
    failing = {
        "near": add("a - b"),
        "broken": "def add(a, b:\n    total = a + b\n    return total\n",
        "equal": "# once more\n" + add("a + b"),
        "empty": "  \n# nothing\n",
        "alone": add("a - b"),
    }
    right = {CANONICAL_SOURCE: add("a + b")}
    found = analyse(failing, {task: right for task in failing if task != "alone"})
    assert dict(found.schema) == FAILURE_SCHEMA
    assert found["task_id"].to_list() == list(failing)
    assert found["status"].to_list() == [CHANGED, UNPARSABLE, EQUAL, BLANK, UNKNOWN]
    assert found["lines"].to_list() == [1, 1, 0, None, None]
    assert found["places"].to_list() == [1, 1, 0, None, None]
    assert found["kept"].to_list() == [pytest.approx(2 / 3)] * 2 + [1.0, None, None]
    assert found["nearest_source"].to_list() == [CANONICAL_SOURCE] * 3 + [None] * 2
    assert found["nearest_code"][0] == right[CANONICAL_SOURCE]


def test_the_summary_counts_each_case_where_it_belongs():
    anew = "".join(f"x{number} = 1\n" for number in range(9))
    failing = {"1": add("a - b"), "2": "", "3": add("a + b"), "4": anew, "5": "x = 1\n"}
    found = failure_figures(
        analyse(failing, {task: {CANONICAL_SOURCE: add("a + b")} for task in "1234"})
    )
    assert found["failures"] == 5
    assert found["statuses"] == {CHANGED: 2, UNPARSABLE: 0, EQUAL: 1, BLANK: 1, UNKNOWN: 1}
    # The rewritten program is one place, and not largely correct; the same one needs no change.
    assert (found["few_places"]["n"], found["few_places"]["of"]) == (2, 4)
    assert (found["few_places_largely_correct"]["n"], found["few_lines"]["n"]) == (1, 1)
    assert found["few_lines"]["interval"] == list(wilson(1, 4))
    assert found["distribution"] == {"places": {"1": 2}, "lines": {"1": 1, "9": 1}}


def test_the_summary_of_no_failures_has_no_share():
    found = failure_figures(analyse({}, {}))
    assert found["failures"] == 0
    assert found["few_lines"] == {"n": 0, "of": 0, "share": None, "interval": None}


def test_passing_programs_are_kept_once_under_their_first_source():
    runs = {
        "one": RunPrograms({"t": "# mine\n" + add("a + b"), "u": add("b + a")}, {}),
        "two": RunPrograms({"t": add("b + a")}, {"u": ""}),
    }
    found = distinct_passing({"t": add("a + b")}, runs)
    assert {task: list(sources) for task, sources in found.items()} == {
        "t": [CANONICAL_SOURCE, "two"],
        "u": ["one"],
    }


def test_what_one_run_solves_and_another_does_not():
    solver = RunPrograms({"1": add("b + a"), "2": add("a + b")}, {"3": "x"})
    other = RunPrograms({"2": add("a + b")}, {"1": "# no\n" + add("a - b", "plus"), "3": "y"})
    nearest_known = analyse(other.failing, {"1": {"third": add("a + b", "plus")}})
    row = solved_only_by(solver, other, nearest_known).row(0, named=True)
    assert row == {
        "task_id": "1",
        "status": CHANGED,
        "places": 1,
        "lines": 2,
        "kept": pytest.approx(1 / 3),
        "nearest_places": 1,
        "nearest_lines": 1,
        "nearest_source": "third",
    }
    assert solved_only_by(other, solver, analyse(solver.failing, {})).is_empty()


def test_thirty_runs_take_seconds():
    programs = {}
    for run in range(30):
        passing, failing = {}, {}
        for number in range(200):
            body = [f"    x{line} = {line * number}" for line in range(12)]
            body[run % 12] += f" + {run}"
            code = "def f(a):\n" + "\n".join(body) + "\n    return x1\n"
            (passing if (run + number) % 3 else failing)[f"t/{number}"] = code
        programs[str(run)] = RunPrograms(passing, failing)
    for cached in (module.acting_lines, module.text_lines, module.changed_lines):
        cached.cache_clear()
    started = time.monotonic()
    passing = distinct_passing({}, programs)
    frames = {run: analyse(mine.failing, passing) for run, mine in programs.items()}
    for run in programs:
        solved_only_by(programs[run], programs["0"], frames["0"])
    assert time.monotonic() - started < 30
    assert sum(frame.height for frame in frames.values()) == 2000


# ------------------------------------------------------------------ real programs


def read_rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_humanevalpack_bugs_are_small(shared_data):
    rows = read_rows(shared_data / "pairs" / "humanevalpack-python.jsonl.gz")
    buggy = {row["task_id"]: row["declaration"] + row["buggy_solution"] for row in rows}
    right = {row["task_id"]: row["declaration"] + row["canonical_solution"] for row in rows}
    found = analyse(buggy, {task: {CANONICAL_SOURCE: code} for task, code in right.items()})
    assert found["status"].unique().to_list() == [CHANGED]
    raw = sum(Levenshtein.distance(buggy[t].split("\n"), right[t].split("\n")) == 1 for t in buggy)
    assert raw == 138  # one line differs as the files stand
    assert int((found["lines"] == 1).sum()) == 140
    assert failure_figures(found)["few_lines"]["n"] == 163
    with_docstrings = {row["task_id"]: row["prompt"] + row["canonical_solution"] for row in rows}
    for task, code in with_docstrings.items():
        if acting_lines(code) == acting_lines(right[task]):
            assert changes(buggy[task], code) == changes(buggy[task], right[task])


def test_starcoder2_failures_beside_the_canonical_solutions(shared_data):
    samples = shared_data / "samples" / "starcoder2-15b-instruct-v0.1"
    recorded = json.loads((samples / "humaneval_eval_results.json").read_text("utf-8"))["eval"]
    failing = {
        task: rows[0]["solution"]
        for task, rows in recorded.items()
        if not rows[0]["base_status"] == rows[0]["plus_status"] == "pass"
    }
    problems = read_rows(shared_data / "evalplus" / "HumanEvalPlus-v0.1.9.jsonl.gz")
    canonical = {row["task_id"]: row["prompt"] + row["canonical_solution"] for row in problems}
    found = failure_figures(analyse(failing, distinct_passing(canonical, {})))
    assert found["failures"] == 60
    assert found["statuses"][CHANGED] == 60
    assert found["few_lines"]["n"] == 12
    assert found["few_places"]["n"] == 59  # most of them rewritten as a whole
    assert found["few_places_largely_correct"]["n"] == 10
