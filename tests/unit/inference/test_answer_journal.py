"""Answers on disk: what is there after a kill is used, wherever it lies, and paid for once."""

import json
import os

import pytest

from fgit.common.errors import UserError
from fgit.common.journal import checked
from fgit.inference.answer_journal import AnswerJournal, Share
from fgit.inference.requests import Answer, Attempt

ANSWERS = [
    Answer(0, "zero \u2028 \0", 3, None, 0.5),
    Answer(2, "two\nlines", None, None, 0.0),
    Answer(1, "", 0, "prompt_too_long", 0.0),
]
KEYS = ["a", "b", "c", "d"]
ALONE = Share("../records.parquet", 1, 1)


def fill(folder, answers=ANSWERS, promise="none", dtype="float32", share=ALONE, keys=KEYS):
    with AnswerJournal(folder, keys, share) as journal:
        kept = list(journal.keep(iter(answers), promise, dtype))
        assert kept == [answer for answer in answers if isinstance(answer, Answer)]
    return journal


def read(folder, keys=KEYS, share=ALONE, dtype=None):
    with AnswerJournal(folder, keys, share, dtype) as journal:
        return journal


def test_answers_come_back_as_they_were(tmp_path):
    written = fill(tmp_path / "state" / "1")
    again = read(tmp_path / "state" / "1")
    assert again.answers == {answer.index: answer for answer in ANSWERS}
    assert again.seconds == pytest.approx(written.seconds)
    assert (again.spent, again.dtype, again.promises) == (0.5, "float32", ["none"])


