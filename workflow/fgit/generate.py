"""Similar but incorrect variants, written by a teacher model (section II-A of the paper)."""

import collections
import dataclasses
import hashlib
import importlib.resources
import json
import logging
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import Levenshtein
import polars as pl

from fgit.common import files
from fgit.common.chat_templates import TEACHER_PROMPT
from fgit.common.code_blocks import (
    PYTHON,
    CodeBlock,
    block_at,
    code_blocks,
    fenced,
    main_code,
    parses,
)
from fgit.common.errors import Stopped, UserError
from fgit.common.provenance import digest
from fgit.config import GenerateSettings
from fgit.gather import counts_in_lines, one_promise, records_digest, rows_of_shard
from fgit.inference import engines
from fgit.inference.answer_journal import AnswerJournal, Share
from fgit.inference.requests import Answer, Request
from fgit.stage_reports import ShardReport, counts_in_words
from fgit.variants import (
    VARIANT_COLUMNS,
    bytecode,
    conversation,
    normalised,
    read_samples,
    seed_of,
)

log = logging.getLogger(__name__)

PROMPT = jinja2.Template(
    (importlib.resources.files("fgit") / f"prompts/{TEACHER_PROMPT}.jinja").read_text("utf-8")
)

# A shard whose answers are all unusable is an error if it has so many; a smaller one may just have
# hard samples, and is written.
NO_CHANCE = 12

