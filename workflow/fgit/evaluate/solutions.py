"""Greedy solutions for a benchmark, asked as the EvalPlus leaderboard asks (section III-B2).

Prompts, stop strings and the sanitizer are EvalPlus's own (bigcodebench's for BigCodeBench, its
*complete* split). Where a chat template writes the BOS token, both let the tokenizer add a second
one in front, and so do we, since published numbers have it; the same with one BOS, as in training,
is a second set of samples.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.errors import UserError
from fgit.common.models import (
    load_model,
    load_tokenizer,
    prompt_ids,
    require_chat_template,
    settled,
)
from fgit.common.progress import Writing
from fgit.config import BenchmarkKind, EvaluateSettings
from fgit.inference.decoding import context_length, decode, end_tokens, greedy

log = logging.getLogger(__name__)

Mode = Literal["chat", "completion"]

# evalplus.codegen.run_codegen and bigcodebench.generate.run_codegen, which cannot be imported from
# there: they are local to one and a default argument in the other.
INSTRUCTION_PREFIX = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:"
)
RESPONSE_PREFIX = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:"
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model wrote: ``tokens`` counts the end token; ``truncated``: it met the limit."""

    text: str
    tokens: int
    truncated: bool


def evaluate(
    model: str,
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: EvaluateSettings,
    *,
    revision: str | None = None,
    template: str = "own",
    mode: Mode = "chat",
    sha256: str | None = None,
    one_bos: str | os.PathLike[str] | None = None,
) -> EvaluateSettings:
    """Write a model's greedy solution of every problem to ``out`` (JSONL).

    Rows, in the problems' order: task_id; solution (sanitized); raw (the model's answer, cut at
    the stop strings); prompt (the very text that the model was asked); tokens (new tokens);
    truncated (the answer met the length limit). For pairs, nothing is generated: the rows are
    those of :func:`fgit.evaluate.discrimination.discriminate`.

    Args:
        model: a name on the hub, a folder, or ``package:NAME/file.gguf``.
        template: as for :func:`fgit.common.models.load_tokenizer`.
        mode: ``chat`` asks by the chat template; ``completion`` lets the model go on with the
            bare prompt.
        sha256: the digest that the problem file must have.
        one_bos: the same rows for prompts that begin with one BOS token; no rows where they are
            the same prompts.

    Returns:
        The settings, with the dtype that ``auto`` was.

    Raises:
        UserError: for a bad problem file, a model that cannot be loaded, chat mode without a
            template, or a prompt longer than the model's context.
    """
    settings = settled(settings, "dtype")
    if kind == "pairs":
        from fgit.evaluate.discrimination import discriminate

        if one_bos is not None:
            files.write_jsonl(one_bos, [])  # pairs are asked with one, as in training
        discriminate(
            *(model, problems, out, settings),
            revision=revision,
            template=template,
            mode=mode,
            sha256=sha256,
        )
        return settings
    by_id = read_problems(kind, problems, sha256)
    tokenizer = load_tokenizer(model, revision, template)
    if mode == "chat":
        require_chat_template(tokenizer, model)
    prompts = [prompt_text(kind, problem, tokenizer, mode) for problem in by_id.values()]
    ids = [tokenizer(text)["input_ids"] for text in prompts]
    once = [prompt_ids(tokenizer, text) for text in prompts]
    network = load_model(model, revision, settings.dtype)
    check_context(network, dict(zip(by_id, ids, strict=True)), model, settings.max_new_tokens)

    def solve(ids: Sequence[list[int]]) -> list[dict[str, Any]]:
        answers = generate(network, tokenizer, ids, stop_strings(kind, mode), settings)
        return sample_rows(kind, mode, by_id, prompts, answers)

    rows = solve(ids)
    if one_bos is not None:
        if once == ids:
            again = []
        else:
            log.info("EvalPlus's prompts begin with two BOS tokens: once more, with one")
            again = solve(once)
        files.write_jsonl(one_bos, again)
    files.write_jsonl(out, rows)
    return settings


def sample_rows(
    kind: BenchmarkKind,
    mode: Mode,
    problems: Mapping[str, dict[str, Any]],
    prompts: Sequence[str],
    answers: Sequence[Answer],
) -> list[dict[str, Any]]:
    """The answers as rows, sanitized."""
    sanitize = sanitizer(kind)
    return [
        {
            "task_id": task_id,
            "solution": sanitize(
                answer.text if mode == "chat" else start_of_solution(kind, problem) + answer.text,
                problem["entry_point"],
            ),
            "raw": answer.text,
            "prompt": prompt,
            "tokens": answer.tokens,
            "truncated": answer.truncated,
        }
        for (task_id, problem), prompt, answer in zip(
            problems.items(), prompts, answers, strict=True
        )
    ]


# ------------------------------------------------------------------ what the benchmarks ask