def test_answers_of_an_earlier_version_are_not_paid_for_again(tmp_path):
    path = tmp_path / "1/answers.jsonl"
    path.parent.mkdir()
    path.write_text(text := '{"digest": "ef2b", "same_text": "none", "dtype": "auto"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl: answers in the form of an earlier"):
        read(tmp_path / "1")
    assert path.read_text() == text


def test_a_lone_surrogate_is_replaced_before_it_is_kept(tmp_path):
    with AnswerJournal(tmp_path / "1", KEYS, ALONE) as journal:
        [answer] = journal.keep(iter([Answer(0, "\ud800 é", 1)]), "none", None)
    assert answer.text == read(tmp_path / "1").answers[0].text == "? é"


def test_an_answer_is_in_the_file_before_the_next_is_waited_for(tmp_path):
    def answers():
        for answer in ANSWERS:
            yield answer
            line = (tmp_path / "1" / "answers.jsonl").read_text().split("\n")[-2]
            assert json.loads(line)["key"] == KEYS[answer.index]

    with AnswerJournal(tmp_path / "1", KEYS, ALONE) as journal:
        assert len(list(journal.keep(answers(), "none", "float32"))) == len(ANSWERS)


def test_an_answer_is_there_for_whoever_makes_the_same_request(tmp_path, caplog):
    caplog.set_level("INFO")
    fill(tmp_path / "1")
    again = read(tmp_path / "1", ["new", "c", "a"])
    assert {index: answer.text for index, answer in again.answers.items()} == {
        2: ANSWERS[0].text,
        1: ANSWERS[1].text,
    }
    assert "which stay there for these: 1" in caplog.text
    elsewhere = read(tmp_path / "another-name", ["c"])  # another shard, or another --out
    assert elsewhere.answers[0].text == ANSWERS[1].text
    assert read(tmp_path / "1").answers.keys() == {0, 1, 2}  # of the first settings


@pytest.mark.parametrize(
    ("share", "spent"),
    [
        (ALONE, 8 + 3),
        (Share(ALONE.records, 1, 2), 8 / 2 + 1),
        (Share(ALONE.records, 2, 2), 8 / 2 + 2),
        (Share(ALONE.records, 3, 4), (8 + 3) / 4),
        (Share("others.parquet", 1, 1), 0),
    ],
)
def test_what_was_spent_counts_for_good(tmp_path, share, spent):
    """However the records are cut later, and whatever is asked."""
    fill(tmp_path / "v", [Answer(0, "x", 1, None, 8.0)])
    for shard in (1, 2):
        share_of_two = Share(ALONE.records, shard, 2)
        answer = Answer(0, "x", 1, None, float(shard))
        fill(tmp_path / f"{shard}-of-2", [answer], share=share_of_two, keys=[str(shard)])
    assert read(tmp_path / "new", ["other"], share).spent == spent
    shards = share.shards
    everywhere = [Share(share.records, n, shards) for n in range(1, shards + 1)]
    total = sum(read(tmp_path / f"x{one.shard}", ["o"], one).spent for one in everywhere)
    assert total == (11 if spent else 0)
    # What was spent for an output counts under another name of the records too.
    assert read(tmp_path / "v", KEYS, Share("moved.parquet", 1, 1)).spent == 8


def test_an_attempt_that_failed_is_paid_for_too(tmp_path):
    fill(tmp_path / "1", [Attempt(1, 0.25), ANSWERS[0], Attempt(1, 0.25), Attempt(3, 0.25)])
    again = read(tmp_path / "1")
    assert again.spent == 1.25 and again.answers == {0: ANSWERS[0]}
    fill(tmp_path / "1", [Answer(3, "late", 1, None, 1.0)])
    assert read(tmp_path / "1").answers.keys() == {0, 3}


def test_the_promises_of_all_processes_are_kept(tmp_path):
    fill(tmp_path / "1", ANSWERS[:1], promise="batch_invariant")
    fill(tmp_path / "1", ANSWERS[1:], promise="none")
    assert read(tmp_path / "1").promises == ["batch_invariant", "none"]
    assert read(tmp_path / "1", ["a"]).promises == ["batch_invariant"]


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    def full(descriptor, line):
        raise OSError(28, "No space left on device")

    with AnswerJournal(tmp_path / "1", KEYS, ALONE) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device.*answers\.jsonl"):
            list(journal.keep(iter(ANSWERS), "none", "float32"))


def test_what_dropped_answers_cost_stays(tmp_path):
    fill(tmp_path / "1").drop()
    again = read(tmp_path / "1")
    assert (again.answers, again.promises, again.spent) == ({}, [], 0.5)
    again = fill(tmp_path / "1", promise="batch_1")
    assert again.spent == read(tmp_path / "1").spent == 1.0
    assert again.promises == ["batch_1"]


def test_who_gave_no_answer_promised_nothing(tmp_path):
    fill(tmp_path / "1", [], promise="none")
    fill(tmp_path / "1", promise="batch_1")
    assert read(tmp_path / "1").promises == ["batch_1"]


def test_answers_are_of_one_dtype(tmp_path):
    assert read(tmp_path / "none").dtype is None
    fill(tmp_path / "1", ANSWERS[:2], dtype="bfloat16")
    fill(tmp_path / "1", ANSWERS[1:2], dtype="float32")
    auto = read(tmp_path / "1")
    assert auto.dtype == "bfloat16" and auto.answers.keys() == {0, 2}
    for dtype, there in (("bfloat16", {0, 2}), ("float32", {2})):
        named = read(tmp_path / "1", dtype=dtype)
        assert named.answers.keys() == there and named.dtype == dtype
    assert read(tmp_path / "1", ["b"], dtype="float32").dtype is None


@pytest.mark.parametrize(
    "values",
    [
        {"cost": -1},
        {"cost": None},
        {"cost": True},
        {"cost": "0.5"},
        {"seconds": -0.1},
        {"tokens": -1},
        {"tokens": 2.5},
        {"text": 7},
        {"text": ["x"]},
        {"text": {"type": "text"}},
        {"shards": 0},
        {"key": None},
        {"refused": 1},
        {"records": None},
        {"another": 1},
    ],
)
def test_an_entry_of_wrong_types_is_not_used(tmp_path, caplog, values):
    """Even where its checksum is right, and it would defeat the cap."""
    fill(tmp_path / "1", ANSWERS[:1])
    path = tmp_path / "1" / "answers.jsonl"
    entry = json.loads(path.read_text()) | {"key": "b"} | values
    del entry["crc32"]
    rest = json.dumps(entry).encode()[1:]
    with path.open("ab") as file:
        file.write(checked(rest) + rest + b"\n")
    again = read(tmp_path / "1")
    assert again.answers == {0: ANSWERS[0]} and again.spent == 0.5
    assert "not used: 1" in caplog.text
