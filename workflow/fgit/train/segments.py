"""What training saw of a few pairs, token by token: ``segments.json``, for the report's viewer."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from fgit.annotate import SIDES
from fgit.common.chat_templates import end_of_turn
from fgit.common.tokenizers import text_encodings
from fgit.config import TrainSettings
from fgit.masks import TokenMasks, whole_offsets
from fgit.stage_reports import SegmentsReport
from fgit.train.examples import Example, masks_of
from fgit.train.rows import needs_of
from fgit.variants import conversation

SAMPLE_COUNT = 8  # enough to see what the masks do, and small in a report of many trainings


def segments_of(
    frame: pl.DataFrame,
    trained_on: Sequence[Example],
    tokenizer: Any,
    samples: pl.DataFrame,
    settings: TrainSettings,
    count: int = SAMPLE_COUNT,
) -> SegmentsReport:
    """The first paired samples as training saw them.

    Args:
        frame: annotated pairs.
        trained_on: their examples, in the order of the frame.
        samples: what was noted of each (:data:`fgit.train.samples.SCHEMA`).
    """
    paired = [example for example in trained_on if example.paired][:count]
    names = [example.id for example in paired]
    rows = {row["id"]: row for row in frame.filter(pl.col("id").is_in(names)).iter_rows(named=True)}
    epochs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    columns = ("epoch", "step", "weight", "p_response", "p_variant")
    for row in samples.filter(pl.col("id").is_in(names)).iter_rows(named=True):
        epochs[row["id"]].append({name: row[name] for name in columns})
    end = end_of_turn(tokenizer)
    return SegmentsReport(
        objective=settings.objective,
        granularity=settings.granularity,
        weight=settings.weight if settings.objective == "fixed" else None,
        samples=[
            {
                "id": example.id,
                "instruction": conversation(rows[example.id]),
                **sides_of(rows[example.id], example, tokenizer, end, settings.objective),
                "epochs": epochs[example.id],
            }
            for example in paired
        ],
    )


def sides_of(
    row: Mapping[str, Any], example: Example, tokenizer: Any, end: int, objective: str
) -> dict[str, dict[str, Any]]:
    """Both sides of a pair, by name."""
    needs = needs_of(example, "dpo" if objective == "dpo" else "fgit")
    marks = needs.response_marks, needs.variant_marks
    both = cast("tuple[TokenMasks, TokenMasks]", masks_of(tokenizer, row))  # it is paired
    return {
        name: tokens_of_side(row[name], masks, h, tokenizer, tokenizer.decode([end]))
        for name, masks, h in zip(SIDES, both, marks, strict=True)
    }


def tokens_of_side(
    text: str, masks: TokenMasks, marks: np.ndarray, tokenizer: Any, end: str
) -> dict[str, Any]:
    """As :class:`fgit.stage_reports.SegmentSide`; ``marks`` are of the tokens that were kept."""
    count = len(masks.tokens) + 1
    return {
        "tokens": [*token_texts(tokenizer, text), end],
        "line": [*masks.line.tolist(), 0],
        "token": [*masks.token.tolist(), 0],
        "marks": [*marks.astype(int).tolist(), *[0] * (count - len(marks))],
        "kept": len(marks),
        "cut": len(marks) < count,
    }


def token_texts(tokenizer: Any, text: str) -> list[str]:
    """What each token of a text stands for; concatenated they are the text.

    Characters for which a tokenizer has no token (some drop control characters) stand with the
    token behind them, or the last; a text without any token has no texts.
    """
    [encoding] = text_encodings(tokenizer, [text])
    offsets = whole_offsets(np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2))
    ends = np.maximum.accumulate(offsets[:, 1])
    ends[-1:] = len(text)
    starts = np.concatenate([[0], ends])[:-1]
    return [text[start:stop] for start, stop in zip(starts, ends, strict=True)]
