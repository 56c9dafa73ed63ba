import difflib
import gzip
import json

import Levenshtein
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.annotate import segments
from fgit.errors import UserError
from fgit.masks import masks, overlap_mask, pair_masks, shown, whole_offsets

LINES = st.lists(
    st.sampled_from(
        ["def f(x):", "    return x", "\tif a > 0:", "é = '中𝄞'", "", "  ", "x = 1\r", "# ☃ ok"]
    ),
    max_size=6,
)
TEXTS = LINES.map("\n".join) | st.text(alphabet="ab é中\n\t\r().:=", max_size=30)


def reference(tokenizer, y, v):
    """Masks from their definition, one token and one character at a time."""
    y_lines, v_lines = y.split("\n"), v.split("\n")
    marked = {"y_line": set(), "v_line": set(), "y_char": set(), "v_char": set()}

    def characters(lines, first, last):
        """Positions of lines[first:last] in the text, their newlines included."""
        before = sum(len(line) + 1 for line in lines[:first])
        block = sum(len(line) + 1 for line in lines[first:last])
        total = len("\n".join(lines))
        return [p for p in range(before, before + block) if p < total]

    matched = difflib.SequenceMatcher(None, y_lines, v_lines, autojunk=False).get_matching_blocks()
    i = j = 0
    for a, b, size in matched:
        y_block, v_block = characters(y_lines, i, a), characters(v_lines, j, b)
        marked["y_line"].update(y_block)
        marked["v_line"].update(v_block)
        edits = Levenshtein.editops("".join(y[p] for p in y_block), "".join(v[p] for p in v_block))
        for kind, source, destination in edits:
            if kind in ("replace", "delete"):
                marked["y_char"].add(y_block[source])
            if kind in ("replace", "insert"):
                marked["v_char"].add(v_block[destination])
        i, j = a + size, b + size
    result = []
    for side, text in (("y", y), ("v", v)):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        line = [
            int(any(p in marked[f"{side}_line"] for p in range(start, end)))
            for start, end in encoded["offset_mapping"]
        ]
        token = [
            int(any(p in marked[f"{side}_char"] for p in range(start, end)))
            for start, end in encoded["offset_mapping"]
        ]
        result.append(
            (encoded["input_ids"], line, token, [a + b for a, b in zip(line, token, strict=True)])
        )
    return result


def as_lists(side):
    return (side.tokens.tolist(), side.line.tolist(), side.token.tolist(), side.hybrid.tolist())


@given(TEXTS, TEXTS)
def test_masks_equal_the_reference(tokenizer, y, v):
    found = pair_masks(tokenizer, y, v)
    assert [as_lists(side) for side in found] == reference(tokenizer, y, v)


@given(TEXTS, TEXTS)
def test_marked_tokens_cover_every_edited_character(tokenizer, y, v):
    spans = segments(y, v)
    for text, side, edited in zip(
        (y, v),
        pair_masks(tokenizer, y, v),
        (spans.response_characters, spans.variant_characters),
        strict=True,
    ):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        covered = {
            p
            for (start, end), mark in zip(offsets, side.token, strict=True)
            if mark
            for p in range(start, end)
        }
        assert {p for start, end in edited for p in range(start, end)} <= covered


@given(TEXTS, TEXTS)
def test_a_changed_token_lies_in_a_changed_line(tokenizer, y, v):
    for side in pair_masks(tokenizer, y, v):
        assert np.all(side.token <= side.line)
        assert set(side.hybrid.tolist()) <= {0, 1, 2}
        assert len(side.tokens) == len(side.line) == len(side.token) == len(side.hybrid)


@given(TEXTS)
def test_identical_texts_give_no_mask(tokenizer, text):
    for side in pair_masks(tokenizer, text, text):
        assert not side.hybrid.any()


