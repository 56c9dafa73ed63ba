"""What there is to choose from: normalised, without doubles, whatever the order of the file."""

import random
from collections import Counter, defaultdict

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.common.code_blocks import main_code, place_of, replace_code
from fgit.select.candidates import Candidates, Choice, choice_of, choices_of
from fgit.variants import VARIANT_COLUMNS, normalised

CODE = "def add(a, b):\n    return a + b"
NEAR = "def add(a, b):\n    return a - b"
FAR = "x = 1"


def test_codes_that_are_the_same_after_normalisation_count_once():
    response = f"Here:\n```python\n{CODE}\n```\n"
    codes = [
        f"\n{CODE}  \r\n",  # the response's own
        NEAR.replace("\n", "\r\n"),
        f"\n\n{NEAR}\n",
        NEAR.replace(":", ":  \t"),
        FAR,
    ]
    assert choice_of(response, main_code(response), codes) == Choice(
        CODE,
        {codes[1]: response.replace("+", "-"), FAR: response.replace(CODE, FAR)},
        same_response=1,
        duplicates=2,
    )


texts = st.lists(st.sampled_from(["x = 1", "y", "  ", "", "\t", "z "]), max_size=4)
newlines = st.sampled_from(["\n", "\r\n"])


@given(st.lists(st.tuples(texts, newlines), max_size=5), newlines)
def test_a_choice_is_of_different_variants(codes, newline):
    response = newline.join(["Text", "```", "x = 1", "", "y", "```"])
    codes = [between.join(lines) for lines, between in codes]
    block = main_code(response)
    choice = choice_of(response, block, codes)
    assert len(choice.responses) + choice.same_response + choice.duplicates == len(codes)
    # The plain way: each pair of whole responses is compared.
    different = []
    for code in codes:
        variant = replace_code(response, block, code)
        if all(normalised(variant) != normalised(other) for other in [response, *different]):
            different.append(variant)
    assert list(choice.responses.values()) == different


def test_no_code_is_no_choice():
    samples = [("Words.", None, [NEAR]), (CODE, "python", [])]
    found, forms = choices_of(
        [(text, place_of(main_code(text)), language, codes) for text, language, codes in samples]
    )
    assert found == [None, Choice(CODE, {})]
    assert forms == {"no_code": 1, "bare_code": 1}


def write(path, rows):
    pl.DataFrame(rows, schema=VARIANT_COLUMNS).write_parquet(path)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_the_codes_of_each_sample_in_the_order_of_k(tmp_path, monkeypatch, seed):
    monkeypatch.setattr("fgit.select.candidates.PART_ROWS", 4)
    chance = random.Random(seed)
    rows = [
        {"id": f"s{n}", "k": k, "code": f"{n} {k}" if chance.random() < 0.8 else None}
        for n in range(10)
        for k in range(n % 4)
    ]
    expected = defaultdict(list)
    for row in rows:
        if row["code"] is not None:
            expected[row["id"]].append(row["code"])
    if seed:  # 0 is the order of the samples
        chance.shuffle(rows)
    ids = [f"s{n}" for n in range(10)]
    candidates = Candidates(write(tmp_path / "v.parquet", rows), ids)
    assert list(candidates.codes(ids)) == [expected[sample] for sample in ids]
    assert (
        candidates.eligible
        == candidates.usable
        == Counter({s: len(codes) for s, codes in expected.items()})
    )
    assert candidates.verified is None


def test_equal_ks_stay_in_the_files_order_and_none_comes_first(tmp_path):
    rows = [{"id": "a", "k": k, "code": f"{n}"} for n, k in enumerate([1, 0, None, 1, 0])]
    candidates = Candidates(write(tmp_path / "v.parquet", rows), ["a"])
    assert list(candidates.codes(["a"])) == [["2", "1", "4", "0", "3"]]


def test_what_passes_its_tests_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("fgit.select.candidates.PART_ROWS", 2)
    wrong = {"a": [True, False, None], "b": [False], "c": [None], "d": []}
    rows = [
        {"id": name, "k": k, "code": None if name == "c" else f"{name} {k}"}
        for name, values in wrong.items()
        for k in range(len(values))
    ]
    path = write(tmp_path / "v.parquet", rows)
    flat = pl.Series([value for values in wrong.values() for value in values], dtype=pl.Boolean)
    empty = pl.lit(None, pl.String)
    pl.read_parquet(path).with_columns(status=empty, wrong=flat, untested=empty).write_parquet(
        tmp_path / "verified.parquet"
    )
    candidates = Candidates(path, wrong, tmp_path / "verified.parquet")
    assert list(candidates.codes(wrong)) == [["a 0", "a 2"], [], [], []]
    assert candidates.usable == {"a": 3, "b": 1}
    assert candidates.eligible == {"a": 2} and "b" not in candidates.eligible
    assert candidates.verified == {"wrong": 1, "not_wrong": 2, "untested": 1}
