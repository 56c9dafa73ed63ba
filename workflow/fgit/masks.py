"""From spans to token masks: m_line, m_token and the hybrid h = m_line + m_token (section II-A)."""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fgit.annotate import SIDES, Segments, Span, segments
from fgit.common.files import read_objects, read_records, writing_parquet
from fgit.common.progress import bar

log = logging.getLogger(__name__)

chained = itertools.chain.from_iterable

GRANULARITIES = ("line", "token", "hybrid")
BATCH = 256  # pairs, or samples, whose texts are tokenized at a time


@dataclasses.dataclass(frozen=True)
class TokenMasks:
    """One side of a pair as tokens.

    tokens: int64 [n], the text tokenized alone, without special tokens.
    line, token: int8 [n] in {0, 1}.
    """

    tokens: np.ndarray
    line: np.ndarray
    token: np.ndarray

    @property
    def hybrid(self) -> np.ndarray:
        """int8 [n] in {0, 1, 2}."""
        return self.line + self.token

    def of(self, granularity: str) -> np.ndarray:
        return getattr(self, granularity)


def overlap_mask(offsets: np.ndarray, spans: Sequence[Span], length: int) -> np.ndarray:
    """Which tokens overlap a span.

    Args:
        offsets: int64 [n, 2], each token's half-open character range.
        spans: half-open character ranges.
        length: characters of the text.

    Returns:
        int8 [n]; 1 where a token shares a character with a span.
    """
    covered = np.zeros(length, dtype=bool)
    for start, end in spans:
        covered[start:end] = True
    before = np.concatenate([[0], np.cumsum(covered)])  # covered characters before each position
    return (before[offsets[:, 1]] > before[offsets[:, 0]]).astype(np.int8)


def whole_offsets(offsets: np.ndarray, begins: np.ndarray | int = 0) -> np.ndarray:
    """Offsets that leave no character out: each token begins where the one before it ended.

    Some tokenizers trim whitespace off a token's offsets, so that an edit of it would belong to no
    token. Tokens that share a character (its bytes split over tokens) keep theirs.

    Args:
        offsets: int64 [n, 2], of one text, or of texts that lie end to end.
        begins: int64 [n], where the text of each token begins.
    """
    reached = np.maximum.accumulate(offsets[:, 1])
    before = np.maximum(np.concatenate([[0], reached])[:-1], begins)
    return np.stack([np.minimum(offsets[:, 0], before), offsets[:, 1]], axis=1)


def token_masks(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[tuple[Sequence[Span], Sequence[Span]]]
) -> list[TokenMasks]:
    """Tokenize texts (:func:`fgit.common.tokenizers.text_encodings`), and mark their tokens.

    Args:
        texts: at least one. Of many, the tokenizer takes several at a time, one on each core.
        spans: for each text its (line spans, character spans).
    """
    from fgit.common.tokenizers import text_encodings

    encodings = text_encodings(tokenizer, texts)
    ids = [encoding.ids for encoding in encodings]
    # From here on the texts lie end to end, as one.
    *begins, length = itertools.accumulate(map(len, texts), initial=0)
    counts = [len(of_text) for of_text in ids]
    # The tuples of one text at a time: making and freeing those of all texts takes longer.
    pairs = chained(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chained(pairs), np.int64, count=2 * sum(counts)).reshape(-1, 2)
    token_begins = np.repeat(np.asarray(begins), counts)
    offsets = whole_offsets(offsets + token_begins[:, None], token_begins)
    columns = [np.fromiter(chained(ids), np.int64, count=sum(counts))]
    for of_texts in zip(*spans, strict=True):
        moved = [
            (begin + start, begin + end)
            for begin, of_text in zip(begins, of_texts, strict=True)
            for start, end in of_text
        ]
        columns.append(overlap_mask(offsets, moved, length))
    ends = np.cumsum(counts)[:-1]
    parts = zip(*(np.split(column, ends) for column in columns), strict=True)
    return [TokenMasks(*of_text) for of_text in parts]


def masks_of_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], segments_of_pairs: Iterable[Segments]
) -> list[tuple[TokenMasks, TokenMasks]]:
    """The masks of both sides of each pair, in one call of the tokenizer."""
    spans = []
    for of_pair in segments_of_pairs:
        spans.append((of_pair.response_lines, of_pair.response_characters))
        spans.append((of_pair.variant_lines, of_pair.variant_characters))
    sides = token_masks(tokenizer, list(chained(pairs)), spans)
    return list(zip(sides[::2], sides[1::2], strict=True))


def pair_masks(tokenizer: Any, response: str, variant: str) -> tuple[TokenMasks, TokenMasks]:
    """The masks of both sides of one pair."""
    return masks_of_pairs(tokenizer, [(response, variant)], [segments(response, variant)])[0]


def masks(pairs: Path, tokenizer: str, out: Path, show: int = 0) -> None:
    """Write the token masks of each pair, for one tokenizer; print ``show`` of them.

    Output columns: id, then for each side ``_tokens`` (int64), ``_line``, ``_token``, ``_hybrid``
    (int8), lists of equal length.
    """
    from fgit.common.tokenizers import load_tokenizer

    rows = iter(bar(read_objects(pairs), description="masks", unit="pair"))
    batch = list(itertools.islice(rows, BATCH))  # before the tokenizer, which takes longer
    loaded = load_tokenizer(tokenizer)
    schema: dict[str, Any] = {"id": pl.String}
    for side in SIDES:
        schema[f"{side}_tokens"] = pl.List(pl.Int64)
        schema |= {f"{side}_{granularity}": pl.List(pl.Int8) for granularity in GRANULARITIES}
    count = 0
    with writing_parquet(out, schema) as write:
        while batch:
            frame, _ = read_records(pairs, ["id", *SIDES], rows=batch, empty=SIDES)
            texts = list(frame.select(SIDES).iter_rows())
            batch_masks = masks_of_pairs(loaded, texts, itertools.starmap(segments, texts))
            for id, of_pair in zip(frame["id"], batch_masks[: max(0, show - count)], strict=False):
                print(id)
                for side, side_masks in zip(SIDES, of_pair, strict=True):
                    print(f"  {side}: {marked_text(loaded, side_masks)}")
            columns: dict[str, Any] = {"id": frame["id"]}
            for side, of_side in zip(SIDES, zip(*batch_masks, strict=True), strict=True):
                columns[f"{side}_tokens"] = [side_masks.tokens for side_masks in of_side]
                for kind in GRANULARITIES:
                    columns[f"{side}_{kind}"] = [side_masks.of(kind) for side_masks in of_side]
            write(pl.DataFrame(columns, schema=schema))
            count += len(batch)
            batch = list(itertools.islice(rows, BATCH))
    log.info("%d pairs", count)


def marked_text(tokenizer: Any, side: TokenMasks) -> str:
    """A side in one line: changed tokens in «», other tokens of changed lines in ‹›."""
    marks = {0: ("", ""), 1: ("‹", "›"), 2: ("«", "»")}
    parts = []
    for token, mark in zip(side.tokens, side.hybrid, strict=True):
        left, right = marks[int(mark)]
        parts.append(left + tokenizer.decode([int(token)]).replace("\n", "⏎") + right)
    return "".join(parts)
