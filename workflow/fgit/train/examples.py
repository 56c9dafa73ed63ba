"""From annotated pairs to token ids and marks, as training and ``fgit weights`` see them."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fgit.annotate import SIDES, SPAN_COLUMNS, Segments
from fgit.common.chat_templates import end_of_turn
from fgit.common.errors import UserError
from fgit.common.subset import subset
from fgit.common.tokenizers import chat_prompt, ids_of_prompts
from fgit.config import WEIGHT_ONE, TrainSettings
from fgit.masks import BATCH, TokenMasks, masks_of_pairs

SHARE_BINS = 20  # of the share of marked tokens


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample as ids. Both sides end in the end-of-turn token unless they were cut.

    prompt: int64 [p]; response: int64 [n]; variant: int64 [m] (empty: nothing is paired).
    response_marks: int8 [n], h of the correct side; variant_marks: int8 [m].
    needs: what each objective needs of it, by its name (:func:`fgit.train.rows.needs_of`).
    """

    id: str
    prompt: np.ndarray
    response: np.ndarray
    response_marks: np.ndarray
    variant: np.ndarray
    variant_marks: np.ndarray
    needs: dict[str, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def paired(self) -> bool:
        """Whether the sample has a dynamic weight: both sides have a marked token."""
        return bool(self.response_marks.any() and self.variant_marks.any())


def fork(response: np.ndarray, variant: np.ndarray) -> int | None:
    """The first index at which the token ids differ; None if one begins with the other."""
    shared = min(len(response), len(variant))
    different = np.flatnonzero(response[:shared] != variant[:shared])
    return int(different[0]) if len(different) else None


def build(
    id: str,
    prompt: np.ndarray,
    response: TokenMasks,
    variant: TokenMasks | None,
    *,
    end: int,
    granularity: str,
    max_length: int,
) -> tuple[Example | None, list[str]]:
    """Put a sample together: marks, the token at the fork for an empty side, the cut.

    Returns:
        The example, None if the prompt leaves no room for a response, and what to count of it:
        ``cut``, ``no_variant``, ``fork_for_response``, ``fork_for_variant``,
        ``no_difference``, ``marks_cut``, ``prompt_too_long``.
    """
    room = max_length - len(prompt)
    if room < 1:
        return None, ["prompt_too_long"]
    y = np.append(response.tokens, end)
    counted = ["cut"] if len(y) > room else []
    if variant is None:
        marks = np.zeros(len(y), dtype=np.int8)
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return Example(id, prompt, y[:room], marks[:room], *nothing), [*counted, "no_variant"]
    v = np.append(variant.tokens, end)
    y_marks = np.append(response.of(granularity), 0).astype(np.int8)
    v_marks = np.append(variant.of(granularity), 0).astype(np.int8)
    # Where exactly one side has no marked token, its token at the fork stands for it: there the
    # model chooses between going on and the missing segment.
    at = fork(y, v)
    if at is None:
        counted.append("no_difference")
    elif not y_marks.any() and v_marks.any():
        y_marks[at] = 1
        counted.append("fork_for_response")
    elif not v_marks.any() and y_marks.any():
        v_marks[at] = 1
        counted.append("fork_for_variant")
    paired = at is not None and y_marks.any() and v_marks.any()
    y, y_marks, v, v_marks = y[:room], y_marks[:room], v[:room], v_marks[:room]
    # Marks on tokens that are the same on both sides set nothing apart.
    if at is None or at >= room or not (y_marks.any() and v_marks.any()):
        if paired:
            counted.append("marks_cut")
        y_marks, v_marks = np.zeros_like(y_marks), np.zeros_like(v_marks)
    return Example(id, prompt, y, y_marks, v, v_marks), counted


def examples(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    granularity: str = "hybrid",
    max_length: int = 1024,
) -> tuple[list[Example], Counter[str]]:
    """Tokenize annotated pairs.

    Args:
        rows: id, instruction, response, variant (or None), perhaps history, and the spans that
            :func:`fgit.annotate.annotate` adds.

    Returns:
        The examples, and how often what :func:`build` counts occurred (``samples`` is how many).
    """
    build_one = functools.partial(
        build, end=end_of_turn(tokenizer), granularity=granularity, max_length=max_length
    )
    built: list[Example] = []
    counts: Counter[str] = Counter()
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        counts["samples"] += len(batch)
        prompts = prompts_of(tokenizer, batch)
        sides = masks_of_rows(tokenizer, batch)
        for row, prompt, (response, variant) in zip(batch, prompts, sides, strict=True):
            example, counted = build_one(row["id"], prompt, response, variant)
            counts.update(counted)
            if example is not None:
                counts["paired"] += example.paired
                built.append(example)
    return built, counts


def is_used(example: Example, settings: TrainSettings) -> bool:
    """Whether a sample has what the objective is about: any, for standard SFT, else a difference.

    Without one, FGit and a fixed weight give all its tokens weight 1, and DPO learns nothing of it.
    """
    if settings.objective == "dpo":
        return fork(example.response, example.variant) is not None
    return settings.pairs_get == WEIGHT_ONE or example.paired


def check_used(
    where: Path, built: Sequence[Example], samples: int, settings: TrainSettings, end: int
) -> int:
    """How many of the samples the objective can use (:func:`is_used`).

    Args:
        where: their file, for the message.
        built: the examples that were made of them; the others' prompts leave no room.
        end: the end-of-turn token, which a side that was cut does not end in.

    Raises:
        UserError: if their share is below ``settings.min_share``. It says why, and what to do.
    """
    unused = [example for example in built if not is_used(example, settings)]
    used = len(built) - len(unused)
    if used >= settings.min_share * samples:
        return used
    reasons = Counter(why_unused(example, end) for example in unused)
    reasons["prompt_too_long"] = samples - len(built)
    longer = f"raise max_length, now {settings.max_length}"
    words = {
        "no_variant": ("no variant", "see why in the reports of select, and of generate or mutate"),
        "no_difference": ("response and variant have the same tokens", "give other variants"),
        "no_mark": ("no token is marked", "annotate the pairs again"),
        "cut": ("no difference within max_length", longer),
        "prompt_too_long": ("prompt as long as max_length", longer),
    }
    most, _ = reasons.most_common(1)[0]
    advice = [words[most][1]]
    if used:
        advice.append(f"lower min_share, now {settings.min_share:g}, and say so")
    if settings.objective != "dpo" and most != "prompt_too_long":
        advice.append("choose standard SFT (objective fixed, weight 1), which this nearly is")
    why = ", ".join(f"{words[reason][0]} {count}" for reason, count in reasons.items() if count)
    raise UserError(
        f"{where}: {f'only {used}' if used else 'none'} of {samples} samples can be trained on "
        f"with {settings.pairs_get} ({why}): {'; or '.join(advice)}"
    )


def why_unused(example: Example, end: int) -> str:
    """Why nothing sets the two sides of a sample apart, as a key of :func:`check_used`'s words."""
    if not len(example.variant):
        return "no_variant"
    if example.response[-1] != end or example.variant[-1] != end:
        return "cut"
    different = fork(example.response, example.variant) is not None
    return "no_mark" if different else "no_difference"


def prompts_of(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Each row's prompt, its ``history`` first if it has one, int64 ids
    (:func:`fgit.common.tokenizers.ids_of_prompts`)."""
    texts = [chat_prompt(tokenizer, r["instruction"], r.get("history") or ()) for r in rows]
    return [np.asarray(ids, dtype=np.int64) for ids in ids_of_prompts(tokenizer, texts)]


def masks_of(tokenizer: Any, row: Mapping[str, Any]) -> tuple[TokenMasks, TokenMasks | None]:
    """The masks of one annotated pair; None for the variant that a sample does not have."""
    return masks_of_rows(tokenizer, [row])[0]


def masks_of_rows(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]]
) -> list[tuple[TokenMasks, TokenMasks | None]]:
    """:func:`masks_of` of each row, in one call of the tokenizer."""
    pairs = [(row["response"], row["variant"] or "") for row in rows]
    spans = [
        Segments(*([] if row["variant"] is None else row[name] for name in SPAN_COLUMNS))
        for row in rows
    ]
    sides = masks_of_pairs(tokenizer, pairs, spans)
    return [
        (response, None if row["variant"] is None else variant)
        for row, (response, variant) in zip(rows, sides, strict=True)
    ]


def marked_share_bins(built: Iterable[Example], end: int) -> dict[str, list[int]]:
    """How many pairs have which share of their tokens marked, as trained on.

    Args:
        end: the end-of-turn token; at the end of a side it does not count, marked or not.

    Returns:
        response, variant: the paired examples in each of SHARE_BINS equal parts of [0, 1]; a share
        that two parts meet at belongs to the upper one, and an empty text has the share 0.
    """
    bins = {side: [0] * SHARE_BINS for side in SIDES}
    for example in (example for example in built if example.paired):
        for side, counts in bins.items():
            ids, marks = getattr(example, side), getattr(example, f"{side}_marks")
            if ids[-1] == end:
                marks = marks[:-1]
            share = int(np.count_nonzero(marks)) * SHARE_BINS // max(len(marks), 1)
            counts[min(share, SHARE_BINS - 1)] += 1
    return bins


def split_held_out(frame: pl.DataFrame, count: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep ``count`` samples out of training: the same ones for every run on a dataset.

    Returns:
        (samples to train on, held-out samples), both in the order of ``frame``.
    """
    if count >= frame.height:
        raise UserError(
            f"held_out is {count}, but there are only {frame.height} samples; hold out fewer"
        )
    held_out = subset(frame["id"], count, seed)
    return frame.filter(~held_out), frame.filter(held_out)
