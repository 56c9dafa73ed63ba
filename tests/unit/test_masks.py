import gzip
import json

import numpy as np
import polars as pl
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fgit import masks as module
from fgit.annotate import segments
from fgit.common.errors import UserError
from fgit.masks import marked_text, masks, overlap_mask, pair_masks, token_masks, whole_offsets
from tests.reference import plain_masks, plain_segments

LINES = st.lists(
    st.sampled_from(
        ["def f(x):", "    return x", "\tif a > 0:", "é = '中𝄞'", "", "  ", "x = 1\r", "# ☃ ok"]
    ),
    max_size=6,
)
TEXTS = LINES.map("\n".join) | st.text(alphabet="ab é中\n\t\r().:=", max_size=30)


def reference(tokenizer, y, v):
    """Tokens, line, token and hybrid mask of both sides, in the plain form."""
    marked = plain_segments(y, v)
    result = []
    for text, lines, characters in [
        (y, marked.response_lines, marked.response_characters),
        (v, marked.variant_lines, marked.variant_characters),
    ]:
        tokens, line, token = plain_masks(tokenizer, text, lines, characters)
        result.append((tokens, line, token, [a + b for a, b in zip(line, token, strict=True)]))
    return result


def as_lists(side):
    return (side.tokens.tolist(), side.line.tolist(), side.token.tolist(), side.hybrid.tolist())


@given(TEXTS, TEXTS)
def test_masks_equal_the_reference(tokenizer, y, v):
    found = pair_masks(tokenizer, y, v)
    assert [as_lists(side) for side in found] == reference(tokenizer, y, v)


@pytest.fixture(scope="module")
def words():
    """A tokenizer into words and signs, whose offsets leave all whitespace out."""
    model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "x": 2}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


@st.composite
def texts_with_spans(draw):
    """Texts, some of them empty, and for each two lists of spans that do not touch."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=6))
    spans = []
    for text in texts:
        ends = [
            sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
            for _ in ("lines", "characters")
        ]
        spans.append(tuple(list(zip(e[::2], e[1::2], strict=False)) for e in ends))
    return texts, spans


@pytest.mark.parametrize("name", ["tokenizer", "words"])
@given(given_texts=texts_with_spans())
def test_masks_of_many_texts_are_those_of_each(request, name, given_texts):
    tokenizer = request.getfixturevalue(name)
    texts, spans = given_texts
    found = token_masks(tokenizer, texts, spans)
    assert [as_lists(side)[:3] for side in found] == [
        plain_masks(tokenizer, text, *marks) for text, marks in zip(texts, spans, strict=True)
    ]
    for side in found:
        assert [side.tokens.dtype, side.line.dtype, side.token.dtype] == [np.int64, *[np.int8] * 2]


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
    line = marked_text(tokenizer, pair_masks(tokenizer, "return a", "return b")[0])
    assert "« a»" in line
    assert "‹return›" in line


def run_masks(tmp_path, tiny_model, rows, show=0):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    masks(path, str(tiny_model), tmp_path / "masks.parquet", show)
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


def test_batches_change_nothing(tmp_path, tiny_model, tokenizer, monkeypatch, capsys):
    rows = [
        {"id": str(i), "response": f"x = {i}\n" * (i % 3), "variant": f"y = {i}\n"}
        for i in range(7)
    ]
    monkeypatch.setattr(module, "BATCH", 3)
    frame = run_masks(tmp_path, tiny_model, rows, show=5)
    assert frame["id"].to_list() == [row["id"] for row in rows]
    for found, row in zip(frame.iter_rows(named=True), rows, strict=True):
        for side, expected in zip(
            ("response", "variant"),
            reference(tokenizer, row["response"], row["variant"]),
            strict=True,
        ):
            kinds = ("tokens", "line", "token", "hybrid")
            assert tuple(found[f"{side}_{kind}"] for kind in kinds) == expected
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(" ")] == ["0", "1", "2", "3", "4"]


def test_no_pairs(tmp_path, tiny_model):
    frame = run_masks(tmp_path, tiny_model, [])
    assert frame.height == 0
    assert frame.schema["response_tokens"] == pl.List(pl.Int64)


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
