"""Claims: relative improvements that tables yield."""

import csv
import dataclasses
import io
import math
import types

import pytest

from fgit.config import Claim, Row, Table
from fgit.report import claims
from fgit.report.tables import Cell, Column, Drawn, Line
from fgit.scores import Score

COLUMNS = [Column(name, name, "base", "evalplus") for name in ("one", "two")]
CLAIM = Claim(label="better | & <best>", tables=["t"], of="fgit", over="base", published=4.8)


def cell(ours, published):
    scores = [] if ours is None else [(0, Score(1000, 700, 0.6, 0.8))]
    status = "pending" if ours is None else "scored"
    return Cell(mean=ours, published=published, scores=scores, status=status)


def drawn(rows, columns=COLUMNS):
    """A table of rows (model, dataset, method, ours, published)."""
    lines = [
        Line(
            "",
            Row(model=model, dataset=dataset, method=method),
            [cell(a, b) for a, b in zip(ours, published, strict=True)],
            {},
            "1",
        )
        for model, dataset, method, ours, published in rows
    ]
    table = Table(caption="c", columns=["one", "two"], rows=[line.row for line in lines])
    return Drawn(table, list(columns), lines, False, [], [], [])


A = [
    ("a", None, "base", (50.0, 30.0), (40.0, 40.0)),
    ("a", "d", "fgit", (55.0, 33.0), (42.0, 42.0)),
]
B = [
    ("b", None, "base", (20.0, 20.0), (10.0, 30.0)),
    ("b", "d", "fgit", (24.0, 24.0), (11.0, 31.0)),
]


def test_the_improvement_is_that_of_the_means():
    # Not the mean of the columns' improvements, which were 20 and 0 percent.
    assert claims.relative_improvement([60.0, 10.0], [50.0, 10.0]) == pytest.approx(100 / 6)
    with pytest.raises(ZeroDivisionError):
        claims.relative_improvement([1.0], [0.0])


def test_a_claim_is_the_mean_over_the_models():
    result = claims.claimed(CLAIM, [drawn(A + B)])
    assert result.models == ["a", "b"]
    assert result.ours == pytest.approx((10 + 20) / 2)
    assert result.quoted == pytest.approx((5 + 5) / 2)
    assert (result.claim.label, result.claim.published) == ("better | & <best>", 4.8)


def test_a_claim_may_name_its_models():
    claim = CLAIM.model_copy(update={"models": ["b"]})
    result = claims.claimed(claim, [drawn(A + B)])
    assert (result.models, result.ours) == (["b"], pytest.approx(20))


def test_a_model_without_both_rows_is_not_counted():
    result = claims.claimed(CLAIM, [drawn([*A, B[0]])])
    assert (result.models, result.ours) == (["a"], pytest.approx(10))


def test_a_model_of_several_tables_counts_once():
    result = claims.claimed(CLAIM, [drawn(A), drawn(A + B)])
    assert (result.models, result.ours) == (["a", "b"], pytest.approx(15))


def test_a_method_is_compared_on_its_own_dataset():
    rows = [
        ("a", "x", "sft", (10.0, 10.0), (10.0, 10.0)),
        ("a", "y", "sft", (20.0, 20.0), (20.0, 20.0)),
        ("a", "y", "fgit", (22.0, 22.0), (24.0, 24.0)),
    ]
    result = claims.claimed(CLAIM.model_copy(update={"over": "sft"}), [drawn(rows)])
    assert (result.ours, result.quoted) == (pytest.approx(10), pytest.approx(20))


def test_an_average_is_not_counted_again():
    rows = [(*row[:3], (*row[3], 99.0), (*row[4], 99.0)) for row in A]
    result = claims.claimed(CLAIM, [drawn(rows, [*COLUMNS, Column("avg", "", "", "average")])])
    assert result.ours == pytest.approx(10)


@pytest.mark.parametrize("row", [0, 1])
def test_a_missing_number_leaves_ours_open_and_the_published_there(row):
    rows = list(A + B)
    rows[row] = (*rows[row][:3], (None, 33.0), rows[row][4])
    result = claims.claimed(CLAIM, [drawn(rows)])
    assert (result.ours, result.quoted) == (None, pytest.approx(5))
    assert result.models == ["a", "b"]


def test_nothing_published_is_open_and_over_zero_it_is_undefined():
    rows = [
        ("a", None, "base", (0.0, 0.0), (None, 1.0)),
        ("a", "d", "fgit", (1.0, 1.0), (2.0, 2.0)),
    ]
    result = claims.claimed(CLAIM, [drawn(rows)])
    assert result.quoted is None and math.isnan(result.ours)
    assert "undefined" in claims.claims_markdown([result]) and "undefined" in claims.claims_csv(
        [result]
    )


def test_a_claim_waits_for_every_seed():
    rows = [
        ("a", None, "base", (40.0, 40.0), (40.0, 40.0)),
        ("a", "d", "fgit", (50.0, 50.0), (50.0, 50.0)),
    ]
    table = drawn(rows)
    assert claims.claimed(CLAIM, [table]).ours == pytest.approx(25)
    table.lines[1] = dataclasses.replace(table.lines[1], seeds="1 of 2")
    result = claims.claimed(CLAIM, [table])
    assert (result.ours, result.quoted) == (None, pytest.approx(25))


def test_a_claim_that_no_model_yields_is_open():
    result = claims.claimed(CLAIM, [drawn([A[0]])])
    assert (result.models, result.ours, result.quoted) == ([], None, None)
    assert "–" in claims.claims_markdown([result])


def test_claims_of_tables_that_are_not_drawn_are_left_out():
    several = CLAIM.model_copy(update={"tables": ["t", "u"]})
    config = types.SimpleNamespace(claims=[CLAIM, several])
    assert [item.claim for item in claims.claims_of(config, {"t": drawn(A)})] == [CLAIM]


def test_files_say_ours_the_recomputed_and_the_published(tmp_path):
    pending = [(*row[:3], (None, None), row[4]) for row in A]
    results = [claims.claimed(CLAIM, [drawn(rows)]) for rows in (A + B, pending)]
    claims.write_claims(tmp_path, results)
    markdown = (tmp_path / "claims.md").read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in markdown.splitlines() if row.startswith("| better")]
    assert [[text.strip(" |") for text in row[1:]] for row in rows] == [
        ["t", "a, b", "15.0", "5.00", "4.8"],
        ["t", "a", "pending", "5.00", "4.8"],
    ]
    assert r"better \| & \<best>" in markdown
    text = (tmp_path / "claims.csv").read_text(encoding="utf-8")
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["claim"], first["models"]) == ("better | & <best>", "a b")
    assert (first["of"], first["over"], first["tables"]) == ("fgit", "base", "t")
    assert (first["ours"], first["from published numbers"], first["published"]) == (
        "15.0000",
        "5.0000",
        "4.8",
    )
    assert second["ours"] == ""


def test_no_claims_no_files(tmp_path):
    claims.write_claims(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
