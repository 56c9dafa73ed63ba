"""The score of pairs: how often the correct code is the more probable one."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.common.files import write_jsonl
from fgit.common.statistics import paired_bootstrap, wilson
from fgit.score.preferences import score_pairs
from tests.pairs import PAIRS


def write(path, rows):
    write_jsonl(path, rows)
    return path


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", PAIRS)


MEASURED = [(0.9, 0.5), (0.4, 0.4), (0.3, 0.6), (0.2, 0.1), (None, None)]


def measured(values=MEASURED):
    return [
        {
            "task_id": pair["task_id"],
            "p_correct": correct,
            "p_incorrect": incorrect,
            "not_compared": "cut" if correct is None else None,
        }
        for pair, (correct, incorrect) in zip(PAIRS, values, strict=True)
    ]


def test_score(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured()[::-1])
    score_pairs("pairs", pairs, samples, tmp_path / "out")
    frame = pl.read_parquet(tmp_path / "out/outcomes.parquet")
    assert frame["task_id"].to_list() == [pair["task_id"] for pair in PAIRS]
    assert frame["prefers"].to_list() == [True, False, False, True, False]  # a tie is none
    assert set(frame.columns).isdisjoint({"base_pass", "plus_pass"})  # nothing was tested
    assert frame["solution"].to_list() == [pair["correct"] for pair in PAIRS]
    assert frame.select("p_correct", "p_incorrect").rows() == MEASURED
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["n"] == 5
    assert summary["pass@1"] == {"base": 0.4, "plus": None}
    assert summary["interval"] == {"base": list(wilson(2, 5)), "plus": None}
    mean, low, high = paired_bootstrap([0.9, 0.4, 0.3, 0.2], [0.5, 0.4, 0.6, 0.1])
    assert summary["gap"] == {"mean": mean, "interval": [low, high], "n": 4}
    assert math.isclose(mean, 0.05)
    assert summary["not_compared"] == {"cut": 1}
    assert summary["statuses"] == {"base": {"fail": 3, "pass": 2}, "plus": None}


def test_nothing_compared_has_no_gap(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured([(None, None)] * 5))
    score_pairs("pairs", pairs, samples, tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["n"], summary["gap"], summary["pass@1"]["base"]) == (5, None, 0.0)


def changed(index, **change):
    return [row | change if i == index else row for i, row in enumerate(measured())]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            changed(1, task_id="T/9"),
            r"row 2: there is no problem 'T/9' \(the benchmark has T/0, T",
        ),
        (changed(1, task_id="T/0"), r"row 2: a second sample of 'T/0' \(the first is in row 1\)"),
        (changed(1, task_id=4), "row 2: 'task_id' is 4, not text"),
        (changed(1, p_correct=1.5), "row 2, T/1: 'p_correct' is 1.5, not a probability"),
        (changed(1, p_correct=math.nan), "row 2, T/1: 'p_correct' is nan, not a probability"),
        (changed(1, p_incorrect=True), "'p_incorrect' is True, not a probability"),
        (changed(1, p_incorrect=None), "'p_incorrect' is None, not a probability"),
        (changed(1, not_compared="lost"), "'not_compared' is 'lost', not one of prompt_too_long"),
        (changed(0, not_compared="cut"), "'p_correct' is 0.9, but 'not_compared' is cut"),
        (
            measured()[:3],
            "2 of 5 problems have no sample: T/3, T/4; evaluate the model on",
        ),
        (
            [{"task_id": "T/0", "solution": "x"}, *measured()[1:]],
            r"row 1, T/0: no 'p_correct' \(it has: task_id",
        ),
    ],
)
def test_bad_samples_are_named(pairs, tmp_path, rows, message):
    samples = write(tmp_path / "samples.jsonl", rows)
    with pytest.raises(UserError, match=message):
        score_pairs("pairs", pairs, samples, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_digest_is_checked(pairs, tmp_path):
    samples = write(tmp_path / "samples.jsonl", measured())
    with pytest.raises(UserError, match="SHA-256"):
        score_pairs("pairs", pairs, samples, tmp_path / "out", sha256="0" * 64)