def start_of_solution(kind: BenchmarkKind, problem: dict[str, Any]) -> str:
    """The code that a completion goes on from, as each benchmark's codegen gives it."""
    return (
        problem["complete_prompt"] if kind == "bigcodebench" else problem["prompt"].strip() + "\n"
    )


def prompt_text(kind: BenchmarkKind, problem: dict[str, Any], tokenizer: Any, mode: Mode) -> str:
    """The text that the model is asked: in chat mode, up to the opened code fence."""
    start = start_of_solution(kind, problem)
    if mode == "completion":
        return start
    if kind == "bigcodebench":
        from bigcodebench.provider.utility import make_raw_chat_prompt as bigcodebench_prompt

        return bigcodebench_prompt(
            task_prompt=start,
            subset="full",
            split="complete",
            instruction_prefix=INSTRUCTION_PREFIX,
            response_prefix=RESPONSE_PREFIX,
            tokenizer=tokenizer,
        )
    from evalplus.provider.utility import make_raw_chat_prompt

    return make_raw_chat_prompt(start, INSTRUCTION_PREFIX, RESPONSE_PREFIX, tokenizer)


def stop_strings(kind: BenchmarkKind, mode: Mode) -> tuple[str, ...]:
    """The strings at which an answer ends.

    BigCodeBench has none of its own in chat mode: what follows the code block is left to its
    sanitizer.
    """
    if kind == "bigcodebench":
        from bigcodebench.provider import utility as bigcodebench

        extra = bigcodebench.extra_eos_for_direct_completion(kind) if mode == "completion" else []
        return (*bigcodebench.EOS, *extra)
    from evalplus.provider import utility as evalplus

    if mode == "chat":
        return (*evalplus.EOS, "\n```\n")
    alike = (
        "mbpp" if kind == "mbpp" else "humaneval"
    )  # problems of one's own are a head to go on from
    return (*evalplus.EOS, *evalplus.extra_eos_for_direct_completion(alike))


def sanitizer(kind: BenchmarkKind) -> Callable[[str, str], str]:
    """The benchmark's own sanitizer; text that it cannot take is left as it is."""
    module = "bigcodebench" if kind == "bigcodebench" else "evalplus"
    own: Callable[[str, str], str] = importlib.import_module(f"{module}.sanitize").sanitize

    def sanitize(code: str, entry_point: str) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # it parses every pair of lines
                return own(code, entry_point)
        except (ValueError, RecursionError):  # null bytes, very deep nesting
            return code

    return sanitize


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
            name,
            max_new_tokens,
            len(ids[longest]),
            context,
        )


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    stops: Sequence[str],
    settings: EvaluateSettings,
) -> list[Answer]:
    """The model's greedy answer to each prompt, in the prompts' order.

    Args:
        prompts: token ids of each prompt.
        stops: an answer is cut where the first of these strings begins.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))  # little padding
    answers: dict[int, Answer] = {}
    started = time.monotonic()
    with Writing("evaluate", len(prompts), settings.max_new_tokens) as progress:
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            for row, answer in generate_batch(
                *(model, tokenizer, [prompts[i] for i in batch], stops),
                settings.max_new_tokens,
                progress.wrote,
            ):
                answers[batch[row]] = answer
                progress.end()
    seconds = time.monotonic() - started
    tokens = sum(answer.tokens for answer in answers.values())
    log.info(
        "%d answers, %d tokens in %.0f s (%.0f tokens/s), %d met the limit of %d tokens",
        len(answers),
        tokens,
        seconds,
        tokens / max(seconds, 1e-9),
        sum(answer.truncated for answer in answers.values()),
        settings.max_new_tokens,
    )
    return [answers[i] for i in range(len(prompts))]


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    stops: Sequence[str],
    max_new_tokens: int,
    wrote: Callable[[int], Any] = lambda tokens: None,
) -> Iterator[tuple[int, Answer]]:
    """Yield (row, answer) as the rows end."""
    ends = end_tokens(model, tokenizer)

    def ended(row: int, tokens: list[int]) -> bool:
        return tokens[-1] in ends or stopped(tokenizer, tokens, stops)

    for row, tokens, complete in decode(
        model, prompts, max_new_tokens=max_new_tokens, choose=greedy, ended=ended, wrote=wrote
    ):
        text = cut(tokenizer.decode(tokens, skip_special_tokens=True), stops)
        yield row, Answer(text, len(tokens), truncated=not complete)


def stopped(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the last token completed a stop string.

    Only the tail is decoded: a token holds at least one byte, so a string of n bytes ends within
    the last n tokens.
    """
    tail = max(len(stop.encode()) for stop in stops) + 1
    text = tokenizer.decode(list(tokens[-tail:]), skip_special_tokens=True)
    return any(stop in text for stop in stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string, tabs as four spaces (as EvalPlus's decoders do)."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))].replace("\t", "    ")
