"""How far two readers agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fgit import cli
from fgit.audit.kappa import Kappa, Reading, agreement_on, cohens_kappa, kappa
from fgit.audit.sheet import READERS
from fgit.common import files
from fgit.common.errors import UserError
from tests.audited import HEADING, fill, pairs_file, sheet_of, written


def test_kappa_by_hand():
    # p_o = 35/50 = 0.7; p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5 = 0.4
    found = cohens_kappa([[20, 5], [10, 15]])
    assert found.value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt (1969), table 1: kappa 0.429, variance 0.002885 for n = 200.
    found = cohens_kappa([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
    assert found.value == pytest.approx(0.4286, abs=5e-4)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.002885**0.5, abs=5e-4)


def test_kappa_is_one_where_all_agree_and_minus_one_at_worst():
    assert cohens_kappa([[3, 0], [0, 7]]) == Kappa(1.0, 1.0, 1.0)
    assert cohens_kappa([[0, 5], [5, 0]]).value == pytest.approx(-1)
    assert cohens_kappa([[25, 25], [25, 25]]).value == pytest.approx(0)


@pytest.mark.parametrize("table", [[[9, 0], [0, 0]], [[0, 0], [0, 4]]])
def test_kappa_is_not_defined_for_one_answer_throughout(table):
    assert cohens_kappa(table) is None


TABLES = st.lists(st.integers(0, 60), min_size=4, max_size=4).map(
    lambda cells: np.array(cells).reshape(2, 2)
)


@given(TABLES)
def test_kappa_is_symmetric_and_bounded(table):
    assume(table.sum())
    found = cohens_kappa(table)
    if found is None:
        assert max(table[0, 0], table[1, 1]) == table.sum()
        return
    assert -1 - 1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1 + 1e-12
    assert (abs(found.value - 1) < 1e-12) == (table[0, 1] == table[1, 0] == 0)
    for same in (table.T, table[::-1, ::-1]):  # readers exchanged; yes and no exchanged
        other = cohens_kappa(same)
        assert other.value == pytest.approx(found.value, abs=1e-9)
        assert other.low == pytest.approx(found.low, abs=1e-6)


@given(TABLES)
def test_the_interval_is_the_delta_methods(table):
    """The variance from kappa's gradient with respect to the cells' shares, by differences."""
    table = table + 1
    n = table.sum()
    p = (table / n).ravel()

    def kappa_of(shares):
        q = shares.reshape(2, 2) / shares.sum()
        chance = q.sum(1) @ q.sum(0)
        return (np.trace(q) - chance) / (1 - chance)

    step = 1e-6
    gradient = np.array(
        [(kappa_of(p + step * e) - kappa_of(p - step * e)) / (2 * step) for e in np.eye(4)]
    )
    variance = (gradient**2 @ p - (gradient @ p) ** 2) / n
    found = cohens_kappa(table)
    half = 1.959963985 * variance**0.5
    assert found.low == pytest.approx(max(-1, found.value - half), abs=1e-4)
    assert found.high == pytest.approx(min(1, found.value + half), abs=1e-4)


def test_two_readers(agree):
    first = [(1, 1)] * 6 + [(1, 0), (0, 1), (0, 1), (0, 0)]
    second = [(1, 1)] * 5 + [(0, 1), (1, 0), (0, 1), (1, 1), (0, 0)]
    found, told = agree(sheet_of(first), sheet_of(second))
    assert found["n"] == 10
    part = found["incorrect"]
    assert part["table"] == {"yes/yes": 6, "yes/no": 1, "no/yes": 1, "no/no": 2}
    assert part["agreement"] == 0.8
    assert part["kappa"] == pytest.approx((0.8 - 0.58) / 0.42)  # p_e = 0.7 * 0.7 + 0.3 * 0.3
    assert part["disagreements"] == ["6", "9"]
    assert found["similar"]["kappa"] == 1.0 and found["similar"]["disagreements"] == []
    both = found["both"]  # similar and incorrect
    assert both["table"] == {"yes/yes": 5, "yes/no": 1, "no/yes": 1, "no/no": 3}
    assert both["yes"] == {"first": 0.6, "second": 0.6, "both": 0.5}
    assert "similar and incorrect:" in told and "to be discussed: 6, 9" in told
    assert "0.78" in told and "NaN" not in told


def test_one_answer_throughout_is_said(agree):
    found, told = agree(sheet_of([(1, 1)] * 4), sheet_of([(1, 1)] * 4))
    assert found["both"]["kappa"] is None and found["both"]["interval"] is None
    assert found["both"]["agreement"] == 1
    assert "not defined, since both readers give one and the same answer" in told
    assert "nan" not in told.lower()


ANSWERS = st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=12)


@given(ANSWERS)
def test_who_is_first_changes_nothing(answers):
    def readings(a, b):
        return {
            str(n): Reading(str(n), bool(row[a]), bool(row[b])) for n, row in enumerate(answers)
        }

    one, two = readings(0, 1), readings(2, 3)
    for question in ("incorrect", "similar", "both"):
        found = agreement_on(question, one, two)
        other = agreement_on(question, two, one)
        assert found["agreement"] == other["agreement"]
        assert found["kappa"] == pytest.approx(other["kappa"])
        assert found["disagreements"] == other["disagreements"]
        assert len(found["disagreements"]) == round((1 - found["agreement"]) * len(answers))
        assert sum(found["table"].values()) == len(answers)


def test_files_as_spreadsheets_save_them(agree):
    plain = sheet_of([(1, 1), (0, 1), (0, 0)])
    table = "\ufeff" + plain.replace(",", ";").replace("\n", "\r\n") + ";;;\r\n"
    noted = "".join(f"{line},a note\n" for line in plain.upper().splitlines())
    noted = noted.replace("S1", "s1").replace("S2", "s2").replace("S3", "s3")
    found, _ = agree(table, noted.replace("YES", " Yes "))
    assert found["both"]["agreement"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"2\.csv: no column number, id, incorrect, similar \(it has: none\)"),
        ("number,id,incorrect\n1,s1,yes\n", r"2\.csv: no column similar"),
        (HEADING, r"2\.csv: no answers in this file"),
        (HEADING + "1,s1,,yes\n", r"2\.csv, row 2 \(number 1\): 'incorrect' is not filled in"),
        (HEADING + "1,s1,yes,ye\n", r"2\.csv, row 2 \(number 1\): 'similar' is 'ye'; answer yes"),
        (HEADING + "1,s1,1,0\n", r"'incorrect' is '1'; answer yes or no"),
        (HEADING + "1,s1,yes\n", r"2\.csv, row 2: 3 fields where the heading has 4"),
        (HEADING + "1,s,1,yes,no\n", r"2\.csv, row 2: 5 fields"),
        (HEADING + "1,s1,yes,no\n2,s1,no,no\n", r"2\.csv, row 3: id 's1' stands twice"),
        (HEADING + "1,s1,yes,no\n", r"2\.csv: no answer about id 's2', which is number 2 in"),
        (
            HEADING + "1,s1,yes,no\n2,s2,no,no\n3,s3,no,no\n",
            r"1\.csv: no answer about id 's3', which is number 3 in",
        ),
        (HEADING + "2,s1,yes,no\n1,s2,no,no\n", r"2\.csv: id 's1' is number '2', but number '1'"),
    ],
)
def test_garbage_in_a_sheet_is_named(agree, text, message):
    with pytest.raises(UserError, match=message):
        agree(sheet_of([(1, 1), (0, 0)]), text)


def test_sheets_that_are_not_text_are_named(tmp_path):
    good = written(tmp_path / "1.csv", sheet_of([(1, 1)]))
    (tmp_path / "2.csv").write_bytes(HEADING.encode() + b"1,caf\xe9,yes,no\n")
    with pytest.raises(UserError, match=r"2\.csv: not UTF-8 .*; save it as CSV UTF-8"):
        kappa(good, tmp_path / "2.csv")
    with pytest.raises(UserError, match=r"3\.csv: no such file"):
        kappa(good, tmp_path / "3.csv")


def test_the_whole_way_of_a_sheet(tmp_path, capsys):
    """As two readers go it: draw, fill in, compare."""
    pairs = pairs_file(tmp_path / "p.parquet", 12)
    out = tmp_path / "sheet"
    words = ["audit", "sheet", "--pairs", pairs, "--out", out, "--count", "6", "--seed", "3"]
    assert cli.main([str(word) for word in words]) == 0
    readers = [out / name for name in READERS]
    told = f"fgit audit kappa {readers[0]} {readers[1]} --out {out / 'kappa.json'}"
    assert told in (out / "sheet.html").read_text("utf-8")
    fill(readers[0], [("yes", "yes")] * 5 + [("no", "yes")])
    words = [str(word) for word in ["audit", "kappa", *readers]]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "fgit audit kappa: error:" in error and "reader-2.csv, row 2 (number 1)" in error
    fill(readers[1], [("yes", "yes")] * 4 + [("no", "yes")] * 2, delimiter=";")
    assert cli.main([*words, "--out", str(out / "kappa.json")]) == 0
    assert "Cohen's kappa 0.57" in capsys.readouterr().out
    assert files.read_json(out / "kappa.json")["incorrect"]["disagreements"] == ["5"]
    assert (out / "kappa.json.provenance.json").exists()
