"""Similar but incorrect variants, written by a teacher model (section II-A of the paper)."""

from __future__ import annotations

import collections
import logging
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import Levenshtein
import polars as pl

from fgit import files, teachers, variants
from fgit.config import GenerateSettings
from fgit.errors import UserError
from fgit.markdown import PYTHON, CodeBlock, code_blocks, main_code, parses

log = logging.getLogger(__name__)

# The paper's template (Figure 3) is not in the text that we have; its two parts are: the task, and
# the problem with its correct solution. Small teachers follow the end of a prompt best.
TEMPLATE = """\
Below are a programming problem and its correct solution. Write an incorrect version of the \
solution: copy it, but make one small, subtle mistake, such as a wrong operator, condition, \
index, boundary or return value, so that it no longer solves the problem. Keep everything else \
as it is: the names, the order and the layout. Neither mark nor explain the mistake. Answer with \
the complete incorrect code in one Markdown code block.

### Problem
{instruction}

### Correct solution
{code}

### Incorrect solution
The same code with one small mistake:"""


GIVEN = "given"  # in place of the backend, where the answers were there already


def generate(
    records: Path,
    out: Path,
    report: Path,
    settings: GenerateSettings,
    *,
    given: Path | None = None,
) -> None:
    """Ask the teacher for ``settings.variants`` answers to each record that has code.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        given: answers that are there already, in place of a teacher's: rows of id and variant
            (code, or an answer with a code block), several of an id if there are. They are held to
            the same rules. Rows of other ids are counted and left out.
        out: Parquet, one row per answer in the records' order (:data:`fgit.variants.SCHEMA`).
        report: JSON with counts, reasons of refusal, speed and the settings.

    Raises:
        UserError: if a file or the teacher is missing, or if no answer at all is usable.
    """
    samples = variants.read_samples(records)
    texts = None if given is None else read_given(given)
    asked: list[tuple[str, str]] = []  # of each request: the correct code and its language
    requests: list[teachers.Request] = []
    without_code = 0
    for row in samples.iter_rows(named=True):
        block = main_code(row["response"])
        if block is None:
            without_code += 1
            continue
        code = variants.normalised(block.content)
        language = language_of(row["language"], block, code)
        prompt = teacher_prompt(row["instruction"], code, language)
        count = settings.variants if texts is None else len(texts.get(row["id"], []))
        for k in range(count):
            seed = variants.seed_of(settings.seed, row["id"], k)
            requests.append(teachers.Request(row["id"], k, seed, prompt))
            asked.append((code, language))
    if not requests and without_code == len(samples):
        raise UserError(f"{records}: none of the {len(samples)} responses has code")
    if not requests:
        first = next(iter(texts or {}), None)
        raise UserError(
            f"{given}: none of its ids is a sample with code (the first is {first!r}, and the "
            f"samples begin with {samples['id'][0]!r}); use the ids of {records}"
        )

    loading = time.perf_counter()
    made_by = {"teacher": settings.teacher, "backend": settings.backend}
    if texts is None:
        log.info("Loading the teacher %s (%s)", settings.teacher, settings.backend)
        stream = teachers.answers(requests, settings)
    else:
        made_by = {"teacher": str(given), "backend": GIVEN}
        stream = (
            teachers.Answer(index, texts[request.id][request.k], None)
            for index, request in enumerate(requests)
        )
    started = time.perf_counter()
    rows: list[dict[str, Any] | None] = [None] * len(requests)
    for answer in stream:
        request, (code, language) = requests[answer.index], asked[answer.index]
        # An endpoint's JSON may hold lone surrogates, which no file can.
        text = answer.text.encode("utf-8", "replace").decode("utf-8")
        variant, refused = None, answer.refused
        if refused is None:
            if texts is not None and not code_blocks(text):
                text = fenced(text, language)
            variant, refused = read_answer(text, code, language, settings.min_similarity)
        rows[answer.index] = {
            "id": request.id,
            "k": request.k,
            "seed": request.seed,
            "answer": text,
            "code": variant,
            "refused": refused,
            "tokens": answer.tokens,
        }
    seconds = time.perf_counter() - started

    frame = pl.DataFrame(rows, schema=variants.SCHEMA)
    usable = frame.filter(pl.col("code").is_not_null())
    refusals = collections.Counter(frame["refused"].drop_nulls().to_list())
    tokens = int(frame["tokens"].sum())
    summary = {
        "samples": len(samples),
        "without_code": without_code,
        "answers": len(frame),
        "usable": len(usable),
        "samples_with_variant": usable["id"].n_unique(),
        "refused": dict(refusals.most_common()),
        "load_seconds": round(started - loading, 3),
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else None,
        "batch_dependent": texts is None and teachers.batch_dependent(settings),
        **settings.model_dump(mode="json"),
        **made_by,
    }
    if texts is not None:
        summary["other_ids"] = len(texts.keys() - set(samples["id"]))
    log.info("%s", table(summary))
    if usable.is_empty():
        raise UserError(
            f"{records}: none of the {len(frame)} answers of the teacher {made_by['teacher']} is "
            f"usable ({reasons(refusals)}). Try a stronger teacher, a larger max_new_tokens "
            f"(now {settings.max_new_tokens}) or a lower min_similarity "
            f"(now {settings.min_similarity}); the first answer begins: {frame['answer'][0]!r:.200}"
        )
    files.write_parquet(out, frame)
    files.write_json(report, summary)


