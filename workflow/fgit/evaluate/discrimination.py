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
import importlib.metadata
import logging
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

import fgit
from fgit.benchmarks.problems import continuations, problems_digest, read_problems, read_samples
from fgit.common import files
from fgit.common.errors import UserError
from fgit.common.progress import bar
from fgit.common.statistics import paired_bootstrap, wilson
from fgit.config import BenchmarkKind, EvaluateSettings, Precision, TrainSettings

if TYPE_CHECKING:
    from fgit.train.examples import Example

log = logging.getLogger(__name__)

Mode = Literal["chat", "completion"]

CLOSING_FENCE = "\n```"
# Why the sides of a pair could not be compared. Such a pair counts as not preferred, so that every
# model is measured on all pairs.
NOT_COMPARED = {
    "prompt_too_long": "the prompt fills the model's context",
    "cut": "marked tokens lie behind the end of the model's context",
    "same_tokens": "the tokenizer gives both sides the same tokens",
}
# By how much log P may differ between a packed row and a plain call; bfloat16 rounds log P to
# sixteenths and eighths, while layers that mix samples change it by several.
EXACT = {"fp32": 0.01, "bf16": 1.0}
OUTCOMES = {
    "task_id": pl.String,
    "base_pass": pl.Boolean,
    "plus_pass": pl.Boolean,
    "solution": pl.String,
    "base_status": pl.String,
    "plus_status": pl.String,
    "p_correct": pl.Float64,
    "p_incorrect": pl.Float64,
    "not_compared": pl.String,
}


# ------------------------------------------------------------------ the forward passes


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair as a model sees it: the prompt's text, and ids and marks (None: no room for them)."""

    prompt: str
    example: Example | None
    tokens: int  # of the correct side, end of turn included, before any cut
    cut: bool  # whether a side met the end of the context
    not_compared: str | None  # a key of NOT_COMPARED


def discriminate(
    model: str,
    problems: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: EvaluateSettings,
    *,
    revision: str | None = None,
    template: str = "own",
    mode: Mode = "chat",
    sha256: str | None = None,
) -> None:
    """Write what a model gives each pair to ``out`` (JSONL).

    Rows, in the pairs' order: task_id; p_correct and p_incorrect (p̄ and p̄′; null where nothing
    could be compared); not_compared (why, a key of :data:`NOT_COMPARED`, else null); prompt (the
    very text that the model was asked); tokens (of the correct side, end of turn included);
    truncated (a side met the end of the model's context).

    The model runs in ``settings.dtype`` on rows of several pairs, as in training; the other
    settings are about generation. How pairs share rows changes the result by rounding only.

    Args:
        model, template, mode, sha256: as for :func:`fgit.evaluate.solutions.evaluate`.

    Raises:
        UserError: for a bad file of pairs, a model that cannot be loaded or that the training
            engine cannot run, or chat mode without a chat template.
    """
    from fgit.common.models import load_model, load_tokenizer, require_chat_template

    by_id = read_problems("pairs", problems, sha256)
    tokenizer = load_tokenizer(model, revision, template)
    if mode == "chat":
        require_chat_template(tokenizer, model)
    network = load_model(model, revision, settings.dtype)
    pairs = tokenize(by_id, tokenizer, mode, max_length(network))
    started = time.monotonic()
    means = mean_probabilities(
        network,
        [pair.example for pair in pairs.values() if pair.example and not pair.not_compared],
    )
    missing = Counter(pair.not_compared for pair in pairs.values() if pair.not_compared)
    for reason, count in missing.items():
        log.warning(
            "%d of %d pairs could not be compared and count as not preferred: %s",
            count,
            len(pairs),
            NOT_COMPARED[reason],
        )
    log.info(
        "pairs: %d of %d with the higher mean probability on the correct side, in %.0f s",
        sum(correct > incorrect for correct, incorrect in means.values()),
        len(pairs),
        time.monotonic() - started,
    )
    nothing = (None, None)
    files.write_jsonl(
        out,
        [
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
        ],
    )


def max_length(network: Any) -> int:
    """Tokens that a sample may have: the model's context, or what its attention looks back."""
    from fgit.inference.decoding import context_length

    window = getattr(network.config, "sliding_window", None)
    return min(context_length(network), window or 2**31)


def answers(problem: Mapping[str, Any], mode: Mode) -> tuple[str, str]:
    """The correct and the incorrect side as the model would write them behind the prompt."""
    if mode == "completion":
        return continuations(problem)
    correct, incorrect = (problem[side].rstrip("\n") for side in ("correct", "incorrect"))
    return correct + CLOSING_FENCE, incorrect + CLOSING_FENCE


def tokenize(
    problems: Mapping[str, Mapping[str, Any]], tokenizer: Any, mode: Mode, max_length: int
) -> dict[str, Pair]:
    """Every pair as a model sees it, by task_id.

    Args:
        max_length: tokens of prompt and side that are kept.
    """
    import numpy as np

    from fgit.common.models import prompt_ids
    from fgit.evaluate.solutions import prompt_text
    from fgit.masks import pair_masks
    from fgit.train.examples import build, end_of_turn

    end = end_of_turn(tokenizer) if mode == "chat" else tokenizer.eos_token_id
    if end is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
    found: dict[str, Pair] = {}
    for task_id, problem in problems.items():
        prompt = prompt_text("pairs", dict(problem), tokenizer, mode)
        response, variant = pair_masks(tokenizer, *answers(problem, mode))
        example, counted = build(
            id=task_id,
            prompt=np.asarray(prompt_ids(tokenizer, prompt), dtype=np.int64),
            end=end,
            response=response,
            variant=variant,
            granularity="hybrid",
            max_length=max_length,
        )
        reason = None
        cut = True
        if example is None:
            reason = "prompt_too_long"
        else:
            longest = max(len(response.tokens), len(variant.tokens)) + 1
            cut = len(example.prompt) + longest > max_length
            if (
                example.response_marks.sum() < response.hybrid.sum()
                or example.variant_marks.sum() < variant.hybrid.sum()
                or "marks_cut" in counted
            ):
                reason = "cut"
            elif not example.paired or np.array_equal(example.response, example.variant):
                reason = "same_tokens"
        found[task_id] = Pair(prompt, example, len(response.tokens) + 1, cut, reason)
    return found


