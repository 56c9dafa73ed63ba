import gzip
import itertools
import json
from collections import Counter

import Levenshtein
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit import annotate as module
from fgit.annotate import annotate, mark, segments
from fgit.common.errors import UserError
from fgit.variants import HISTORY
from tests.reference import plain_segments

# Few letters, so that lines repeat; line ends and wide characters as they come in real code.
TEXTS = st.text(alphabet="ab \n\t\rébx中𝄞", max_size=40)


# Few letters and few lines, so that ties are common: what is marked then depends on how they are
# broken.
LETTERS = st.text(alphabet="ab", max_size=4)
FEW_LINES = st.lists(st.sampled_from(["", "a", "ab", "aab", "b"]), max_size=14).map("\n".join)


@st.composite
def edited(draw):
    """A text, and it again after some edits of lines."""
    lines = draw(st.lists(LETTERS, min_size=1, max_size=14))
    changed = list(lines)
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(changed)))
        last = draw(st.integers(first, min(first + 3, len(changed))))
        changed[first:last] = draw(st.lists(LETTERS, max_size=3))
    return "\n".join(lines), "\n".join(changed)


def cut(text, spans):
    return [text[start:end] for start, end in spans]


def positions(spans):
    return {i for start, end in spans for i in range(start, end)}


@given(edited() | st.tuples(FEW_LINES, FEW_LINES) | st.tuples(TEXTS, TEXTS))
def test_segments_equal_the_plain_form(pair):
    assert segments(*pair) == plain_segments(*pair)


REAL_PAIRS = {
    "humanevalpack-python": (164, "canonical_solution", "buggy_solution"),
    "quixbugs_python_octopack": (40, "solution", "buggy_program"),
}


