"""Answers on disk: what is there after a kill is used, and nothing else."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgit.inference.answer_journal import AnswerJournal
from fgit.inference.requests import Answer

ANSWERS = [
    Answer(0, "zero \u2028 \ud800", 3, None, 0.5),
    Answer(2, "two\nlines", None, None, 0.0),
    Answer(1, "", 0, "prompt_too_long", 0.0),
]

LONGEST = 400  # bytes of their file, which holds measured seconds


def fill(folder, answers=ANSWERS, digest="d", promise="none", dtype="float32"):
    with AnswerJournal(folder, digest, 4) as journal:
        assert list(journal.keep(iter(answers), promise, dtype)) == list(answers)
    return journal


def read(folder, digest="d", count=4):
    with AnswerJournal(folder, digest, count) as journal:
        pass
    return journal


def test_answers_come_back_as_they_were(tmp_path):
    written = fill(tmp_path / "state" / "1")
    found = read(tmp_path / "state" / "1")
    assert found.answers == {answer.index: answer for answer in ANSWERS}
    assert found.seconds == round(written.seconds, 3)
    found.remove()
    assert not (tmp_path / "state").exists()


def test_another_shards_journal_stays(tmp_path):
    for name in "12":
        fill(tmp_path / "state" / name)
    read(tmp_path / "state" / "1").remove()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["2"]


def test_an_answer_is_in_the_file_before_the_next_is_waited_for(tmp_path):
    def answers():
        for answer in ANSWERS:
            yield answer
            line = (tmp_path / "answers.jsonl").read_text().splitlines()[-1]
            assert json.loads(line)["index"] == answer.index

    with AnswerJournal(tmp_path, "d", 4) as journal:
        assert len(list(journal.keep(answers(), "none", "float32"))) == len(ANSWERS)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, LONGEST),
    st.sampled_from([b"", b"\0" * 5, b"{}\n", b"\xff\xfe\n", b'{"index": 7}\n']),
)
def test_wherever_a_kill_tears_the_file_whole_lines_before_count(tmp_path, cut, torn):
    fill(tmp_path)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    assert len(whole) <= LONGEST
    path.write_bytes(whole[:cut] + torn)
    lines = whole[:cut].count(b"\n")
    kept = ANSWERS[: max(0, lines - 1)]
    assert read(tmp_path).answers == {answer.index: answer for answer in kept}
    rest = [answer for answer in ANSWERS if answer not in kept]
    fill(tmp_path, rest)
    assert read(tmp_path).answers == {answer.index: answer for answer in ANSWERS}
    path.unlink()


def test_answers_to_something_else_are_not_used(tmp_path, caplog):
    fill(tmp_path, digest="other")
    assert read(tmp_path).answers == {}
    assert "other prompts or by other settings; starting anew" in caplog.text
    assert (tmp_path / "answers.jsonl").stat().st_size == 0


@pytest.mark.parametrize("index", [4, -1, "1", None])
def test_an_index_that_no_request_has_ends_what_is_used(tmp_path, index):
    fill(tmp_path, ANSWERS[:1])
    entry = {"index": index, "text": "x", "tokens": 1, "refused": None, "cost": 0, "seconds": 1}
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    assert read(tmp_path).answers == {0: ANSWERS[0]}


def test_the_promises_of_all_processes_are_kept(tmp_path):
    fill(tmp_path, ANSWERS[:1], promise="batch_invariant")
    fill(tmp_path, ANSWERS[1:], promise="none")
    assert read(tmp_path).promises == ["batch_invariant", "none"]


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    def full(descriptor, line):
        raise OSError(28, "No space left on device")

    with AnswerJournal(tmp_path, "d", 4) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device.*answers\.jsonl"):
            list(journal.keep(iter(ANSWERS), "none", "float32"))


def test_what_dropped_answers_cost_stays(tmp_path):
    fill(tmp_path / "1").drop()
    found = read(tmp_path / "1")
    assert (found.answers, found.promises, found.spent) == ({}, [], 0.5)
    found = fill(tmp_path / "1", promise="batch_1")
    assert found.spent == read(tmp_path / "1").spent == 1.0
    assert found.promises == ["batch_1"]
    assert read(tmp_path / "1", digest="other").spent == 0


def test_nothing_is_left_of_dropped_answers_that_cost_nothing(tmp_path):
    fill(tmp_path / "1", ANSWERS[1:]).drop()
    assert not (tmp_path / "1").exists()


def test_who_gave_no_answer_promised_nothing(tmp_path):
    fill(tmp_path, [], promise="none")
    fill(tmp_path, promise="batch_1")
    assert read(tmp_path).promises == ["batch_1"]


def test_the_first_dtype_stays(tmp_path):
    assert read(tmp_path / "none").dtype is None
    fill(tmp_path, ANSWERS[:1], dtype="bfloat16")
    fill(tmp_path, ANSWERS[1:], dtype="float32")
    assert read(tmp_path).dtype == "bfloat16"