def mean_probabilities(network: Any, examples: Sequence[Example]) -> dict[str, tuple[float, float]]:
    """p̄ and p̄′ of each pair, by id, in fp32 whatever the model computes in.

    Raises:
        UserError: if the training engine cannot run the model.
    """
    import torch

    from fgit.common.models import device
    from fgit.train.engine import Engine, check_exact
    from fgit.train.rows import lay_out, pack

    precision: Precision = "bf16" if network.dtype is torch.bfloat16 else "fp32"
    settings = TrainSettings(precision=precision)
    try:
        engine = Engine(network, settings).eval()
        check_exact(engine, EXACT[precision])
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


# ------------------------------------------------------------------ the score


def score_pairs(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    samples: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sha256: str | None = None,
) -> None:
    """Count how often a model prefers the correct side, and by how much.

    Writes in the folder ``out``, as scoring does for every benchmark:

    * ``outcomes.parquet``, a row per pair in the pairs' order: task_id, base_pass (p̄ > p̄′),
      plus_pass and plus_status (null), solution (the correct code), base_status (pass or fail),
      p_correct, p_incorrect, not_compared;
    * ``summary.json``: n (all pairs), pass@1 (base: the share preferred), its 95 % Wilson interval,
      gap (the mean of p̄ − p̄′ over the pairs that could be compared, and its 95 % bootstrap
      interval; null if there are none), not_compared (how many pairs, by reason).

    Args:
        samples: JSONL as :func:`discriminate` writes it.
        sha256: the digest that the file of pairs must have.

    Raises:
        UserError: if the samples do not name each pair exactly once, or hold something that is no
            probability.
    """
    started = time.monotonic()
    out = Path(out)
    problems = files.resolve(os.fspath(problems))
    by_id = read_problems(kind, problems, sha256)
    measured = {
        task_id: check_measured(where, row)
        for task_id, (where, row) in read_samples(by_id, samples).items()
    }
    rows = []
    for task_id, problem in by_id.items():
        found = measured[task_id]
        correct, incorrect = found["p_correct"], found["p_incorrect"]
        preferred = correct is not None and correct > incorrect
        rows.append(
            {
                "task_id": task_id,
                "base_pass": preferred,
                "plus_pass": None,
                "solution": problem["correct"],
                "base_status": "pass" if preferred else "fail",
                "plus_status": None,
                **found,
            }
        )
    frame = pl.DataFrame(rows, schema=OUTCOMES)
    compared = frame.filter(pl.col("p_correct").is_not_null())
    gap = None
    if compared.height:
        mean, low, high = paired_bootstrap(compared["p_correct"], compared["p_incorrect"])
        gap = {"mean": mean, "interval": [low, high], "n": compared.height}
    n, passed = frame.height, int(frame["base_pass"].sum())
    files.write_parquet(out / "outcomes.parquet", frame)
    summary = {
        "benchmark": kind,
        "n": n,
        "pass@1": {"base": passed / n, "plus": None},
        "interval": {"base": list(wilson(passed, n)), "plus": None},
        "gap": gap,
        "not_compared": counts(frame["not_compared"].drop_nulls()),
        "statuses": {"base": counts(frame["base_status"]), "plus": None},
        "problems": str(problems),
        "problems_sha256": problems_digest(problems),
        "samples_sha256": files.sha256(samples),
        "scorer": "fgit",
        "sandbox": None,  # no program runs
        "versions": {
            "fgit": fgit.__version__,
            "python": platform.python_version(),
            "numpy": importlib.metadata.version("numpy"),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    files.write_json(out / "summary.json", summary)
    log.info(
        "%s: the correct side preferred in %.1f %% of %d pairs%s",
        kind,
        100 * passed / n,
        n,
        "" if gap is None else f", mean gap {gap['mean']:+.3f}",
    )


def counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def check_measured(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Two probabilities, or none and the reason why there is none."""
    reason = row.get("not_compared")
    if reason is not None and (not isinstance(reason, str) or reason not in NOT_COMPARED):
        raise UserError(
            f"{where}: 'not_compared' is {reason!r:.60}, not one of {', '.join(NOT_COMPARED)}"
        )
    values: dict[str, Any] = {}
    for field in ("p_correct", "p_incorrect"):
        if field not in row:
            raise UserError(
                f"{where}: no {field!r} (it has: {', '.join(row)}); are these the samples of a "
                "benchmark of kind pairs?"
            )
        value = row[field]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if reason is None and not (number and math.isfinite(value) and 0 <= value <= 1):
            raise UserError(f"{where}: {field!r} is {value!r:.60}, not a probability")
        if reason is not None and value is not None:
            raise UserError(f"{where}: {field!r} is {value!r:.60}, but 'not_compared' is {reason}")
        values[field] = value
    return values | {"not_compared": reason}
