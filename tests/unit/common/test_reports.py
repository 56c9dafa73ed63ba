"""Reports: what is wrong in them is named, and they are written as they were given."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel

from fgit.common.errors import UserError
from fgit.common.reports import Bin, Count, Counts, Interval, Number, Report, having


class Entry(BaseModel):
    id: str
    share: Number | None


class Example(Report):
    stage = "select"

    samples: Count | None = None
    lost: Counts | None = None
    similarity: Annotated[dict[str, Number | None], having("mean")] | None = None
    distribution: list[Bin] | None = None
    entries: list[Entry] | None = None
    interval: Interval | None = None
    means: Annotated[dict[str, Number], having("nll", or_empty=True)] | None = None
    name: str | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "x.json: not a JSON object;"),
        ({"samples": True}, "x.json, key 'samples': Input should be a valid integer, not True;"),
        ({"samples": -1}, "key 'samples': Input should be greater than or equal to 0, not -1;"),
        ({"samples": 1.0}, "key 'samples': Input should be a valid integer, not 1.0;"),
        ({"samples": "ten"}, "key 'samples': Input should be a valid integer, not 'ten';"),
        ({"lost": 3}, "key 'lost': Input should be a valid dictionary, not 3;"),
        ({"lost": {"no_code": -1}}, "key 'lost.no_code': Input should be greater than or equal"),
        ({"similarity": {"mean": True}}, "key 'similarity.mean': Input should be a valid number"),
        ({"similarity": {"min": 1}}, "key 'similarity.mean': missing (it has: min);"),
        ({"means": {"p": 1}}, "key 'means.nll': missing (it has: p);"),
        ({"entries": {}}, "key 'entries': Input should be a valid list, not {};"),
        ({"entries": [3]}, "key 'entries[0]': Input should be a valid dictionary"),
        ({"entries": [{"id": "a"}]}, "key 'entries[0].share': missing (it has: id);"),
        ({"interval": [0.1]}, "key 'interval[1]': missing (it has: 0.1);"),
        ({"interval": 0.1}, "key 'interval': Input should be a valid tuple, not 0.1;"),
        ({"name": 3}, "key 'name': Input should be a valid string, not 3;"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(UserError) as caught:
        Example.of(Path("x.json"), values)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; run the select stage again")


@pytest.mark.parametrize(
    "value",
    [{}, [[0, 1]], [[0, 1, -1]], [[0, 1, 0.5]], [[1, 0, 2]], [["0", 1, 2]], [[0, True, 2]]],
)
def test_bins_are_checked(value):
    with pytest.raises(UserError, match=r"x\.json, key 'distribution"):
        Example.of(Path("x.json"), {"distribution": value})
    good = Example.of(Path("x.json"), {"distribution": [[0, 0.5, 3], [0.5, 1, 0]]})
    assert good.distribution == [(0, 0.5, 3), (0.5, 1, 0)]


def test_it_is_written_as_it_was_given(tmp_path):
    """With the keys that nothing reads, and whole numbers as such."""
    values = {"name": "x", "more": [1, 2.5], "distribution": [[0, 1, 2]], "samples": 3}
    values |= {"similarity": {"min": 1, "mean": None}, "device": "cpu", "means": {}}
    Example(**values).write(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text("utf-8")
    assert text == json.dumps(values, indent=2) + "\n"
    again = Example.read(tmp_path / "report.json")
    assert again.where == tmp_path / "report.json" and again.values == values


def test_a_stage_that_has_not_run_has_no_report(tmp_path):
    assert Example.find(tmp_path) is None
    with pytest.raises(UserError, match=r"report\.json: no such file"):
        Example.read(tmp_path / "report.json")
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"report\.json, line 1: not valid JSON"):
        Example.find(tmp_path)


def test_rows_are_reports(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"samples": 1, "more": 2}\n\n{"samples": 2}\n', encoding="utf-8")
    first, second = Example.read_rows(path)
    assert first.values == {"samples": 1, "more": 2} and second.samples == 2
    path.write_text('{"samples": 1}\n{"samples": -1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl, row 2, key 'samples': .* not -1; run the"):
        Example.read_rows(path)
    path.write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl, row 1: .* Run the select stage again"):
        Example.read_rows(path)
