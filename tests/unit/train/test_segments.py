import types

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.config import TrainSettings
from fgit.train import segments
from fgit.train.examples import examples
from fgit.train.samples import SCHEMA
from fgit.train.segments import segments_of, token_texts
from tests.conftest import annotated


@given(text=st.text(max_size=40))
def test_the_texts_of_tokens_are_the_text(tokenizer, text):
    found = token_texts(tokenizer, text)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(found) == len(ids)
    assert "".join(found) == text or not ids  # this tokenizer drops some control characters


def test_a_character_of_several_tokens_stands_with_the_first(tokenizer):
    texts = token_texts(tokenizer, "x = '𝔘'")
    assert "".join(texts) == "x = '𝔘'"
    at = next(i for i, text in enumerate(texts) if "𝔘" in text)
    assert texts[at + 1] == ""


def test_trimmed_whitespace_belongs_to_a_token(monkeypatch):
    encoding = types.SimpleNamespace(offsets=[(0, 1), (3, 4)])
    monkeypatch.setattr(segments, "text_encodings", lambda tokenizer, texts: [encoding])
    assert token_texts(None, "a  b  ") == ["a", "  b  "]


@pytest.fixture
def seen(tmp_path, tokenizer):
    """A pair, one without a variant, an insertion, and more."""
    rows = [
        {"id": "none", "instruction": "I", "response": "x", "variant": None},
        {"id": "pair", "instruction": "Add.", "response": "x + y\n", "variant": "x - y\n"},
        {"id": "more", "instruction": "Add.", "response": "a\nb\n", "variant": "a\nb\nc\n"},
        *(
            {"id": f"s{i}", "instruction": "N", "response": f"{i} + 1", "variant": f"{i} - 1"}
            for i in range(9)
        ),
    ]
    frame = pl.read_parquet(annotated(tmp_path, rows))

    def of(max_length=1024, **changes):
        settings = TrainSettings(max_length=max_length, **changes)
        trained_on, _ = examples(frame.iter_rows(named=True), tokenizer, max_length=max_length)
        noted = [
            {"id": e.id, "epoch": epoch, "step": 10 * epoch, "weight": 1.5 if e.paired else None}
            | {"p_response": 0.25, "p_variant": 0.5}
            for epoch in (1, 2)
            for e in trained_on
        ]
        samples = pl.DataFrame(noted, schema=SCHEMA)
        found = segments_of(frame, trained_on, tokenizer, samples, settings)
        return found.values, {e.id: e for e in trained_on}

    return of


def test_the_first_paired_samples_in_order(seen):
    found, _ = seen()
    assert [sample["id"] for sample in found["samples"]] == [
        *("pair", "more", "s0", "s1", "s2", "s3", "s4", "s5")
    ]
    assert found["samples"][0]["epochs"] == [
        {"epoch": e, "step": 10 * e, "weight": 1.5, "p_response": 0.25, "p_variant": 0.5}
        for e in (1, 2)
    ]


def test_sides_are_as_training_has_them(seen, tokenizer):
    found, known = seen()
    for sample in found["samples"]:
        example = known[sample["id"]]
        for name in ("response", "variant"):
            side = sample[name]
            tokens = getattr(example, name)
            assert side["kept"] == len(tokens) == len(side["tokens"])
            assert not side["cut"]
            assert side["marks"] == getattr(example, f"{name}_marks").tolist()
            lengths = {len(side[key]) for key in ("tokens", "line", "token", "marks")}
            assert lengths == {len(tokens)}
            assert "".join(side["tokens"]) == tokenizer.decode(tokens)
    pair, more = found["samples"][:2]
    marked = [t for t, m in zip(pair["response"]["tokens"], pair["response"]["marks"], strict=True)]
    hybrid = np.add(pair["response"]["line"], pair["response"]["token"])
    assert hybrid.tolist() == pair["response"]["marks"]
    assert [marked[i] for i in np.flatnonzero(hybrid == 2)] == [" +"]
    # The response of an insertion has no mask of its own: the token at the fork stands for it.
    assert not any(more["response"]["line"])
    assert sum(more["response"]["marks"]) == 1


def test_behind_the_cut_nothing_is_marked(seen):
    whole, _ = seen()
    longest = max(whole["samples"][1]["variant"]["kept"], whole["samples"][0]["variant"]["kept"])
    prompt = len(seen()[1]["more"].prompt)
    found, known = seen(max_length=prompt + longest - 1)
    side = next(s for s in found["samples"] if s["id"] == "more")["variant"]
    assert side["cut"]
    assert side["kept"] == len(known["more"].variant) == len(side["tokens"]) - 1
    assert side["marks"][side["kept"] :] == [0]


def test_for_dpo_all_from_the_fork_on_is_marked(seen):
    found, _ = seen(objective="dpo")
    marks = found["samples"][0]["response"]["marks"]
    assert marks == sorted(marks)
    assert marks[-1] == 1


def test_no_pairs(tmp_path, tokenizer):
    rows = [{"id": "none", "instruction": "I", "response": "x", "variant": None}]
    frame = pl.read_parquet(annotated(tmp_path, rows))
    trained_on, _ = examples(frame.iter_rows(named=True), tokenizer)
    samples = pl.DataFrame(schema=SCHEMA)
    assert segments_of(frame, trained_on, tokenizer, samples, TrainSettings()).samples == []
