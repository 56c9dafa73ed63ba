"""Discrimination: whether a model gives correct code a higher probability than incorrect code.

A benchmark of kind ``pairs`` holds pairs of correct and similar incorrect code that were kept out
of training. For each pair the objective's own means are taken: p̄ over the marked tokens of the
correct side and p̄′ over those of the incorrect one, under the hybrid mask (section II-B, equations
5 and 6). The model prefers the correct side where p̄ > p̄′; equal means are no preference. Forward
passes decide, nothing is generated and no program runs, so the measure has a value for every pair,
where pass@1 says only whether a whole program is right.

The model is asked as for any benchmark. In chat mode it gets EvalPlus's prompt up to the opened
code fence, and each side is the rest of that answer: the code, the closing fence, end of turn. In
completion mode it gets the bare prompt, and each side goes on from there.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fgit.benchmarks import humaneval
from fgit.benchmarks.pairs import NOT_COMPARED, continuations
from fgit.common.errors import UserError
from fgit.common.progress import bar
from fgit.common.tokenizers import prompt_ids, unmarked
from fgit.config import Mode, Precision, TrainSettings

if TYPE_CHECKING:
    from fgit.train.examples import Example

log = logging.getLogger(__name__)

CLOSING_FENCE = "\n```"
# By how much log P may differ between a packed row and a plain call. bfloat16, where there is no
# room for fp32, rounds log P to sixteenths and eighths.
EXACT = {"fp32": 0.01, "bf16": 1.0}


@dataclasses.dataclass(frozen=True)
class TokenizedPair:
    """A pair as a model sees it: the prompt's text, and ids and marks (None: no room for them)."""

    prompt: str
    example: Example | None
    tokens: int  # of the correct side, end of turn included, before any cut
    cut: bool  # whether a side met the end of the context
    not_compared: str | None  # a key of NOT_COMPARED


def discriminate(
    network: Any, tokenizer: Any, problems: Mapping[str, dict[str, Any]], mode: Mode
) -> list[dict[str, Any]]:
    """What a model gives each pair.

    The model runs on rows of several pairs, as in training. How pairs share rows changes the result
    by rounding only.

    Returns:
        Rows of task_id; p_correct and p_incorrect (p̄ and p̄′; null where nothing could be compared);
        not_compared (why, a key of :data:`NOT_COMPARED`, else null); prompt (the very text that the
        model was asked); tokens (of the correct side, end of turn included); truncated (a side met
        the end of the model's context).

    Raises:
        UserError: for a model that the training engine cannot run.
    """
    from fgit.train.engine import check_fits

    pairs = tokenize(problems, tokenizer, mode, max_length(network))
    started = time.monotonic()
    compared = [pair.example for pair in pairs.values() if pair.example and not pair.not_compared]
    check_fits(network, tokenizer, compared)
    means = mean_probabilities(network, compared)
    missing = Counter(pair.not_compared for pair in pairs.values() if pair.not_compared)
    for reason, count in missing.items():
        log.warning(
            "%d of %d pairs could not be compared and count as not preferred: %s",
            *(count, len(pairs), NOT_COMPARED[reason]),
        )
    preferred = sum(correct > incorrect for correct, incorrect in means.values())
    log.info(
        "pairs: %d of %d with the higher mean probability on the correct side, in %.0f s",
        *(preferred, len(pairs), time.monotonic() - started),
    )
    nothing = (None, None)
    return [
        {
            "task_id": task_id,
            "p_correct": means.get(task_id, nothing)[0],
            "p_incorrect": means.get(task_id, nothing)[1],
            "not_compared": pair.not_compared,
            "prompt": pair.prompt,
            "tokens": pair.tokens,
            "truncated": pair.cut,
        }
        for task_id, pair in pairs.items()
    ]


def max_length(network: Any) -> int:
    """Tokens that a sample may have: the model's context, or what its attention looks back."""
    from fgit.inference.decoding import context_length

    window = getattr(network.config, "sliding_window", None)
    return min(context_length(network), window or 2**31)


def side_answers(problem: Mapping[str, Any], mode: Mode) -> tuple[str, str]:
    """The correct and the incorrect side as the model would write them behind the prompt."""
    if mode == "completion":
        return continuations(problem)
    correct, incorrect = (problem[side].rstrip("\n") for side in ("correct", "incorrect"))
    return correct + CLOSING_FENCE, incorrect + CLOSING_FENCE


def tokenize(
    problems: Mapping[str, dict[str, Any]], tokenizer: Any, mode: Mode, max_length: int
) -> dict[str, TokenizedPair]:
    """Every pair as a model sees it, by task_id.

    Args:
        max_length: tokens of prompt and side that are kept.
    """
    import numpy as np

    from fgit.common.chat_templates import end_of_turn
    from fgit.masks import pair_masks
    from fgit.train.examples import build

    end = end_of_turn(tokenizer) if mode == "chat" else tokenizer.eos_token_id
    if end is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
    pairs: dict[str, TokenizedPair] = {}
    for task_id, problem in problems.items():
        prompt = humaneval.prompt(problem, tokenizer, mode)
        response, variant = pair_masks(tokenizer, *side_answers(problem, mode))
        example, counted = build(
            id=task_id,
            prompt=np.asarray(prompt_ids(tokenizer, prompt), dtype=np.int64),
            end=end,
            response=response,
            variant=variant,
            granularity="hybrid",
            max_length=max_length,
        )
        reason, cut = None, True
        if example is None:
            reason = "prompt_too_long"
        else:
            longest = max(len(response.tokens), len(variant.tokens)) + 1
            cut = len(example.prompt) + longest > max_length
            if "no_difference" in counted:
                reason = "same_tokens"
            elif (
                example.response_marks.sum() < response.hybrid.sum()
                or example.variant_marks.sum() < variant.hybrid.sum()
                or "marks_cut" in counted
            ):
                reason = "cut"
            elif not example.paired:
                reason = "same_tokens"
        text, tokens = unmarked(tokenizer, prompt), len(response.tokens) + 1
        pairs[task_id] = TokenizedPair(text, example, tokens, cut, reason)
    return pairs


def mean_probabilities(network: Any, examples: Sequence[Example]) -> dict[str, tuple[float, float]]:
    """p̄ and p̄′ of each pair, by id, in fp32 whatever the model computes in.

    Raises:
        UserError: if the training engine cannot run the model.
    """
    import torch

    from fgit.common.models import device
    from fgit.inference.decoding import in_fp32
    from fgit.train.engine import Engine, check_exact
    from fgit.train.rows import lay_out, pack

    precision: Precision = "bf16" if network.dtype is torch.bfloat16 else "fp32"
    settings = TrainSettings(precision=precision)
    try:
        engine = Engine(network, settings).eval()
        with in_fp32(network):
            check_exact(engine, EXACT["fp32" if network.dtype is torch.float32 else "bf16"])
    except UserError as error:
        raise UserError(
            f"{error}. Pairs are measured as training measures them: leave benchmarks of kind "
            "pairs out of this model's tables"
        ) from error
    rows = pack(examples, settings.token_budget, "fgit") if examples else []
    means: dict[str, tuple[float, float]] = {}
    with (
        torch.no_grad(),
        bar(description="evaluate", total=len(examples), unit="pair") as progress,
    ):
        for samples in rows:
            output = engine(lay_out(samples, "fgit").to(device()), objective="fgit")
            both = zip(output.p_response.tolist(), output.p_variant.tolist(), strict=True)
            means |= dict(zip((sample.id for sample in samples), both, strict=True))
            progress.update(len(samples))
    return means
