"""The rules by which a sample holds a benchmark's text, and the search for all of them at once.

``verbatim`` is Magicoder's, which the paper follows. The others are ours: ``text`` (case and
whitespace aside), ``ngram`` (most of the words, in pieces) and ``renamed`` (most of the code,
whatever its names).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl

from fgit.config import DecontaminateSettings
from fgit.decontaminate.ngrams import KINDS, SPACE, Grams, first_place, hashed, overlap
from fgit.decontaminate.texts import BenchmarkText, lowered, normalise

Rule = Literal["verbatim", "text", "ngram", "renamed"]
RULES: tuple[Rule, ...] = ("verbatim", "text", "ngram", "renamed")
# By which rules a mode removes; what the others find is shown.
REMOVES: Mapping[str, frozenset[Rule]] = {
    "paper": frozenset({"verbatim"}),
    "strict": frozenset({"text", "ngram", "renamed"}),
}
FIELDS = ("instruction", "response")

# A rule, which of the searched texts, the text that it holds, where, and Match.share.
Found = tuple[Rule, int, BenchmarkText, int, float | None]


@dataclasses.dataclass(frozen=True)
class Match:
    """A benchmark's text in a sample's ``field``, from the character ``position`` on.

    ``share`` is that of the text's n-grams which the field has; None for a text held whole.
    """

    rule: Rule
    source: BenchmarkText
    field: str
    position: int
    share: float | None = None


class Search:
    """All that is looked for, made ready once.

    Args:
        verbatim: texts for the rule of that name.
        texts: texts for the others.
    """

    def __init__(
        self,
        verbatim: Sequence[BenchmarkText],
        texts: Sequence[BenchmarkText],
        settings: DecontaminateSettings,
    ) -> None:
        self.whole: dict[str, list[tuple[Rule, BenchmarkText]]] = {}
        for text in verbatim:
            self.whole.setdefault(normalise(text.text), []).append(("verbatim", text))
        for text in texts:
            self.whole.setdefault(normalise(text.text), []).append(("text", text))
        self.sources = list(texts)
        self.code = [text for text in texts if text.what == "solution"]
        size, share = settings.renamed_size, settings.ngram_share
        self.words = Grams([text.text for text in texts], settings.ngram_size, share, blind=False)
        self.blind = Grams([text.text for text in self.code], size, share, True, least=size + 1)

    def matches(
        self,
        instructions: Sequence[str],
        responses: Sequence[str],
        normalised: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """For each sample what it holds: each rule's texts once, where they stand first.

        Args:
            normalised: the instructions, then the responses, as ``normalise`` gives them, if they
                are at hand.
        """
        found: list[dict[tuple[Rule, BenchmarkText], Match]] = [{} for _ in instructions]

        def add(row: int, match: Match) -> None:
            found[row].setdefault((match.rule, match.source), match)

        texts = [*instructions, *responses]
        place = [(row, field) for field in FIELDS for row in range(len(instructions))]
        for rule, index, source, position, share in itertools.chain(
            self.held_whole(texts, normalised or list(map(normalise, texts))),
            self.held_in_pieces(texts),
        ):
            row, field = place[index]
            add(row, Match(rule, source, field, position, share))
        return [list(matches.values()) for matches in found]

    def held_whole(self, texts: Sequence[str], normalised: Sequence[str]) -> Iterator[Found]:
        """The texts that stand in others: for ``text`` case and whitespace aside, for ``verbatim``
        case alone (so they are among those that do without whitespace)."""
        for index, pattern, offset in find(normalised, list(self.whole)):
            for rule, source in self.whole[pattern]:
                if rule == "text":
                    position = original_position(texts[index], offset, normalise)
                    yield rule, index, source, position, None
                elif (at := texts[index].lower().find(source.text.lower())) >= 0:
                    position = original_position(texts[index], at, str.lower)
                    yield rule, index, source, position, None

    def held_in_pieces(self, texts: Sequence[str]) -> Iterator[Found]:
        """The texts of which others have enough n-grams."""
        for part in hashed(texts):
            for rule, grams, sources in self.in_pieces():
                for index, number in grams.candidates(part):
                    source, size, blind = sources[number], grams.size, grams.blind
                    share = overlap(source.text, texts[index], size, blind)
                    if share >= grams.share:
                        offset = first_place(source.text, texts[index], size, blind)
                        position = original_position(texts[index], offset, lowered)
                        yield rule, index, source, position, share

    def in_pieces(self) -> list[tuple[Rule, Grams, list[BenchmarkText]]]:
        return [("ngram", self.words, self.sources), ("renamed", self.blind, self.code)]


def find(texts: Sequence[str], patterns: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Each pattern that a text holds, and where it does first: index of the text, pattern, offset.

    One pass over the texts by Aho-Corasick, however many patterns there are.
    """
    if not patterns:  # polars refuses to search for nothing
        return
    found = pl.select(
        pl.lit(pl.Series(texts, dtype=pl.String)).str.find_many(list(patterns), overlapping=True)
    ).to_series()
    shortest = min(map(len, patterns))
    starting: dict[str, list[str]] = {}
    for pattern in patterns:
        starting.setdefault(pattern[:shortest], []).append(pattern)
    holding = (found.list.len() > 0).arg_true()
    for index, places in zip(holding, found.gather(holding), strict=True):
        text = texts[index]
        encoded = text.encode()
        seen = set()
        for byte in sorted(set(places)):
            offset = byte if len(encoded) == len(text) else len(encoded[:byte].decode())
            for pattern in starting[text[offset : offset + shortest]]:
                if pattern not in seen and text.startswith(pattern, offset):
                    seen.add(pattern)
                    yield index, pattern, offset


def original_position(text: str, offset: int, form: Callable[[str], str]) -> int:
    """Where in ``text`` the character ``offset`` of ``form(text)`` comes from.

    Args:
        form: gives each character its part of the result, that of ASCII one character or none.
    """
    if text.isascii():
        if form is not normalise:
            return offset
        solid = np.frombuffer(text.encode().translate(KINDS), np.uint8) != SPACE
        return int(np.flatnonzero(solid)[offset])
    for position, character in enumerate(text):
        offset -= len(form(character))
        if offset < 0:
            return position
    return len(text)
