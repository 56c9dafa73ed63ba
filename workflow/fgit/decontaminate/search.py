"""The rules by which a sample holds a benchmark's text, and the search for all of them at once.

``verbatim`` is Magicoder's, which the paper follows. The others are ours: ``text`` (case and
whitespace aside), ``ngram`` (most of the words, in pieces) and ``renamed`` (most of the code,
whatever its names).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl

from fgit.config import DecontaminateSettings
from fgit.decontaminate.ngrams import BYTE_KINDS, SPACE, Grams, first_place, hashed, overlap
from fgit.decontaminate.texts import BenchmarkText, lowered, normalise

MatchRule = Literal["verbatim", "text", "ngram", "renamed"]
MATCH_RULES: tuple[MatchRule, ...] = ("verbatim", "text", "ngram", "renamed")
# By which rules a mode removes; matches of the others are reported.
REMOVES: Mapping[str, frozenset[MatchRule]] = {
    "paper": frozenset({"verbatim"}),
    "strict": frozenset({"text", "ngram", "renamed"}),
}
TEXT_FIELDS = ("instruction", "response", "history_text")

# The index of a searched text; the rule by which it holds a text, which, where; and Match.share.
Hit = tuple[int, MatchRule, BenchmarkText, int, float | None]


@dataclasses.dataclass(frozen=True)
class Match:
    """A benchmark's text in a sample's ``field``, from the character ``position`` on.

    ``share`` is that of the text's n-grams which the field has; None for a text held whole.
    """

    rule: MatchRule
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
        self.whole: dict[str, list[tuple[MatchRule, BenchmarkText]]] = {}
        for text in verbatim:
            self.whole.setdefault(normalise(text.text), []).append(("verbatim", text))
        for text in texts:
            self.whole.setdefault(normalise(text.text), []).append(("text", text))
        solutions = [text for text in texts if text.what == "solution"]
        size, share = settings.renamed_size, settings.ngram_share
        words = Grams([text.text for text in texts], settings.ngram_size, share, blind=False)
        shapes = Grams([text.text for text in solutions], size, share, blind=True, least=size + 1)
        self.in_pieces: list[tuple[MatchRule, Grams, Sequence[BenchmarkText]]] = [
            ("ngram", words, texts),
            ("renamed", shapes, solutions),
        ]

    def matches(
        self, by_field: Sequence[Sequence[str]], normalised: Sequence[Sequence[str]] | None = None
    ) -> list[list[Match]]:
        """For each sample what it holds: each rule's texts once, where they stand first.

        Args:
            by_field: the samples' texts of each of :data:`TEXT_FIELDS`, or of the first of them.
            normalised: the same as ``normalise`` gives them, if they are at hand.
        """
        count = len(by_field[0])
        by_sample: list[dict[tuple[MatchRule, BenchmarkText], Match]] = [{} for _ in range(count)]
        texts = list(itertools.chain.from_iterable(by_field))
        whole = itertools.chain.from_iterable(normalised or [map(normalise, texts)])
        for index, rule, source, position, share in itertools.chain(
            self.held_whole(texts, list(whole)), self.held_in_pieces(texts)
        ):
            field, sample = divmod(index, count)
            match = Match(rule, source, TEXT_FIELDS[field], position, share)
            by_sample[sample].setdefault((rule, source), match)
        return [list(matches.values()) for matches in by_sample]

    def held_whole(self, texts: Sequence[str], normalised: Sequence[str]) -> Iterator[Hit]:
        """The texts that stand in others: for ``text`` case and whitespace aside, for ``verbatim``
        case alone (so they are among those that do without whitespace)."""
        for index, pattern, offset in find(normalised, list(self.whole)):
            for rule, source in self.whole[pattern]:
                if rule == "text":
                    position = original_position(texts[index], offset, normalise)
                    yield index, rule, source, position, None
                elif (at := texts[index].lower().find(source.text.lower())) >= 0:
                    position = original_position(texts[index], at, str.lower)
                    yield index, rule, source, position, None

    def held_in_pieces(self, texts: Sequence[str]) -> Iterator[Hit]:
        """The texts of which others have enough n-grams."""
        for part in hashed(texts):
            for rule, grams, sources in self.in_pieces:
                for index, number in grams.candidates(part):
                    source, size, blind = sources[number], grams.size, grams.blind
                    share = overlap(source.text, texts[index], size, blind)
                    if share >= grams.share:
                        offset = first_place(source.text, texts[index], size, blind)
                        position = original_position(texts[index], offset, lowered)
                        yield index, rule, source, position, share


def find(texts: Sequence[str], patterns: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """Each pattern that a text holds, and where it does first: index of the text, pattern, offset.

    One pass over the texts by Aho-Corasick, however many patterns there are.
    """
    if not patterns:  # polars refuses to search for nothing
        return
    places = pl.select(
        pl.lit(pl.Series(texts, dtype=pl.String)).str.find_many(list(patterns), overlapping=True)
    ).to_series()
    shortest = min(map(len, patterns))
    starting: dict[str, list[str]] = {}
    for pattern in patterns:
        starting.setdefault(pattern[:shortest], []).append(pattern)
    holding = (places.list.len() > 0).arg_true()
    for index, bytes_in in zip(holding, places.gather(holding), strict=True):
        text = texts[index]
        encoded = text.encode()
        seen = set()
        for byte in sorted(set(bytes_in)):
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
        solid = np.frombuffer(text.encode().translate(BYTE_KINDS), np.uint8) != SPACE
        return int(np.flatnonzero(solid)[offset])
    for position, character in enumerate(text):
        offset -= len(form(character))
        if offset < 0:
            return position
    return len(text)
