"""Pairs of code: reading them, keeping them out of the data, fetching them, what ships."""

from __future__ import annotations

import copy
import gzip
import json
import sys
import types

import pytest

from fgit import fetch
from fgit.benchmarks.pairs import continuations
from fgit.benchmarks.problems import read_problems
from fgit.common.errors import UserError
from fgit.common.files import read_objects
from fgit.config import DecontaminateSettings
from fgit.decontaminate.stage import decontaminate
from tests.conftest import REPOSITORY
from tests.pairs import HEAD, HUMANEVALPACK, PAIR, PAIRS, PROMPT

QUICKSTART = REPOSITORY / "workflow" / "quickstart"


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def rows_of(path):
    return [row for _, row in read_objects(path)]


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", PAIRS)


# ------------------------------------------------------------------ reading pairs


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_reads_pairs_in_order(tmp_path, name):
    found = read_problems("pairs", write(tmp_path / name, PAIRS))
    assert list(found) == [pair["task_id"] for pair in PAIRS]
    assert found["T/0"] == PAIR


def test_blank_lines_around_code_do_not_count(tmp_path):
    odd = PAIR | {"correct": f"\n\n{PAIR['correct']}  \n\n", "incorrect": "  x = 1"}
    found = read_problems("pairs", write(tmp_path / "p.jsonl", [odd]))["T/0"]
    assert (found["correct"], found["incorrect"]) == (PAIR["correct"], "  x = 1\n")


def test_a_row_of_humanevalpack(tmp_path):
    found = read_problems("pairs", write(tmp_path / "p.jsonl", [HUMANEVALPACK]))["Python/0"]
    assert found == HUMANEVALPACK | {key: PAIR[key] for key in ("correct", "incorrect")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(
            ({k: v for k, v in PAIR.items() if k != field}, f"row 2: no field '{field}'")
            for field in PAIR
        ),
        *(
            ({k: v for k, v in HUMANEVALPACK.items() if k != field}, f"row 2: no field '{field}'")
            for field in ("task_id", "prompt", "declaration", "canonical_solution")
        ),
        (PAIR | {"correct": 3}, "row 2: 'correct' is not text: 3"),
        (PAIR | {"incorrect": " \n"}, "row 2: 'incorrect' is empty"),
        (PAIR | {"prompt": "\ud800"}, "row 2: 'prompt' holds a lone surrogate"),
        (HUMANEVALPACK | {"buggy_solution": None}, "row 2: 'buggy_solution' is not text"),
        (PAIR | {"task_id": "T/1", "incorrect": PAIR["correct"] + "\n"}, "of 'T/1' are the same"),
        (PAIR | {"task_id": "other"}, r"row 2: task_id 'other' is also in row 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", [PAIR | {"task_id": "other"}, row])
    with pytest.raises(UserError, match=message):
        read_problems("pairs", path)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (PROMPT, ("    return a + b\n", "    return a - b\n")),
        ("Add two numbers.", (PAIR["correct"], PAIR["incorrect"])),
        (HEAD, ("    return a + b\n", "    return a - b\n")),
    ],
)
def test_a_completion_goes_on_where_the_prompt_ends(prompt, expected):
    assert continuations(PAIR | {"prompt": prompt}) == expected


def test_humanevalpack_is_readable(shared_data):
    path = shared_data / "pairs" / "humanevalpack-python.jsonl.gz"
    found = read_problems("pairs", path)
    assert list(found) == [f"Python/{number}" for number in range(164)]
    for row in rows_of(path):
        pair = found[row["task_id"]]
        assert pair["correct"].rstrip() == (row["declaration"] + row["canonical_solution"]).strip()
        correct, incorrect = continuations(pair)
        assert row["canonical_solution"].rstrip() == correct.rstrip()
        assert row["buggy_solution"].rstrip() == incorrect.rstrip()


# ------------------------------------------------------------------ decontamination, fetching


def test_pairs_can_be_kept_out_of_training(pairs, tmp_path):
    data = tmp_path / "data.jsonl"
    long = "    total = first_number + second_number\n    return total * 1\n"
    held_out = write(
        tmp_path / "held_out.jsonl",
        [PAIR, PAIR | {"task_id": "T/1", "correct": HEAD + long}],
    )
    rows = [
        {"id": "description", "instruction": "Return the SUM of the two numbers that are given."},
        {"id": "solution", "instruction": "Add.", "response": f"```python\ndef f():\n{long}```"},
        {"id": "clean", "instruction": "Multiply two numbers."},
    ]
    write(data, [{"response": "ok", **row} for row in rows])
    report = tmp_path / "report.json"
    settings = DecontaminateSettings()
    decontaminate(str(data), {"pairs": held_out}, tmp_path / "o.parquet", report, settings)
    removed = json.loads(report.read_text())["removed"]
    assert {(entry["id"], entry["what"]) for entry in removed if entry["rule"] == "text"} == {
        ("description", "description"),
        ("solution", "solution"),
    }


