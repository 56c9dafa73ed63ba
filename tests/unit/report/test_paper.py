"""The paper's numbers through the code that draws the tables and the claims."""

import csv

import polars as pl
import pytest

from fgit.config import BASE, PUBLISHED, read_config
from fgit.lineage import Lineage
from fgit.published import read_published
from fgit.report.claims import claims_of
from fgit.report.results import SCHEMA, results_frame
from fgit.report.tables import draw_table
from tests.conftest import REPOSITORY

FILE = REPOSITORY / "workflow" / "paper" / "published.csv"
SEVEN = [f"table_{number}" for number in range(1, 8)]
AVERAGES = {  # as Tables VI and VII print them
    "table_6": [61.2, 62.3, 64.2],
    "table_7": [53.3, 54.1, 55.3, 55.2, 58.0, 56.8, 58.4, 58.4],
}
IMPROVEMENTS = {  # of the published means, to two digits
    "FGit over the base models": 4.82,
    "FGit over standard SFT": 4.88,
    "FGit on OSS-Instruct": 5.32,
    "FGit on PYX": 3.80,
    "FGit over CodeLlama-Instruct": 19.14,
    "FGit over DeepseekCoder-Instruct": 5.90,
    "FGit over DPO": 4.27,
    "both levels over the base model": 4.87,
    "line level over the base model": 2.89,
    "token level over the base model": 2.40,
}


@pytest.fixture(scope="module")
def config():
    read = read_config(REPOSITORY / "config.yaml")
    return read.model_copy(update={"published": str(FILE)})


@pytest.fixture(scope="module")
def printed():
    with FILE.open(encoding="utf-8") as file:
        return [row | {"value": float(row["value"])} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def tables(config, tmp_path_factory):
    """Each table from the numbers that it prints, as if they had been measured."""
    frame = results_frame(
        config, Lineage(tmp_path_factory.mktemp("empty")), {}, read_published(config)
    )
    return {name: draw_table(config, name, measured(frame, name)) for name in SEVEN}


def measured(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """The frame as it were if each run had scored what a table prints for it."""
    rows = []
    for row in frame.iter_rows(named=True):
        value = next((item["value"] for item in row["printed"] if item["table"] == table), None)
        if value is not None and row["status"] != "quoted":
            row |= {"status": "scored", "value": value, "low": value - 1, "high": value + 1}
            row |= {"n": 1000, "passed": round(10 * value), "log": None}
            row |= {"solved": [i < round(10 * value) for i in range(1000)]}
            row |= {"problems": row["benchmark"], "problems_sha256": "0" * 64, "sandbox": "bwrap"}
        rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def cells(drawn):
    """The cells by row and column."""
    return {
        (*line.row.key, column.heading): cell
        for line in drawn.lines
        for column, cell in zip(drawn.columns, line.cells, strict=True)
    }


@pytest.mark.parametrize("name", SEVEN)
def test_every_cell_is_what_the_paper_prints(tables, printed, name):
    by_place = cells(tables[name])
    of_table = [row for row in printed if row["table"] == name]
    of_table = [row for row in of_table if row["column"] != "average"]
    assert len(of_table) == sum(key[-1] != "avg" for key in by_place) > 0
    for row in of_table:
        cell = by_place[row["model"], row["dataset"] or None, row["method"], row["column"]]
        assert cell.published == row["value"]
        if row["method"] == PUBLISHED:
            assert (cell.status, cell.mean) == ("quoted", None)
        else:
            assert cell.text == f"{row['value']:.1f}"


@pytest.mark.parametrize("name", AVERAGES)
def test_the_averages_are_what_the_paper_prints(tables, name):
    averages = [line.cells[-1] for line in tables[name].lines]
    for kind in ("mean", "published"):
        # One is cut, not rounded, where the mean lies between two tenths.
        for cell, expected in zip(averages, AVERAGES[name], strict=True):
            assert abs(getattr(cell, kind) - expected) <= 0.0501, (kind, expected)


def test_the_claims_follow_from_the_tables(config, tables):
    claims = claims_of(config, tables)
    assert [item.claim for item in claims] == config.claims
    for item in claims:
        assert item.ours == pytest.approx(item.quoted)
        # Two are cut, not rounded.
        assert item.claim.published is not None
        rounded, cut = round(item.quoted, 1), int(10 * item.quoted) / 10
        assert item.claim.published in (rounded, cut), item
    figures = {item.claim.label: round(item.quoted, 2) for item in claims}
    assert {label: figures[label] for label in IMPROVEMENTS} == IMPROVEMENTS
    assert claims[-1].models == [
        "magicoder-s-cl",
        "magicoder-s-ds",
        "semcoder-s",
        "magicoder-ds",
        "semcoder",
        "codellama-instruct",
        "deepseekcoder-instruct",
    ]


def test_what_the_tables_print_differently_stays_different(tables):
    key = ("semcoder-s", "evol-instruct", "fgit", "humaneval")
    assert cells(tables["table_1"])[key].published == 83.5
    assert cells(tables["table_5"])[key].published == 82.9


def test_nothing_measured_leaves_the_claims_open(config, tmp_path):
    frame = results_frame(config, Lineage(tmp_path), {}, read_published(config))
    claims = claims_of(config, {name: draw_table(config, name, frame) for name in SEVEN})
    assert {item.ours for item in claims} == {None}
    assert None not in [item.quoted for item in claims]


def test_the_file_says_what_the_paper_says(shared_data, printed):
    path = shared_data.parent / "paper" / "published.csv"
    if not path.is_file():
        pytest.skip(f"not run: the paper's numbers are not at {path}")
    with path.open(encoding="utf-8") as file:
        original = list(csv.DictReader(file))
    tables = dict(zip(["I", "II", "III", "IV", "V", "VI", "VII"], SEVEN, strict=True))
    bases = {"none": {BASE, PUBLISHED}}
    assert len(original) == len(printed)
    for theirs, ours in zip(original, printed, strict=True):
        assert tables[theirs["table"]] == ours["table"]
        assert theirs["benchmark"] == ours["column"]
        assert float(theirs["pass_at_1"]) == ours["value"]
        assert ours["method"] in bases.get(theirs["method"], {theirs["method"]})
        assert theirs["dataset"].lower().startswith(ours["dataset"])