def language_of(language: str | None, block: CodeBlock, code: str) -> str:
    """The language of a record's code: the record's, its fence's, or Python where it parses."""
    named = (language or block.language).strip().lower()
    if named in PYTHON:
        return "python" if named or parses(code) else ""
    return named


def teacher_prompt(instruction: str, code: str, language: str) -> str:
    """The user message that asks for one variant: the task, then problem and correct solution.

    Args:
        language: for the code's fence; empty if unknown.
    """
    # Not str.format: instructions and code are full of braces, and the order of two plain
    # replacements would matter where the instruction itself says {code}.
    before, between = TEMPLATE.split("{instruction}")
    return before + instruction.strip() + between.replace("{code}", fenced(code, language))


def fenced(code: str, language: str) -> str:
    """The code as a Markdown block, whatever fences it holds itself."""
    marks = "`" * (max((len(run) for run in re.findall(r"`{3,}", code)), default=2) + 1)
    return f"{marks}{language}\n{code}\n{marks}"


def read_given(path: Path) -> dict[str, list[str]]:
    """Answers by sample id, in the file's order.

    Raises:
        UserError: naming file and row, for a row without id or variant.
    """
    frame, _ = files.read_records(path, ["id", "variant"])
    if frame.is_empty():
        raise UserError(f"{path}: no variants in it; each row has an id and a variant")
    found: dict[str, list[str]] = {}
    for row in frame.iter_rows(named=True):
        found.setdefault(row["id"], []).append(row["variant"])
    return found


def read_answer(
    answer: str, code: str, language: str, min_similarity: float
) -> tuple[str | None, str | None]:
    """The variant in a teacher's answer, or why there is none.

    The longest code block that parses, with its common indentation removed if it parses only so;
    a block that nothing closes goes to the end of the answer. Where the code is Python, an answer
    of bare code is taken too.

    Args:
        code: the correct code.
        language: the code's; anything but Python is compared as text and not parsed.
        min_similarity: the least Levenshtein ratio to ``code``, 0 to 1.

    Returns:
        ``(code, None)`` or ``(None, reason)``; the code is :func:`fgit.variants.normalised`, and
        the reason one of ``no_code``, ``same_code``, ``does_not_parse``, ``too_different``.
    """
    correct = variants.normalised(code)
    python = language in PYTHON and parses(correct)
    variant = longest_code(answer, python)
    if not variant:
        return None, "no_code"
    if variant == correct:
        return None, "same_code"
    if python:
        if not parses(variant):
            return None, "does_not_parse"
        if variants.bytecode(variant) == variants.bytecode(correct):
            return None, "same_code"
    if Levenshtein.ratio(variant, correct) < min_similarity:
        return None, "too_different"
    return variant, None


def longest_code(answer: str, python: bool) -> str:
    """The answer's longest block (of those that parse, if ``python`` and any does), or ''."""
    found = [variants.normalised(block.content) for block in code_blocks(answer)]
    if python:
        # An answer in a list item is indented as a whole.
        found = [code if parses(code) else dedented(code) for code in found]
        bare = main_code(answer) if not found else None
        found += [variants.normalised(bare.content)] if bare else []
    return max([code for code in found if python and parses(code)] or found, key=len, default="")


def dedented(code: str) -> str:
    plain = textwrap.dedent(code)
    return plain if parses(plain) else code


def reasons(refusals: collections.Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in refusals.most_common()) or "none"


def table(summary: dict[str, Any]) -> str:
    lines = [
        ("samples", summary["samples"]),
        ("  without code", summary["without_code"]),
        ("  with a variant", summary["samples_with_variant"]),
        ("answers", summary["answers"]),
        ("  usable", summary["usable"]),
        *((f"  {reason}", count) for reason, count in summary["refused"].items()),
        ("tokens/s", summary["tokens_per_second"] or 0),
    ]
    return "\n".join(
        ["What the teacher gave:", *(f"  {name:<20}{value:>10}" for name, value in lines)]
    )