def test_newline_and_indentation_belong_to_both_lines(tokenizer):
    y = "def f(x):\n    return x\n"
    v = "def f(x):\n    return y\n"
    side, _ = pair_masks(tokenizer, y, v)
    pieces = [tokenizer.decode([token]) for token in side.tokens.tolist()]
    crossing = next(i for i, piece in enumerate(pieces) if piece.startswith("\n") and i)
    assert side.line[crossing] == 1
    assert side.line[:crossing].sum() == 0


def test_a_split_character_marks_all_its_tokens(tokenizer):
    side, _ = pair_masks(tokenizer, "x = '𝄞'", "x = 'a'")
    pieces = [tokenizer.decode([token]) for token in side.tokens.tolist()]
    broken = [i for i, piece in enumerate(pieces) if "�" in piece]
    assert len(broken) > 1
    assert side.token[broken].all()


def test_overlap_is_half_open():
    offsets = np.array([[0, 2], [2, 4], [4, 4], [4, 6]])
    assert overlap_mask(offsets, [(2, 4)], 6).tolist() == [0, 1, 0, 0]
    assert overlap_mask(offsets, [], 6).tolist() == [0, 0, 0, 0]
    assert overlap_mask(offsets, [(3, 5)], 6).tolist() == [0, 1, 0, 1]


def test_trimmed_offsets_are_made_whole():
    """A tokenizer that trims whitespace off its offsets: ' b' as (2, 3) of 'a b'."""
    assert whole_offsets(np.array([[0, 1], [2, 3]])).tolist() == [[0, 1], [1, 3]]
    assert whole_offsets(np.array([[0, 1], [1, 2], [1, 2]])).tolist() == [[0, 1], [1, 2], [1, 2]]


def test_shown(tokenizer):
    line = shown(tokenizer, pair_masks(tokenizer, "return a", "return b")[0])
    assert "« a»" in line
    assert "‹return›" in line


def run_masks(tmp_path, tiny_model, rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    masks(path, str(tiny_model), tmp_path / "masks.parquet")
    return pl.read_parquet(tmp_path / "masks.parquet")


def test_contract(tmp_path, tiny_model):
    rows = [
        {"id": "a", "response": "x = 1\r\ny = 2", "variant": "x = 1\r\ny = 3"},
        {"id": "b", "response": "x", "variant": ""},
    ]
    frame = run_masks(tmp_path, tiny_model, rows)
    sides = ("response", "variant")
    kinds = ("tokens", "line", "token", "hybrid")
    assert frame.columns == ["id", *(f"{side}_{kind}" for side in sides for kind in kinds)]
    for row in frame.iter_rows(named=True):
        for side in sides:
            assert len({len(row[f"{side}_{kind}"]) for kind in kinds}) == 1
    assert frame.row(1, named=True)["variant_tokens"] == []


def test_missing_column_names_the_row(tmp_path, tiny_model):
    with pytest.raises(UserError, match="row 2: no field 'variant'"):
        run_masks(
            tmp_path,
            tiny_model,
            [{"id": "a", "response": "x", "variant": "y"}, {"id": "b", "response": "x"}],
        )
    assert not (tmp_path / "masks.parquet").exists()


REAL_PAIRS = {
    "humanevalpack-python": (164, "canonical_solution", "buggy_solution"),
    "quixbugs_python_octopack": (40, "solution", "buggy_program"),
}


@pytest.mark.parametrize("name", REAL_PAIRS)
def test_real_pairs(shared_data, tokenizer, name):
    """All 164 humanevalpack and 40 quixbugs pairs against the reference."""
    count, correct, incorrect = REAL_PAIRS[name]
    with gzip.open(shared_data / "pairs" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == count
    for row in rows:
        y = row.get("prompt", "") + row[correct]
        v = row.get("prompt", "") + row[incorrect]
        found = [as_lists(side) for side in pair_masks(tokenizer, y, v)]
        assert found == reference(tokenizer, y, v), row
        assert any(found[0][3]) or any(found[1][3])
