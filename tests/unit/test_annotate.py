import itertools
import json

import Levenshtein
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.annotate import annotate, merged, segments
from fgit.errors import UserError

# Few letters, so that lines repeat; line ends and wide characters as they come in real code.
TEXTS = st.text(alphabet="ab \n\t\rébx中𝄞", max_size=40)


def cut(text, spans):
    return [text[start:end] for start, end in spans]


def positions(spans):
    return {i for start, end in spans for i in range(start, end)}


def test_one_changed_operator():
    y = "def f(x):\n    return x > 0\n"
    v = "def f(x):\n    return x >= 0\n"
    found = segments(y, v)
    assert cut(y, found.response_lines) == ["    return x > 0\n"]
    assert cut(v, found.variant_lines) == ["    return x >= 0\n"]
    assert found.response_characters == []  # the variant only adds a character
    assert cut(v, found.variant_characters) == ["="]


def test_inserted_and_deleted_lines():
    y = "a\nb\nc\n"
    v = "a\nc\n"
    found = segments(y, v)
    assert cut(y, found.response_lines) == ["b\n"]
    assert cut(y, found.response_characters) == ["b\n"]
    assert found.variant_lines == found.variant_characters == []
    mirrored = segments(v, y)
    assert mirrored.variant_lines == found.response_lines
    assert mirrored.response_lines == []


def test_missing_final_newline():
    found = segments("a\nb", "a\nc")
    assert found.response_lines == [(2, 3)]
    assert found.variant_characters == [(2, 3)]


def test_edits_stay_in_their_block():
    """Over the whole text, ties would put edits into the unchanged line between the blocks."""
    y = "x = 1\ny = 2\nx = 1\n"
    v = "x = 2\ny = 2\nx = 2\n"
    found = segments(y, v)
    assert cut(y, found.response_characters) == ["1", "1"]
    assert cut(y, found.response_lines) == ["x = 1\n", "x = 1\n"]


def test_long_texts_have_no_junk():
    """difflib's autojunk would ignore lines that repeat in texts of 200 lines or more."""
    lines = ["pass"] * 300
    y = "\n".join(lines)
    v = "\n".join([*lines[:150], "return", *lines[151:]])
    found = segments(y, v)
    assert sum(end - start for start, end in found.response_lines) <= 2 * len("pass\n")


@given(TEXTS, TEXTS)
def test_character_spans_lie_in_line_spans(y, v):
    found = segments(y, v)
    assert positions(found.response_characters) <= positions(found.response_lines)
    assert positions(found.variant_characters) <= positions(found.variant_lines)


@given(TEXTS, TEXTS)
def test_what_is_not_marked_is_common(y, v):
    """Without the marked characters, and likewise without the marked lines, the sides agree."""
    found = segments(y, v)
    for ys, vs in [
        (found.response_characters, found.variant_characters),
        (found.response_lines, found.variant_lines),
    ]:
        rest_y = "".join(c for i, c in enumerate(y) if i not in positions(ys))
        rest_v = "".join(c for i, c in enumerate(v) if i not in positions(vs))
        # A line that is appended or removed at the end takes the newline before it along.
        assert rest_y.rstrip("\n") == rest_v.rstrip("\n")


@given(TEXTS)
def test_identical_texts_have_no_segments(text):
    found = segments(text, text)
    assert not any([found.response_lines, found.response_characters])
    assert not any([found.variant_lines, found.variant_characters])


@given(TEXTS, TEXTS)
def test_spans_are_ordered_and_not_touching(y, v):
    found = segments(y, v)
    for text, spans in [(y, found.response_lines), (v, found.variant_characters)]:
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


@given(TEXTS.filter(lambda t: "\n" not in t), TEXTS.filter(lambda t: "\n" not in t))
def test_one_line_has_the_fewest_edits(y, v):
    found = segments(y, v)
    marked = len(positions(found.response_characters)), len(positions(found.variant_characters))
    distance = Levenshtein.distance(y, v)
    assert max(marked) <= distance <= sum(marked)


def test_merged():
    assert merged([(0, 1), (1, 2), (3, 3), (4, 6)]) == [(0, 2), (4, 6)]


def write_pairs(path, pairs):
    frame = pl.DataFrame(
        [{"id": str(i), "response": y, "variant": v} for i, (y, v) in enumerate(pairs)],
        schema={"id": pl.String, "response": pl.String, "variant": pl.String},
    )
    frame.write_parquet(path)


def test_stage_writes_spans_and_counts(tmp_path):
    write_pairs(tmp_path / "pairs.parquet", [("a\nb\n", "a\nc\n"), ("a", None), ("a\n", "a\nb\n")])
    out, report = tmp_path / "spans.parquet", tmp_path / "report.json"
    annotate(tmp_path / "pairs.parquet", out, report)
    rows = pl.read_parquet(out).to_dicts()
    assert rows[0]["response_characters"] == [[2, 3]]
    assert rows[1]["response_lines"] is None
    assert rows[2]["response_lines"] == []
    counts = json.loads(report.read_text())
    assert counts["samples"] == 3
    assert counts["pairs"] == 2
    assert counts["without_marked_response"] == 1
    assert counts["changed_lines"] == {"response": 0.5, "variant": 1.0}
    assert counts["changed_characters"] == {"response": 0.5, "variant": 1.5}


@settings(max_examples=5)
@given(st.integers(0, 3))
def test_threads_change_nothing(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("threads")
    pairs = [(f"a{i}\nb{seed}\n", f"a{i}\nc\n" if i % 7 else None) for i in range(1001)]
    write_pairs(folder / "pairs.parquet", pairs)
    frames = []
    for threads in (1, 2):
        annotate(folder / "pairs.parquet", folder / "s.parquet", folder / "r.json", threads)
        frames.append(pl.read_parquet(folder / "s.parquet"))
    assert frames[0].equals(frames[1])


def test_not_a_pairs_file(tmp_path):
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="no column response, variant"):
        annotate(tmp_path / "pairs.parquet", tmp_path / "s.parquet", tmp_path / "r.json")
    assert not (tmp_path / "s.parquet").exists()
