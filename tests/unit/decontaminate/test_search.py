"""The rules, and the search for all of them at once against one search after the other."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.common import files
from fgit.config import DecontaminateSettings
from fgit.decontaminate.ngrams import grams_of, overlap
from fgit.decontaminate.search import MATCH_RULES, Search, find, original_position
from fgit.decontaminate.texts import (
    BenchmarkText,
    normalise,
    problem_texts,
    read_benchmark,
    verbatim_texts,
)
from tests.problems import DESCRIPTION, PROBLEM, SOLUTION

TEXT = st.text(alphabet=st.sampled_from("abAB \n\t\r\u00a0\u2003\x1cΣσςİßé😀(="), max_size=40)


@given(TEXT, st.sampled_from([normalise, str.lower]), st.data())
def test_original_position_undoes_the_form(text, form, data):
    if form is str.lower and "Σ" in text:
        text = text.replace("Σ", "σ")  # its lower case is not its own
    whole = form(text)
    if not whole:
        return
    offset = data.draw(st.integers(0, len(whole) - 1))
    position = original_position(text, offset, form)
    before = len(form(text[:position]))
    assert before <= offset < before + len(form(text[position]))


SMALL = st.text(alphabet="abé", min_size=1, max_size=5)


@given(
    st.lists(st.text(alphabet="abé", max_size=12), max_size=6),
    st.lists(SMALL, max_size=8, unique=True),
)
def test_find_equals_the_slow_search(texts, patterns):
    """One search for each text and pattern; overlapping and nested patterns included."""
    assert sorted(find(texts, patterns)) == sorted(
        (index, pattern, text.index(pattern))
        for index, text in enumerate(texts)
        for pattern in patterns
        if pattern in text
    )


def test_find_takes_patterns_literally():
    assert list(find(["a.b", "axb"], ["a.b"])) == [(0, "a.b", 0)]


# ------------------------------------------------------------------ all rules at once

PIECE = st.sampled_from(["for i in x", "return a", "IF b", "=", "\n    ", "\t", " ", "(", "é", "Σ"])
CODE = st.lists(PIECE, max_size=8).map("".join)


def slow(verbatim, texts, rows, chosen):
    """What each sample holds, by the rules as they are defined, one after the other."""
    found = []
    for row in rows:
        held = {}
        for field, sample in zip(("instruction", "response"), row, strict=True):
            for text in verbatim:
                if text.text.lower() in sample.lower():
                    held.setdefault(("verbatim", text), (field, None))
            for text in texts:
                if normalise(text.text) in normalise(sample):
                    held.setdefault(("text", text), (field, None))
                for rule, size, blind in [
                    ("ngram", chosen.ngram_size, False),
                    ("renamed", chosen.renamed_size, True),
                ]:
                    if rule == "renamed" and (
                        text.what != "solution" or len(grams_of(text.text, size, True)) <= size
                    ):
                        continue
                    share = overlap(text.text, sample, size, blind)
                    if share >= chosen.ngram_share:
                        held.setdefault((rule, text), (field, share))
        found.append(held)
    return found


@settings(max_examples=150)
@given(
    st.lists(st.tuples(CODE, CODE), min_size=1, max_size=5),
    st.lists(CODE.filter(str.strip), min_size=1, max_size=5, unique=True),
)
def test_matches_equal_the_slow_reference(rows, texts):
    chosen = DecontaminateSettings(ngram_size=2, renamed_size=3, ngram_share=0.6)
    whats = ("solution", "description")
    sources = [BenchmarkText("b", str(i), whats[i % 2], text) for i, text in enumerate(texts)]
    found = Search(sources, sources, chosen).matches([*map(list, zip(*rows, strict=True))])
    assert [{(m.rule, m.source): (m.field, m.share) for m in row} for row in found] == slow(
        sources, sources, rows, chosen
    )
    for row, held in zip(rows, found, strict=True):
        assert len({(m.rule, m.source) for m in held}) == len(held)
        for match in held:
            rest = dict(zip(("instruction", "response"), row, strict=True))[match.field]
            rest = rest[match.position :]
            if match.rule == "verbatim":
                assert rest.lower().startswith(match.source.text.lower())
            if match.rule == "text":
                assert normalise(rest).startswith(normalise(match.source.text))
                assert not rest[0].isspace()
            else:
                assert rest


# ------------------------------------------------------------------ what each rule is for


def rules_for(text, problem=PROBLEM, **changes):
    """The rules by which a sample with this response holds the problem."""
    chosen = DecontaminateSettings(**changes)
    verbatim = [BenchmarkText("b", "t", w, v) for w, v in verbatim_texts(problem).items()]
    texts = [BenchmarkText("b", "t", w, v) for w, v in problem_texts(problem, 40).items()]
    (found,) = Search(verbatim, texts, chosen).matches([["Do it."], [text]])
    assert all(match.field == "response" for match in found)
    return {match.rule for match in found}


RENAMED = re.sub(r"\boperations\b", "moves", re.sub(r"\bbalance\b", "money", SOLUTION)).replace(
    "op ", "step "
)
LONG = PROBLEM | {
    "canonical_solution": SOLUTION
    + "\n".join(f"\n    if balance > {n}:\n        balance -= op * {n}" for n in range(4))
}
LONG_RENAMED = LONG["canonical_solution"].replace("balance", "money").replace("op", "step")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (f"So:\n    {SOLUTION}\nDone.", {"verbatim", "text", "ngram"}),
        (SOLUTION.upper(), {"verbatim", "text", "ngram"}),
        (SOLUTION.replace("    ", "\t"), {"text", "ngram"}),
        (SOLUTION.replace(" = ", "=").replace("\n\n", "\n"), {"text", "ngram"}),
        (" ".join(DESCRIPTION.split()), {"text", "ngram"}),
        (DESCRIPTION.replace("ever falls", "is"), {"ngram"}),
        (SOLUTION.replace("    return False", "    return None"), {"ngram"}),
        (RENAMED, set()),  # too short to be told from other code without its names
        ("print('hello')", set()),
    ],
)
def test_what_a_rule_finds(text, rules):
    assert rules_for(text) == rules


def test_renamed_code_is_found_by_its_shape():
    assert rules_for(LONG["canonical_solution"], LONG) == set(MATCH_RULES)
    assert rules_for(LONG_RENAMED, LONG) == {"renamed"}
    assert rules_for(LONG_RENAMED, LONG, renamed_size=60) == set()


@given(st.sampled_from([DESCRIPTION, SOLUTION]), st.integers(0, 2**32), TEXT, TEXT)
def test_a_planted_text_is_always_found(text, seed, before, after):
    """In other case, spacing and indentation, between whatever else there is."""
    rng = random.Random(seed)
    changed = "".join(
        (c.upper() if rng.random() < 0.5 else c.lower()) + rng.choice([" ", "\n    ", "\t", ""])
        for c in text
    )
    assert "text" in rules_for(before + changed + after)


# ------------------------------------------------------------------ real data


def test_every_problem_that_has_a_text_is_found_in_itself(shared_data):
    """By both modes, in an instruction and in a response."""
    for name in ("humaneval/HumanEval.jsonl.gz", "mbpp/mbpp.jsonl.gz"):
        benchmark = read_benchmark("b", shared_data / name, 40)
        search = Search(benchmark.verbatim, benchmark.texts, DecontaminateSettings())
        for rule, texts in {"verbatim": benchmark.verbatim, "text": benchmark.texts}.items():
            plants = [f"Please.\n{text.text}\nThanks." for text in texts]
            found = search.matches([plants, ["x"] * len(plants)])
            for text, held in zip(texts, found, strict=True):
                assert text in {match.source for match in held if match.rule == rule}


def test_pairs_are_benchmarks_too(shared_data):
    path = shared_data / "pairs/humanevalpack-python.jsonl.gz"
    rows = [row for _, row in files.read_objects(path)]
    assert read_benchmark("b", path, 40).problems == len(rows) == 164
