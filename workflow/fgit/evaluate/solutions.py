"""Greedy solutions for a benchmark, asked as the EvalPlus leaderboard asks (section III-B2).

Prompts, stop strings and the sanitizer are EvalPlus's own (bigcodebench's for BigCodeBench, its
*complete* split). Where a chat template writes the BOS token, both let the tokenizer add a second
one in front, and so do we, since published numbers have it; the same with one BOS, as in training,
is a second set of samples.
"""

import dataclasses
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from fgit.benchmarks.kind import Programs
from fgit.common.errors import UserError
from fgit.common.models import embedding_rows, require_rows
from fgit.common.progress import Writing
from fgit.common.tokenizers import answer_text, ids_of_prompts, unmarked
from fgit.config import EvaluateSettings, Mode
from fgit.inference.decoding import context_length, decode_texts

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RawAnswer:
    """What the model wrote: ``tokens`` counts the end token; ``truncated``: it met the limit."""

    text: str
    tokens: int
    truncated: bool


def solve(
    programs: Programs,
    name: str,
    model: Any,
    tokenizer: Any,
    problems: Mapping[str, dict[str, Any]],
    mode: Mode,
    settings: EvaluateSettings,
    *,
    with_one_bos: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A model's greedy solution of every problem.

    Args:
        name: the model's, for messages.
        with_one_bos: whether the model is asked once more with prompts that begin with one BOS
            token, where EvalPlus's begin with two.

    Returns:
        Rows of task_id; solution (sanitized); raw (the model's answer, cut at the stop strings);
        prompt (the very text that the model was asked); tokens (new tokens); truncated (the answer
        met the length limit). And the same of asking once more.

    Raises:
        UserError: if a prompt is longer than the model's context.
    """
    asked = [programs.prompt(problem, tokenizer, mode) for problem in problems.values()]
    prompts = [unmarked(tokenizer, text) for text in asked]
    ids = ids_of_prompts(tokenizer, asked, always=True)
    one_bos_ids = ids_of_prompts(tokenizer, asked)
    require_rows(embedding_rows(model), tokenizer, [*ids, *one_bos_ids], name)
    check_context(model, dict(zip(problems, ids, strict=True)), name, settings.max_new_tokens)

    def rows_of(ids: Sequence[list[int]]) -> list[dict[str, Any]]:
        answers = answer_greedily(model, tokenizer, ids, programs.stops(mode), settings)
        rows = []
        for problem, prompt, answer in zip(problems.values(), prompts, answers, strict=True):
            code = answer.text if mode == "chat" else prompt + answer.text
            rows.append(
                {
                    "task_id": problem["task_id"],
                    "solution": sanitized(programs, code, problem["entry_point"]),
                    "raw": answer.text,
                    "prompt": prompt,
                    "tokens": answer.tokens,
                    "truncated": answer.truncated,
                }
            )
        return rows

    rows = rows_of(ids)
    if not with_one_bos or one_bos_ids == ids:
        return rows, []
    log.info("EvalPlus's prompts begin with two BOS tokens: once more, with one")
    return rows, rows_of(one_bos_ids)


def sanitized(programs: Programs, code: str, entry_point: str) -> str:
    """The code by the benchmark's own sanitizer; text that it cannot take is left as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # it parses every pair of lines
            return programs.sanitize(code, entry_point)
    except (ValueError, RecursionError):  # null bytes, very deep nesting
        return code


# ------------------------------------------------------------------ greedy decoding


def check_context(model: Any, ids: dict[str, list[int]], name: str, max_new_tokens: int) -> None:
    context = context_length(model)
    longest = max(ids, key=lambda task_id: len(ids[task_id]))
    if len(ids[longest]) >= context:
        raise UserError(
            f"{name}: the prompt of {longest} has {len(ids[longest])} tokens, "
            f"but the model's context is {context}; this benchmark needs a model with a longer one"
        )
    if len(ids[longest]) + max_new_tokens > context:
        log.warning(
            "%s: some answers may end before max_new_tokens = %d: the longest prompt has %d tokens "
            "and the context %d",
            *(name, max_new_tokens, len(ids[longest]), context),
        )


def answer_greedily(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    stops: Sequence[str],
    settings: EvaluateSettings,
) -> list[RawAnswer]:
    """The model's greedy answer to each prompt, in the prompts' order.

    Args:
        prompts: token ids of each prompt.
        stops: an answer is cut where the first of these strings begins.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))  # little padding
    answers: dict[int, RawAnswer] = {}
    started = time.monotonic()
    with Writing("evaluate", len(prompts), settings.max_new_tokens) as progress:
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            for row, text, tokens, complete in decode_texts(
                *(model, tokenizer, [prompts[i] for i in batch]),
                lambda tokens: stopped(tokenizer, tokens, stops),
                max_new_tokens=settings.max_new_tokens,
                wrote=progress.wrote,
            ):
                answers[batch[row]] = RawAnswer(cut(text, stops), tokens, not complete)
                progress.end()
    seconds = time.monotonic() - started
    written = sum(answer.tokens for answer in answers.values())
    truncated = sum(answer.truncated for answer in answers.values())
    log.info(
        "%d answers, %d tokens in %.0f s (%.0f tokens/s), %d met the limit of %d tokens",
        *(len(answers), written, seconds, written / max(seconds, 1e-9)),
        *(truncated, settings.max_new_tokens),
    )
    return [answers[i] for i in range(len(prompts))]


def stopped(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the last token completed a stop string.

    Only the tail is decoded: a token holds at least one byte, so a string of n bytes ends within
    the last n tokens.
    """
    tail = max(len(stop.encode()) for stop in stops) + 1
    text = answer_text(tokenizer, tokens[-tail:])
    return any(stop in text for stop in stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string, tabs as four spaces (as EvalPlus's decoders do)."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))].replace("\t", "    ")
