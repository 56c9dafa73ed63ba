"""n-grams: the sieve lets everything through that the definition finds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.decontaminate import ngrams
from fgit.decontaminate.ngrams import ANY_NAME, Grams, first_place, hashed, overlap, tokens
from fgit.decontaminate.texts import lowered

WORDS = ["a", "b", "if", "for", "12", "1", "é", "ΣΑΣ", "longer_than_eight_bytes", "not_so", "中文"]
GAPS = [" ", "\n", ".", "==", "\u00a0", "\x1c", "\r\n\t", "(", "😀", "\0"]
TEXT = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=14).map(
    lambda pairs: "".join(itertools.chain.from_iterable(pairs))
)


def test_tokens():
    assert tokens("If x_1 == 'Ab';\n Return 2", blind=False) == ["if", "x_1", "ab", "return", "2"]
    assert tokens("If x_1 == 'Ab';\n len(y)", blind=True) == [
        *["if", ANY_NAME, "=", "=", "'", ANY_NAME, "'", ";", "len", "(", ANY_NAME, ")"]
    ]
    assert tokens("1e5 naïve\u2003中 a\u00a0b", blind=True) == ["1e5", *[ANY_NAME] * 4]


def test_overlap():
    text, sample = "a b c d e", "x a b c; y. c d e z"
    assert overlap(text, sample, 3, blind=False) == pytest.approx(2 / 3)
    assert overlap(text, "a b", 3, blind=False) == 0
    assert overlap("a b", "a b", 3, blind=False) == 0  # it has no 3-gram
    assert overlap("a a a a", "a a a", 2, blind=False) == 1  # distinct ones count
    assert overlap("f(x) + 1", "g(y) + 1", 4, blind=True) == 1
    assert overlap("f(x) + 1", "g(y) - 1", 4, blind=True) == pytest.approx(1 / 3)


@given(TEXT, TEXT, st.integers(1, 4), st.booleans())
def test_the_first_place_begins_a_common_gram(text, sample, size, blind):
    if not overlap(text, sample, size, blind):
        return
    low = lowered(sample)
    place = first_place(text, sample, size, blind)
    wanted = ngrams.grams_of(text, size, blind)
    assert tuple(tokens(low[place:], blind)[:size]) in wanted
    # No common one begins before it.
    before = tokens(low[:place], blind)
    words = [*before, *tokens(low[place:], blind)[: size - 1]]
    assert not {*ngrams.grams(words, size)} & wanted


@given(st.lists(TEXT, max_size=6), st.integers(0, 30))
def test_hashed_tokens_are_the_tokens(texts, block):
    """As many, of the same texts, equal where they are equal; however they are cut into blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "HASHED_BYTES", block)
        parts = list(hashed(texts))
    plain = [
        (index, token)
        for index, text in enumerate(texts)
        for token in ngrams.TOKEN.findall(lowered(text))
    ]
    of = np.concatenate([part.text for part in parts]).tolist() if parts else []
    hashes = np.concatenate([part.tokens for part in parts]).tolist() if parts else []
    assert of == [index for index, _ in plain]
    by_token = {}
    for (_, token), value in zip(plain, hashes, strict=True):
        assert by_token.setdefault(token, value) == value
    assert len(set(by_token.values())) == len(by_token)
    for name, flag in {
        "word": ngrams.is_word,
        "name": lambda t: ngrams.is_word(t) and t[0] not in "12",
    }.items():
        found = np.concatenate([getattr(part, name) for part in parts]).tolist() if parts else []
        assert found == [flag(token) for _, token in plain]


@given(
    st.lists(TEXT, max_size=5),
    st.lists(TEXT, max_size=5),
    st.integers(1, 5),
    st.sampled_from([0.07, 0.3, 0.5, 1.0]),
    st.booleans(),
)
def test_the_sieve_lets_through_what_the_definition_finds(texts, samples, size, share, blind):
    grams = Grams(texts, size, share, blind)
    passed = {pair for part in hashed(samples) for pair in grams.candidates(part)}
    assert passed == {
        (s, t)
        for (s, sample), (t, text) in itertools.product(enumerate(samples), enumerate(texts))
        if ngrams.grams_of(text, size, blind) and overlap(text, sample, size, blind) >= share
    }


def test_texts_of_few_grams_are_left_out():
    texts = ["a b c", "a b c d"]
    (part,) = hashed(["a b c d"])
    assert Grams(texts, 2, 0.5, blind=False).candidates(part) == [(0, 0), (0, 1)]
    assert Grams(texts, 2, 0.5, blind=False, least=3).candidates(part) == [(0, 1)]


def test_tokens_that_hash_alike_only_cost_time(monkeypatch):
    """A sieve without any hashing lets all pairs through: the definition decides, not the hash."""
    monkeypatch.setattr(ngrams, "mixed", lambda values: np.zeros_like(values))
    (part,) = hashed(["a b c d"])
    assert Grams(["v w x y", "a b c d"], 2, 1.0, blind=False).candidates(part) == [(0, 0), (0, 1)]


def test_known_words_are_told_from_names():
    (part,) = hashed(["if iff len lens print"])
    grams = ngrams.gram_hashes(part, 1, blind=True)[0]
    assert len(set(grams.tolist())) == 4  # iff and lens are both names
    assert grams[1] == grams[3]