def test_a_bad_pair_is_named_by_decontamination(tmp_path):
    bad = write(tmp_path / "bad.jsonl", [PAIR, PAIR | {"incorrect": 3}])
    data = write(tmp_path / "data.jsonl", [{"instruction": "x", "response": "y"}])
    with pytest.raises(UserError, match=r"bad\.jsonl, row 2: 'incorrect' is not text"):
        decontaminate(
            str(data), {"pairs": bad}, tmp_path / "o", tmp_path / "r", DecontaminateSettings()
        )


def test_humanevalpack_can_be_kept_out_of_training(shared_data, tmp_path):
    path = shared_data / "pairs" / "humanevalpack-python.jsonl.gz"
    problem = read_problems("pairs", path)["Python/1"]
    data = write(
        tmp_path / "data.jsonl",
        [
            {"instruction": problem["prompt"], "response": "no"},
            {"instruction": "x", "response": "y"},
        ],
    )
    report = tmp_path / "r.json"
    decontaminate(
        str(data), {"pack": path}, tmp_path / "o.parquet", report, DecontaminateSettings()
    )
    assert {entry["task_id"] for entry in json.loads(report.read_text())["removed"]} == {"Python/1"}


def test_humanevalpack_is_fetched_at_a_commit(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return [HUMANEVALPACK]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    out = tmp_path / "o.jsonl"
    fetch.fetch_benchmark("pairs", "release:humanevalpack/c0ffee", out)
    assert asked == [("bigcode/humanevalpack", "python", "test", "c0ffee")]
    assert list(read_problems("pairs", out)) == ["Python/0"]
    for problems in ("release:humanevalpack", "release:other/c0ffee", "release:v1"):
        with pytest.raises(UserError, match="only release:humanevalpack/COMMIT can be fetched"):
            fetch.fetch_benchmark("pairs", problems, out)
    with pytest.raises(UserError, match="kind tests have no releases"):
        fetch.fetch_benchmark("tests", "release:v1", out)


# ------------------------------------------------------------------ the quickstart's pairs


def runs_through(code, problem, expected):
    """Whether our own small program gives what is expected on the problem's inputs."""
    for arguments, value in expected:
        names: dict[str, object] = {}
        try:
            exec(code, names)
            found = names[problem["entry_point"]](*copy.deepcopy(arguments))
        except Exception:
            return False
        if problem["atol"] and isinstance(found, float):
            if abs(found - value) > problem["atol"]:
                return False
        elif found != value:
            return False
    return True


def test_the_quickstarts_pairs_are_correct_and_incorrect():
    problems = read_problems("humaneval", QUICKSTART / "benchmark.jsonl")
    pairs = read_problems("pairs", QUICKSTART / "pairs.jsonl")
    assert len(pairs) == 30
    seen = set()
    for task_id, pair in pairs.items():
        problem = problems[task_id.rpartition("-")[0]]
        seen.add(problem["task_id"])
        assert pair["prompt"] == problem["prompt"]
        assert continuations(pair)[0].rstrip() == problem["canonical_solution"].rstrip()
        names: dict[str, object] = {}
        exec(problem["prompt"] + problem["canonical_solution"], names)
        expected = [
            (arguments, names[problem["entry_point"]](*copy.deepcopy(arguments)))
            for arguments in problem["base_input"] + problem["plus_input"]
        ]
        assert runs_through(pair["correct"], problem, expected), task_id
        assert not runs_through(pair["incorrect"], problem, expected), task_id
        compile(pair["incorrect"], task_id, "exec")
        changed = {*pair["correct"].split("\n")} ^ {*pair["incorrect"].split("\n")}
        assert len(changed) <= 2, task_id  # one line
    assert len(seen) == len(pairs)


def test_the_quickstarts_pairs_are_not_in_its_training_data(tmp_path):
    """What decontamination against the benchmark leaves holds no text of the pairs."""
    report = tmp_path / "report.json"

    def clean(data, name):
        out = tmp_path / f"{name}.parquet"
        path = QUICKSTART / f"{name}.jsonl"
        decontaminate(str(data), {name: path}, out, report, DecontaminateSettings())
        return out, json.loads(report.read_text())["removed_count"]

    out, removed = clean(QUICKSTART / "instructions.jsonl", "benchmark")
    assert removed == 5
    assert clean(out, "pairs")[1] == 0
    assert clean(QUICKSTART / "instructions.jsonl", "pairs")[1] == 3