@pytest.mark.parametrize("name", REAL_PAIRS)
def test_segments_of_real_pairs(shared_data, name):
    """Each with itself, and with the next one's, which it has little in common with."""
    count, correct, incorrect = REAL_PAIRS[name]
    with gzip.open(shared_data / "pairs" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == count
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for pair in [(row[correct], row[incorrect]), (row[correct], other[correct])]:
            assert segments(*pair) == plain_segments(*pair), pair


@pytest.mark.parametrize(
    ("y", "v"),
    [
        ("\n" * 300, "\n" * 290 + "x\n"),
        ("a\nb\n" * 60, "b\na\n" * 60),
        ("ab " * 700, "ba " * 700),
        ("x" * 2000, ""),
        ("\n".join(map(str, range(200))), "\n".join(map(str, range(200, 0, -1)))),
    ],
    ids=["blank lines", "repeated lines", "one long line", "empty", "one huge block"],
)
def test_segments_of_pairs_that_cost_most(y, v):
    assert segments(y, v) == plain_segments(y, v)


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


def test_mark():
    spans = []
    for span in [(0, 1), (1, 2), (3, 3), (4, 6)]:
        mark(spans, *span)
    assert spans == [(0, 2), (4, 6)]


def write_pairs(path, pairs):
    frame = pl.DataFrame(
        [(str(i), f"Do {i}.", y, v) for i, (y, v) in enumerate(pairs)],
        schema=dict.fromkeys(("id", "instruction", "response", "variant"), pl.String),
        orient="row",
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
    assert counts["no_difference"] == 0
    assert counts["without_marked_response"] == 1
    assert counts["changed_lines"] == {"response": 0.5, "variant": 1.0}
    assert counts["changed_characters"] == {"response": 0.5, "variant": 1.5}
    assert counts["distribution"] == {
        "changed_lines": {
            "response": [[0, 0, 1], [1, 1, 1]],
            "variant": [[0, 0, 0], [1, 1, 2]],
        },
        "changed_characters": {
            "response": [[0, 0, 1], [1, 1, 1]],
            "variant": [[0, 0, 0], [1, 1, 1], [2, 3, 1]],
        },
    }


@given(st.lists(st.integers(0, 40)))
def test_bins_hold_each_number_once(numbers):
    found = module.bins(Counter(numbers))
    lows, highs = [low for low, _, _ in found], [high for _, high, _ in found]
    assert lows == [0, 1, 2, 4, 8, 16, 32][: len(found)]
    assert [high + 1 for high in highs[:-1]] == lows[1:]
    assert [count for _, _, count in found] == [
        sum(low <= number <= high for number in numbers)
        for low, high in zip(lows, highs, strict=True)
    ]
    assert sum(count for _, _, count in found) == len(numbers)
    assert not found or found[-1][2]


@settings(max_examples=20)
@given(
    st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_parts_of_any_size_give_what_the_pairs_give(tmp_path_factory, pairs, part):
    folder = tmp_path_factory.mktemp("parts")
    write_pairs(folder / "pairs.parquet", pairs)
    out = folder / "spans.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", part)
        annotate(folder / "pairs.parquet", out, folder / "report.json")
    rows = pl.read_parquet(out).to_dicts()
    assert [(row["response"], row["variant"]) for row in rows] == pairs
    found = [
        None if v is None else json.loads(json.dumps(vars(plain_segments(y, v)))) for y, v in pairs
    ]
    nothing = dict.fromkeys(module.SPAN_COLUMNS)
    assert [{name: row[name] for name in nothing} for row in rows] == [
        spans or nothing for spans in found
    ]
    there = [spans for spans in found if spans]
    report = json.loads((folder / "report.json").read_text())
    assert report["pairs"] == len(there)
    assert report["no_difference"] == sum(
        not spans["response_characters"] and not spans["variant_characters"] for spans in there
    )
    for side in ("response", "variant"):
        marked = [len(positions(spans[f"{side}_characters"])) for spans in there]
        assert report[f"without_marked_{side}"] == marked.count(0)
        mean = sum(marked) / len(marked) if marked else None
        assert report["changed_characters"][side] == mean
        bins = report["distribution"]["changed_lines"][side]
        assert sum(pairs for _, _, pairs in bins) == len(there)


def test_only_some_parts_are_held(tmp_path, monkeypatch):
    """A part is written before the next but one is read, whatever the number of parts."""
    read, written = [], []
    parts = module.read_parts

    def counted_parts(*given):
        for part in parts(*given):
            read.append(part.height)
            yield part

    def counted_spans(found, **_):
        for item in found:
            assert len(read) - len(written) <= 2
            yield item
            written.append(item)

    monkeypatch.setattr(module, "PART", 2)
    monkeypatch.setattr(module, "read_parts", counted_parts)
    monkeypatch.setattr(module, "bar", counted_spans)
    write_pairs(tmp_path / "pairs.parquet", [("a\n", "b\n")] * 21)
    annotate(tmp_path / "pairs.parquet", tmp_path / "s.parquet", tmp_path / "r.json")
    assert len(read) == len(written) == 11


@settings(max_examples=2)
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


TWO = {"response_lines": [[[0, 2]]], "response_characters": [[[0, 1]]]} | {
    "variant_lines": [[[0, 2]]],
    "variant_characters": [[[0, 1]]],
}


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[0, 9]], r"row 1 \('s'\): .*\[\[0, 9\]\] are not \[start, end\) within its text"),
        ([[-1, 1]], "within its text"),
        ([[1, 1]], "within its text"),
        ([[1, 0]], "within its text"),
        ([[0, 1], [0, 2]], "in order"),
        ([[1, 2], [0, 1]], "in order"),
        ([[0]], "within its text"),
        ([[0, 1, 2]], "within its text"),
        ([[]], "within its text"),
        ([None], "within its text"),
        ([[0, None]], "within its text"),
        ([[None, 1]], "within its text"),
        (None, "None are not"),
        ([], None),
        ([[0, 1], [1, 2]], None),
    ],
)
@pytest.mark.parametrize("name", module.SPAN_COLUMNS)
def test_spans_that_are_none_of_their_text_are_named(tmp_path, name, spans, message):
    """Nothing outside a text can be marked: an edited file would be trained on otherwise."""
    texts = {"id": ["s"], "instruction": ["x"], "response": ["ä\n"], "variant": ["b\n"]}
    frame = pl.DataFrame(texts | TWO | {name: [spans]}, schema=module.SPANS.columns)
    path = tmp_path / "spans.parquet"
    frame.write_parquet(path)
    if message is None:
        assert module.read_spans(path).drop("history").equals(frame)
        return
    with pytest.raises(UserError, match=message) as error:
        module.read_spans(path)
    assert name in str(error.value) and "run the annotate stage again" in str(error.value)
    nothing = pl.lit(None, pl.String)
    frame.with_columns(variant=nothing).write_parquet(path)  # of no pair nobody reads the spans
    module.read_spans(path)


@pytest.mark.parametrize("turn", [None, {"role": "user", "content": None}, {"role": "human"}])
def test_a_history_that_is_none_is_named(tmp_path, monkeypatch, turn):
    monkeypatch.setattr(module, "PART", 2)
    pairs, spans = tmp_path / "p.parquet", tmp_path / "s.parquet"
    write_pairs(pairs, [("a", "b")] * 5)
    annotate(pairs, spans, tmp_path / "r.json")
    histories = pl.Series("history", [None] * 3 + [[turn]] + [None], dtype=HISTORY)
    for path in (pairs, spans):
        pl.read_parquet(path).with_columns(histories).write_parquet(path)
    with pytest.raises(UserError, match=r"p\.parquet, row 4: history is"):
        annotate(pairs, tmp_path / "other.parquet", tmp_path / "r.json")
    with pytest.raises(UserError, match=r"s\.parquet, row 4: history is"):
        module.read_spans(spans)


def test_not_a_pairs_file(tmp_path):
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="no column instruction, response, variant"):
        annotate(tmp_path / "pairs.parquet", tmp_path / "s.parquet", tmp_path / "r.json")
    assert not (tmp_path / "s.parquet").exists()
