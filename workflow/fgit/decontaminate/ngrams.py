"""n-grams of many texts, looked for in many samples: copies that were changed in places.

A text counts as held if enough of its distinct n-grams stand in a sample (:func:`overlap` is the
definition). The samples are first sifted by hashes, in numpy, which can let through too much but
nothing too little (:meth:`Grams.candidates`); what is let through is looked at by the definition.
"""

import builtins
import dataclasses
import functools
import keyword
import re
from collections.abc import Iterator, Sequence

import numpy as np

from fgit.decontaminate.texts import LOWER, WHITESPACE, lowered

# A word, or any other character that is not whitespace. Beyond ASCII everything is of a word.
TOKEN = re.compile(r"(?:[a-z0-9_]|[^\x00-\x7f\s])+|\S")
# Words that mean the same wherever they stand; all other words are names.
PYTHON_WORDS = frozenset(word.lower() for word in (*keyword.kwlist, *dir(builtins)))
ANY_NAME = "a name"  # in place of every name

HASHED_BYTES = 1 << 18  # that are hashed at a time: what the processor's cache holds
SLOTS = 22  # bits of a hash that the first look is at
SPACE, WORD, OTHER, DIGIT = 0, 1, 2, 3  # kinds of bytes; those of words are odd
BYTE_KINDS = bytes(
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
    every = TOKEN.findall(lowered(text))
    if blind:
        return [ANY_NAME if is_name(token) else token for token in every]
    return [token for token in every if is_word(token)]


def is_word(token: str) -> bool:
    return token[0] > "\x7f" or token[0].isalnum() or token[0] == "_"


def is_name(token: str) -> bool:
    return is_word(token) and token not in PYTHON_WORDS and token[0] not in "0123456789"


def grams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


@functools.lru_cache(maxsize=256)  # a sample is compared with several texts, a text with many
def grams_of(text: str, size: int, blind: bool) -> set[tuple[str, ...]]:
    return set(grams(tokens(text, blind), size))


def overlap(text: str, sample: str, size: int, blind: bool) -> float:
    """The share of the distinct n-grams of ``text`` that ``sample`` has too; 0 if it has none."""
    wanted = grams_of(text, size, blind)
    shared = wanted & grams_of(sample, size, blind)
    return len(shared) / len(wanted) if wanted else 0.0


def first_place(text: str, sample: str, size: int, blind: bool) -> int:
    """Where in ``lowered(sample)`` the first n-gram stands that ``text`` has too; it has one."""
    wanted = grams_of(text, size, blind)
    starts = (m.start() for m in TOKEN.finditer(lowered(sample)) if blind or is_word(m[0]))
    pairs = zip(starts, grams(tokens(sample, blind), size), strict=False)
    return next(start for start, gram in pairs if gram in wanted)


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
        kinds = np.frombuffer(joined.translate(BYTE_KINDS), np.uint8)
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
    """The lower-cased bytes of about HASHED_BYTES of texts at a time; the first one's index."""
    first, size = 0, 0
    block: list[bytes] = []
    for index, text in enumerate(texts):
        block.append(lowered_bytes(text))
        size += len(block[-1])
        if size >= HASHED_BYTES:
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


def gram_hashes(part: Hashed, size: int, blind: bool) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each n-gram (uint64 [g]); and the tokens that count (int64 [t]).

    The i-th n-gram begins at the i-th of these tokens. It may go on into the next text.
    """
    if blind:
        table, factor = python_words()
        of_python = table[table_slot(part.tokens, factor)] == part.tokens
        values = np.where(part.name & ~of_python, np.uint64(1), part.tokens)
        at = np.arange(len(values))
    else:
        at = np.flatnonzero(part.word)
        values = part.tokens[at]
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
def python_words() -> tuple[np.ndarray, int]:
    """The hashes of PYTHON_WORDS, each in a slot of its own (uint64 [4096]), and the factor."""
    hashes = np.concatenate([part.tokens for part in hashed(sorted(PYTHON_WORDS))])
    factor = next(
        factor
        for factor in range(STEP, STEP + 2**20, 2)
        if len(np.unique(table_slot(hashes, factor))) == len(hashes)
    )
    table = np.zeros(1 << 12, np.uint64)
    table[table_slot(hashes, factor)] = hashes
    return table, factor


def table_slot(hashes: np.ndarray, factor: int) -> np.ndarray:
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
        parts = [self.in_texts(part, None) for part in hashed(texts)] or [NO_GRAMS]
        hashes, text, _ = count_pairs(*map(np.concatenate, zip(*parts, strict=True)))
        self.totals = np.bincount(text, minlength=len(texts))  # distinct n-grams of each text
        enough = self.totals[text] >= least
        # The texts that have the n-gram i: texts[first[i]:first[i + 1]].
        self.texts = text[enough]
        self.hashes, first = np.unique(hashes[enough], return_index=True)
        self.first = np.append(first, len(self.texts))
        self.slots = np.zeros(1 << SLOTS, bool)
        self.slots[self.slot(self.hashes)] = True

    def in_texts(self, part: Hashed, slots: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of the n-grams in ``slots`` (uint64 [g]), and their texts (int64 [g])."""
        hashes, at = gram_hashes(part, self.size, self.blind)
        near = np.arange(len(hashes)) if slots is None else np.flatnonzero(slots[self.slot(hashes)])
        near = near[part.text[at[near]] == part.text[at[near + self.size - 1]]]
        return hashes[near], part.text[at[near]]

    @staticmethod
    def slot(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - SLOTS)).astype(np.int64)

    def candidates(self, part: Hashed) -> list[tuple[int, int]]:
        """Pairs (sample, text) of some :func:`hashed` samples: all that the definition finds."""
        hashes, samples = self.in_texts(part, self.slots)
        at = np.searchsorted(self.hashes, hashes)
        same = at < len(self.hashes)
        same[same] = self.hashes[at[same]] == hashes[same]
        samples, at, _ = count_pairs(samples[same], at[same])  # each n-gram once a sample
        of = self.first[at + 1] - self.first[at]  # texts that have it
        within = np.arange(of.sum()) - np.repeat(np.cumsum(of) - of, of)
        text = self.texts[np.repeat(self.first[at], of) + within]
        samples, text, held = count_pairs(np.repeat(samples, of), text)
        enough = held + 1e-9 >= self.share * self.totals[text]  # rounded, it lets through more
        return list(zip(samples[enough].tolist(), text[enough].tolist(), strict=True))


def count_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs of two arrays of one length, in order, and how often each is there."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    first = np.flatnonzero(new)
    return a[first], b[first], np.diff(first, append=len(a))
