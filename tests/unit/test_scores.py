"""A score folder: what is written is what is read, and what is not as it should be is named."""

import json
import re

import polars as pl
import pytest

from fgit.common.errors import UserError
from fgit.common.files import write_json, write_parquet
from fgit.scores import Score, read_evaluation, read_summary, write_summary
from tests.results_folder import score_summary


def test_a_summary_is_written_as_it_was_given(tmp_path):
    values = {"seconds": 1.5, "later": {"key": 1}, **score_summary("humaneval", 10, 6, 4)}
    write_summary(tmp_path, values)
    assert list(json.loads((tmp_path / "summary.json").read_text("utf-8"))) == list(values)
    summary = read_summary(tmp_path)  # what a later version adds does not matter
    assert (summary.n, summary.seconds, summary.one_bos) == (10, 1.5, None)
    assert summary.of(10) == {
        "base": Score(10, 6, *values["interval"]["base"]),
        "plus": Score(10, 4, *values["interval"]["plus"]),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": None}, ", key 'interval': Input should be"),
        ({"sandbox": None}, ": sandbox: null, though programs of kind humaneval were run"),
        ({"interval": {"base": [0.1, 0.7], "plus": None}}, ": interval.plus: null, though pass@1"),
        ({"ground_truth": {"passing": 1.0}}, ", key 'ground_truth.failing': missing"),
        ({"one_bos": {"pass@1": {"base": 0.5}}}, ", key 'one_bos.pass@1.plus': missing"),
    ],
)
def test_what_is_wrong_in_a_summary_is_named(tmp_path, changes, message):
    path = tmp_path / "summary.json"
    write_json(path, score_summary("humaneval", 10, 6, 4) | changes)
    again = re.escape(f"{path}{message}") + ".*; run the score stage again$"
    with pytest.raises(UserError, match=again):
        read_summary(tmp_path)


def test_an_older_layout_and_what_is_no_object_are_refused(tmp_path):
    path = tmp_path / "summary.json"
    old = score_summary("humaneval", 10, 6, 4)
    del old["interval"]
    write_json(path, old)
    with pytest.raises(UserError, match=r"key .interval.: missing .*; run the score stage again"):
        read_summary(tmp_path)
    write_json(path, [1])
    with pytest.raises(UserError, match="not a JSON object; run the score stage again"):
        read_summary(tmp_path)


def test_outcomes_must_be_those_of_the_summary(tmp_path):
    write_summary(tmp_path, score_summary("tests", 2, 1))
    rows = {"task_id": ["a", "b"], "base_pass": [True, True], "plus_pass": [None, None]}
    frame = pl.DataFrame(rows)
    write_parquet(tmp_path / "outcomes.parquet", frame)
    with pytest.raises(UserError, match=r"no column solution .*; run the score stage again"):
        read_evaluation(tmp_path)
    write_parquet(tmp_path / "outcomes.parquet", frame.with_columns(solution=pl.lit("pass")))
    with pytest.raises(UserError, match=r"2 of 2 problems pass the base tests, but .*says 1 of 2"):
        read_evaluation(tmp_path)