# What an answer does not depend on (a server may move), and what its key, or its entry in the
# journal, has in another form.
NOT_OF_ANSWERS = {
    *("variants", "seed", "shards", "min_similarity", "url", "teacher", "revision", "dtype"),
    *GenerateSettings.speed_fields(),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """A request, and the correct code that its answer is compared with."""

    request: Request
    code: str
    language: str


def generate(
    records: Path,
    out: Path,
    report: Path,
    settings: GenerateSettings,
    *,
    given: Path | None = None,
    shard: int | None = None,
) -> GenerateSettings:
    """Ask the teacher for ``settings.variants`` answers to each record that has code.

    The answers are kept in ``state/NAME/answers.jsonl`` beside ``out`` as they come, and for good;
    NAME is that of ``out`` without its suffix. Later starts request what is missing there and in
    the journals beside it. Where none is usable they are dropped, except what they cost, so that a
    second try requests them all.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        given: answers in place of a teacher's: rows of id and variant (code, or an answer with a
            code block), any number of each id. The same rules hold for them. Rows of other ids are
            counted and left out.
        shard: which of the ``settings.shards`` parts of the records, from 1
            (:func:`fgit.gather.rows_of_shard`); None where there is one only.
        out: Parquet (:data:`fgit.variants.VARIANT_COLUMNS`), one row per answer in the records'
            order.
        report: :class:`fgit.stage_reports.ShardReport`, with the settings.

    Returns:
        The settings, with the dtype that ``auto`` was where the teacher ran here.

    Raises:
        UserError: if a file or the teacher is missing, or if no answer at all is usable (of one of
            several shards: none of ``NO_CHANCE`` or more).
        Stopped: on SIGTERM, with all answers kept.
        OSError: if the disk is full.
    """
    number = shard_number(shard, settings.shards, given)
    samples = read_samples(records)
    samples = samples[rows_of_shard(len(samples), number, settings.shards)]
    texts = None if given is None else read_given(given)
    questions, without_code = questions_of(samples, settings, texts)
    if not questions and settings.shards == 1:
        raise nothing_to_ask(records, samples, given, texts)

    rows: list[tuple[Any, ...]] = [()] * len(questions)

    def take(answer: Answer) -> None:
        rows[answer.index] = variant_row(questions[answer.index], answer, settings)

    journal = None
    promises: Sequence[str] = []
    of_given: dict[str, Any] = {}  # what the report says of given answers alone
    if texts is None:
        requests = [question.request for question in questions]
        journal = AnswerJournal(
            out.parent / "state" / out.stem,
            answer_keys(requests, settings),
            Share(os.path.relpath(records, out.parent), number, settings.shards),
            None if settings.dtype == "auto" or settings.backend == "openai" else settings.dtype,
        )
        with journal:
            settings, load_seconds = ask(requests, settings, journal, take)
        seconds, promises = journal.seconds, journal.promises
    else:
        started = time.perf_counter()
        for index, question in enumerate(questions):
            text = texts[question.request.id][question.request.k]
            if not code_blocks(text):
                text = fenced(text, question.language)
            take(Answer(index, text, None))
        load_seconds, seconds = 0.0, time.perf_counter() - started
        other_ids = texts.keys() - set(samples["id"])
        of_given = {"teacher": str(given), "backend": "given", "other_ids": len(other_ids)}

    frame = pl.DataFrame(rows, schema=VARIANT_COLUMNS, orient="row")
    usable = frame.filter(pl.col("code").is_not_null())
    refused = collections.Counter(frame["refused"].drop_nulls().to_list())
    tokens = int(frame["tokens"].sum())
    summary = ShardReport(
        samples=len(samples),
        without_code=without_code,
        answers=len(frame),
        usable=len(usable),
        samples_with_variant=usable["id"].n_unique(),
        refused=dict(refused.most_common()),
        load_seconds=round(load_seconds, 3),
        seconds=round(seconds, 3),
        tokens=tokens,
        tokens_per_second=round(tokens / seconds, 1) if seconds > 0 else None,
        same_text=one_promise(promises),
        **settings.model_dump(mode="json")
        | {"shard": number, "records_sha256": records_digest(samples)}
        | of_given,
    )
    log.info("%s", counts_in_lines(summary))
    if usable.is_empty() and len(questions) >= (1 if settings.shards == 1 else NO_CHANCE):
        if journal is not None:
            journal.drop()
        where = f"{records}, shard {number} of {settings.shards}" if shard else str(records)
        raise UserError(
            f"{where}: none of the {len(frame)} answers of the teacher {summary.teacher} is "
            f"usable ({counts_in_words(summary.refused)}). Try a stronger teacher, a larger "
            f"max_new_tokens (now {settings.max_new_tokens}) or a lower min_similarity "
            f"(now {settings.min_similarity}); the first answer begins: {frame['answer'][0]!r:.200}"
        )
    files.write_parquet(out, frame)
    summary.write(report)
    return settings


def shard_number(shard: int | None, shards: int, given: Path | None) -> int:
    """The shard, 1 where there is one only; UserError if there is no such shard."""
    if given is not None and shards > 1:
        raise UserError(
            f"--given {given}: answers that are there already are one shard; leave out --shards "
            f"(now {shards})"
        )
    if shard is None and shards > 1:
        raise UserError(f"--shards {shards}: which of them? Add --shard, 1 to {shards}")
    if shard is not None and not 1 <= shard <= shards:
        raise UserError(f"--shard {shard} of --shards {shards}: give a number from 1 to {shards}")
    return shard or 1


def questions_of(
    samples: pl.DataFrame, settings: GenerateSettings, texts: Mapping[str, Sequence[str]] | None
) -> tuple[list[Question], int]:
    """The questions, in the samples' order, and how many samples have no code to ask about.

    Args:
        texts: given answers by sample id; None has ``settings.variants`` questions of each sample.
    """
    questions: list[Question] = []
    without_code = 0
    for row in samples.iter_rows(named=True):
        block = block_at(row["response"], row["code_at"])
        if block is None:
            without_code += 1
            continue
        code = normalised(block.content)
        language = language_of(row["language"], block, code)
        prompt = teacher_prompt(conversation(row), code, language)
        count = settings.variants if texts is None else len(texts.get(row["id"], []))
        for k in range(count):
            request = Request(row["id"], k, seed_of(settings.seed, row["id"], k), prompt)
            questions.append(Question(request, code, language))
    return questions, without_code


def nothing_to_ask(
    records: Path, samples: pl.DataFrame, given: Path | None, texts: Mapping[str, object] | None
) -> UserError:
    if not texts:
        return UserError(f"{records}: none of the {len(samples)} responses has code")
    return UserError(
        f"{given}: none of its ids is a sample with code (the first is {next(iter(texts))!r}, and "
        f"the samples begin with {samples['id'][0]!r}); use the ids of {records}"
    )


def variant_row(question: Question, answer: Answer, settings: GenerateSettings) -> tuple[Any, ...]:
    """A row of :data:`fgit.variants.VARIANT_COLUMNS`."""
    variant, refused = None, answer.refused
    if refused is None:
        variant, refused = read_answer(
            answer.text, question.code, question.language, settings.min_similarity
        )
    request = question.request
    return (request.id, request.k, request.seed, answer.text, variant, refused, answer.tokens)


# ------------------------------------------------------------------ asking


def ask(
    requests: Sequence[Request],
    settings: GenerateSettings,
    journal: AnswerJournal,
    take: Callable[[Answer], None],
) -> tuple[GenerateSettings, float]:
    """Take the journal's answers, and the teacher's to the other requests, which the journal keeps.

    Later answers have the dtype of the first ones, where the settings leave it to the machine.

    Returns:
        The settings that the teacher answered by, and the seconds that loading it took; 0 where it
        has nothing left to answer.

    Raises:
        Stopped: on SIGTERM, saying how far it came.
    """
    for answer in journal.answers.values():
        take(answer)
    missing = [index for index in range(len(requests)) if index not in journal.answers]
    if not missing:
        return settings.model_copy(update={"dtype": journal.dtype or settings.dtype}), 0.0
    if journal.answers:
        log.info("%d of %d answers are there already", len(journal.answers), len(requests))
    log.info("Loading the teacher %s (%s)", settings.teacher, settings.backend)
    loading = time.perf_counter()
    done = len(journal.answers)
    where = "loading the teacher"
    try:
        settings = engines.with_dtype(settings, journal.dtype)
        stream = engines.answers([requests[index] for index in missing], settings, journal.spent)
        load_seconds = time.perf_counter() - loading
        answers = (dataclasses.replace(a, index=missing[a.index]) for a in stream)
        dtype = None if settings.backend == "openai" else settings.dtype
        for answer in journal.keep(answers, engines.promise(settings), dtype):
            done += 1
            where = f"answer {done} of {len(requests)}"
            take(answer)
    except Stopped:
        raise Stopped(where) from None
    return settings, load_seconds


def answer_keys(requests: Sequence[Request], settings: GenerateSettings) -> list[str]:
    """Digests of all that each answer depends on but the dtype.

    A teacher that lies here is named by what its files hold, wherever they are.
    """
    values = settings.model_dump(mode="json", exclude=NOT_OF_ANSWERS)
    values["teacher"] = settings.teacher
    if settings.backend != "openai":
        files_of_teacher = files.resolve(settings.teacher)
        if files_of_teacher.exists():
            values["teacher"] = digest(files_of_teacher)
        else:
            values["revision"] = settings.revision
    common = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    keys = []
    for request in requests:
        key = common.copy()
        key.update(json.dumps(dataclasses.astuple(request)).encode())
        keys.append(key.hexdigest())
    return keys


# ------------------------------------------------------------------ prompts and answers


def language_of(language: str | None, block: CodeBlock, code: str) -> str:
    """The language of a record's code: Python if the record or its fence says so, else the fence's,
    the record's (which some data have for that of the text, English), or Python where it parses."""
    named = [name for name in (block.language, (language or "").strip().lower()) if name]
    if PYTHON.intersection(named) or (not named and parses(code)):
        return "python"
    return named[0] if named else ""


def teacher_prompt(instruction: str, code: str, language: str) -> str:
    """The user message that asks for one variant: the task, then problem and correct solution.

    Args:
        language: for the code's fence; empty if unknown.
    """
    return PROMPT.render(instruction=instruction.strip(), code=fenced(code, language))


def read_given(path: Path) -> dict[str, list[str]]:
    """Answers by sample id, in the file's order.

    Raises:
        UserError: naming file and row, for a row without id or variant.
    """
    frame, _ = files.read_records(path, ["id", "variant"])
    if frame.is_empty():
        raise UserError(f"{path}: no variants in it; each row has an id and a variant")
    by_id: dict[str, list[str]] = {}
    for identifier, text in frame.select("id", "variant").iter_rows():
        by_id.setdefault(identifier, []).append(text)
    return by_id


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
    correct = normalised(code)
    python = language in PYTHON and parses(correct)
    variant = longest_code(answer, python)
    if not variant:
        return None, "no_code"
    if variant == correct:
        return None, "same_code"
    if python:
        if not parses(variant):
            return None, "does_not_parse"
        if bytecode(variant) == bytecode(correct):
            return None, "same_code"
    if Levenshtein.ratio(variant, correct) < min_similarity:
        return None, "too_different"
    return variant, None


def longest_code(answer: str, python: bool) -> str:
    """The answer's longest block (of those that parse, if ``python`` and any does), or ''."""
    codes = [normalised(block.content) for block in code_blocks(answer)]
    if python:
        # An answer in a list item is indented as a whole.
        codes = [code if parses(code) else dedented(code) for code in codes]
        bare = main_code(answer) if not codes else None
        codes += [normalised(bare.content)] if bare else []
    return max([code for code in codes if python and parses(code)] or codes, key=len, default="")


def dedented(code: str) -> str:
    plain = textwrap.dedent(code)
    return plain if parses(plain) else code
