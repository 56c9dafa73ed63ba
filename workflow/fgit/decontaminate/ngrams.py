"""n-grams of many texts, looked for in many samples: copies that were changed in places.

A text counts as held if enough of its distinct n-grams stand in a sample (:func:`overlap` is the
definition). The samples are first sifted by hashes, in numpy, which can let through too much but
nothing too little (:meth:`Grams.candidates`); what is let through is looked at by the definition.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import itertools
import keyword
import re
from collections.abc import Iterator, Sequence

import numpy as np

from fgit.decontaminate.texts import LOWER, WHITESPACE, lowered

# A word, or any other character that is not whitespace. Beyond ASCII everything is of a word.
TOKEN = re.compile(r"(?:[a-z0-9_]|[^\x00-\x7f\s])+|\S")
# Words that mean the same wherever they stand; all other words are names.
KNOWN = frozenset(word.lower() for word in (*keyword.kwlist, *dir(builtins)))
NAME = "a name"  # in place of every name

BLOCK = 1 << 18  # bytes that are hashed at a time: what the processor's cache holds
SLOTS = 22  # bits of a hash that the first look is at
SPACE, WORD, OTHER, DIGIT = 0, 1, 2, 3  # kinds of bytes; those of words are odd
KINDS = bytes(
    SPACE
    if code in WHITESPACE
    else DIGIT
    if chr(code) in "0123456789"
    else WORD
    if code >= 128 or chr(code).isalpha() or chr(code) == "_"
    else OTHER
    for code in range(256)
)
FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
EIGHT = bytes(8)
STEP = 0x9E3779B97F4A7C15
NO_GRAMS = np.zeros(0, np.uint64), np.zeros(0, np.int64)


# ------------------------------------------------------------------ the definition


def tokens(text: str, blind: bool) -> list[str]:
    """The words of a text, lower-cased; with ``blind`` its other characters too, but no names."""
    found = TOKEN.findall(lowered(text))
    if blind:
        return [NAME if is_name(token) else token for token in found]
    return [token for token in found if is_word(token)]


def is_word(token: str) -> bool:
    return token[0] > "\x7f" or token[0].isalnum() or token[0] == "_"


def is_name(token: str) -> bool:
    return is_word(token) and token not in KNOWN and token[0] not in "0123456789"


def grams(found: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


@functools.lru_cache(maxsize=256)  # a sample is asked about several texts, and many about one text
def grams_of(text: str, size: int, blind: bool) -> set[tuple[str, ...]]:
    return grams(tokens(text, blind), size)


def overlap(text: str, sample: str, size: int, blind: bool) -> float:
    """The share of the distinct n-grams of ``text`` that ``sample`` has too; 0 if it has none."""
    wanted = grams_of(text, size, blind)
    shared = wanted & grams_of(sample, size, blind)
    return len(shared) / len(wanted) if wanted else 0.0


def first_place(text: str, sample: str, size: int, blind: bool) -> int:
    """Where in ``lowered(sample)`` the first n-gram stands that ``text`` has too."""
    wanted = grams_of(text, size, blind)
    found = tokens(sample, blind)
    for start in range(len(found) - size + 1):
        if tuple(found[start : start + size]) in wanted:
            break
    else:
        raise ValueError("the sample has no n-gram of the text")
    counted = (m for m in TOKEN.finditer(lowered(sample)) if blind or is_word(m[0]))
    return next(itertools.islice(counted, start, None)).start()


# ------------------------------------------------------------------ the sieve


@dataclasses.dataclass(frozen=True)
class Hashed:
    """The tokens of some texts, one behind the other.

    tokens: uint64 [n], a hash of each. text: int64 [n], the index of its text. word: bool [n],
    whether it is a word. name: bool [n], whether it is a word that begins with no digit.
    """

    tokens: np.ndarray
    text: np.ndarray
    word: np.ndarray
    name: np.ndarray


def hashed(texts: Sequence[str]) -> Iterator[Hashed]:
    """The tokens of texts, some texts at a time; equal tokens have equal hashes.

    Hashed are a token's first eight bytes, its last eight and its length: few different tokens have
    these in common.
    """
    for first, block in blocks(texts):
        joined = b"\n".join(block)
        kinds = np.frombuffer(joined.translate(KINDS), np.uint8)
        in_word = (kinds & WORD).view(bool)
        goes_on = in_word[1:] & in_word[:-1]
        begins, ends = kinds != SPACE, kinds != SPACE
        begins[1:] &= ~goes_on
        ends[:-1] &= ~goes_on
        start, end = np.flatnonzero(begins), np.flatnonzero(ends) + 1
        # Eight bytes from any place on.
        eight = np.ndarray(len(joined) + 8, "<u8", EIGHT + joined + EIGHT, strides=(1,))
        length = end - start
        head = eight[start + 8] & FIRST_BYTES[np.minimum(length, 8)]
        tail = length.astype(np.uint64)
        long = np.flatnonzero(length > 8)
        tail[long] += eight[end[long]]
        borders = np.searchsorted(start, np.cumsum([len(text) + 1 for text in block]))
        word = in_word[start]
        yield Hashed(
            tokens=mixed(head * np.uint64(STEP) ^ mixed(tail)),
            text=np.repeat(np.arange(first, first + len(block)), np.diff(borders, prepend=0)),
            word=word,
            name=word & (kinds[start] != DIGIT),
        )


def blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[bytes]]]:
    """The lower-cased bytes of about BLOCK bytes of texts at a time, and the first one's index."""
    first, size = 0, 0
    block: list[bytes] = []
    for index, text in enumerate(texts):
        block.append(lowered_bytes(text))
        size += len(block[-1])
        if size >= BLOCK:
            yield first, block
            first, size, block = index + 1, 0, []
    if block:
        yield first, block


def lowered_bytes(text: str) -> bytes:
    """``lowered(text)`` as UTF-8, with spaces in place of whitespace that is not ASCII."""
    if text.isascii():
        return text.encode().translate(LOWER)
    return " ".join(lowered(text).split()).encode("utf-8", "surrogatepass")


def mixed(values: np.ndarray) -> np.ndarray:
    """Spread uint64 hashes over all bits."""
    values = (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(32))


def gram_hashes(found: Hashed, size: int, blind: bool) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each n-gram (uint64 [g]); and the tokens that count (int64 [t]).

    The i-th n-gram begins at the i-th of these tokens. It may go on into the next text.
    """
    if blind:
        table, factor = known()
        is_known = table[known_place(found.tokens, factor)] == found.tokens
        values = np.where(found.name & ~is_known, np.uint64(1), found.tokens)
        at = np.arange(len(values))
    else:
        at = np.flatnonzero(found.word)
        values = found.tokens[at]
    count = max(len(values) - size + 1, 0)
    hashes = np.zeros(count, np.uint64)
    # By doubling: values has the hashes of 1, 2, 4 ... tokens, and size is a sum of such numbers.
    offset, width, step = 0, 1, STEP
    while count and size:
        if size & 1:
            hashes = hashes * np.uint64(step) + values[offset : offset + count]
            offset += width
        values = values[:-width] * np.uint64(step) + values[width:]
        width, step, size = 2 * width, step * step % 2**64, size >> 1
    return hashes, at


@functools.cache
def known() -> tuple[np.ndarray, int]:
    """The hashes of KNOWN, each at a place of its own (uint64 [4096]), and the factor for it."""
    hashes = np.concatenate([part.tokens for part in hashed(sorted(KNOWN))])
    factor = next(
        factor
        for factor in range(STEP, STEP + 2**20, 2)
        if len(np.unique(known_place(hashes, factor))) == len(hashes)
    )
    table = np.zeros(1 << 12, np.uint64)
    table[known_place(hashes, factor)] = hashes
    return table, factor


def known_place(hashes: np.ndarray, factor: int) -> np.ndarray:
    return (hashes * np.uint64(factor) >> np.uint64(52)).astype(np.int64)


class Grams:
    """Which texts have which n-grams.

    Args:
        texts: what is looked for.
        size: n.
        share: of a text's distinct n-grams, that a sample must have.
        blind: whether names do not count (and what is no word does).
        least: texts of fewer distinct n-grams are not looked for.
    """

    def __init__(
        self, texts: Sequence[str], size: int, share: float, blind: bool, least: int = 1
    ) -> None:
        self.size, self.share, self.blind = size, share, blind
        found = [self.in_texts(part, None) for part in hashed(texts)] or [NO_GRAMS]
        hashes, text, _ = counted(*map(np.concatenate, zip(*found, strict=True)))
        self.totals = np.bincount(text, minlength=len(texts))  # distinct n-grams of each text
        enough = self.totals[text] >= least
        # The texts that have the n-gram i: texts[first[i]:first[i + 1]].
        self.texts = text[enough]
        self.hashes, first = np.unique(hashes[enough], return_index=True)
        self.first = np.append(first, len(self.texts))
        self.slots = np.zeros(1 << SLOTS, bool)
        self.slots[self.slot(self.hashes)] = True

    def in_texts(self, found: Hashed, slots: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of the n-grams in ``slots`` (uint64 [g]), and their texts (int64 [g])."""
        hashes, at = gram_hashes(found, self.size, self.blind)
        near = np.arange(len(hashes)) if slots is None else np.flatnonzero(slots[self.slot(hashes)])
        near = near[found.text[at[near]] == found.text[at[near + self.size - 1]]]
        return hashes[near], found.text[at[near]]

    @staticmethod
    def slot(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - SLOTS)).astype(np.int64)

    def candidates(self, found: Hashed) -> list[tuple[int, int]]:
        """Pairs (sample, text) that may hold by the definition; every pair that does is there.

        Args:
            found: of :func:`hashed` samples.
        """
        hashes, samples = self.in_texts(found, self.slots)
        at = np.searchsorted(self.hashes, hashes)
        same = at < len(self.hashes)
        same[same] = self.hashes[at[same]] == hashes[same]
        samples, at, _ = counted(samples[same], at[same])  # each n-gram once a sample
        of = self.first[at + 1] - self.first[at]  # texts that have it
        within = np.arange(of.sum()) - np.repeat(np.cumsum(of) - of, of)
        text = self.texts[np.repeat(self.first[at], of) + within]
        samples, text, held = counted(np.repeat(samples, of), text)
        enough = held + 1e-9 >= self.share * self.totals[text]  # rounded, it lets through more
        return list(zip(samples[enough].tolist(), text[enough].tolist(), strict=True))


def counted(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs of two arrays of one length, in order, and how often each is there."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    first = np.flatnonzero(new)
    return a[first], b[first], np.diff(first, append=len(a))
