"""Variants by mutation: universalmutator in place of the teacher (Table VI of the paper)."""

import collections
import contextlib
import functools
import io
import logging
import random
import time
from pathlib import Path

import polars as pl

from fgit.common import files, processes
from fgit.common.code_blocks import block_at, parses
from fgit.common.errors import UserError
from fgit.common.progress import bar
from fgit.config import MutateSettings
from fgit.stage_reports import MutateReport, counts_in_words
from fgit.variants import VARIANT_COLUMNS, bytecode, normalised, sample_ids, sample_parts, seed_of

log = logging.getLogger(__name__)

RULE_FILES = ["universal.rules", "python.rules"]
REFUSALS = ("invalid", "same_bytecode", "duplicate")
MUTATED_SAMPLES = 100  # at a time
# Characters. A line of data can have thousands of mutants, each as long as it is: their number
# times their length grows with the square of the line's.
LONGEST_LINE = 500


def mutate(
    records: Path, out: Path, report: Path, settings: MutateSettings, threads: int = 1
) -> None:
    """Draw ``settings.variants`` mutants of each record's Python code.

    Args:
        records: Parquet with id, instruction, response, language, tests.
        out: Parquet as of a teacher (:data:`fgit.variants.VARIANT_COLUMNS`): the answer is the
            mutant, nothing is refused, tokens are null.
        report: :class:`fgit.stage_reports.MutateReport`, with the settings.
        threads: processes; the mutants are the same for any number.

    Raises:
        UserError: if a file is missing, or if no record has a usable mutant.
    """
    started = time.perf_counter()
    samples = len(sample_ids(records))
    counts: collections.Counter[str] = collections.Counter()
    parts = sample_parts(records, MUTATED_SAMPLES)
    mutated_parts = processes.each(
        functools.partial(mutate_part, settings=settings),
        (part.select("id", "response", "code_at") for part in parts),
        threads,
        samples,
    )
    with (
        files.writing_parquet(out, VARIANT_COLUMNS) as write,
        bar(description="Mutating", total=samples, unit="sample") as progress,
    ):
        for mutated, counts_of_part in mutated_parts:
            write(mutated)
            counts.update(counts_of_part)
            progress.update(counts_of_part["samples"])
        refused = {reason: counts[reason] for reason in REFUSALS}
        log.info(
            "%d mutants for %d of %d samples; refused %s",
            *(counts["usable"], counts["samples_with_variant"], samples),
            counts_in_words(refused),
        )
        if not counts["usable"]:
            raise UserError(
                f"{records}: no usable mutant of any of the {samples} responses "
                f"({counts['without_code']} without code, {counts['not_python']} not Python; "
                f"{counts_in_words(refused)})"
            )
    MutateReport(
        samples=samples,
        **{key: counts[key] for key in ("without_code", "not_python", "samples_with_variant")},
        mutants_tried=counts["usable"] + sum(refused.values()),
        refused=refused,
        usable=counts["usable"],
        seconds=round(time.perf_counter() - started, 3),
        **settings.model_dump(mode="json"),
    ).write(report)


def mutate_part(
    samples: pl.DataFrame, settings: MutateSettings
) -> tuple[pl.DataFrame, collections.Counter[str]]:
    """The mutants of some records, and counts under the report's keys.

    Args:
        samples: columns id, response and code_at.
    """
    rows = []
    counts = collections.Counter(samples=len(samples))
    for sample, response, place in samples.iter_rows():
        block = block_at(response, place)
        if block is None:
            counts["without_code"] += 1
            continue
        code = normalised(block.content)
        if not parses(code):
            counts["not_python"] += 1
            continue
        seed = seed_of(settings.seed, sample, 0)
        chosen, refused = draw_mutants(code, settings.variants, seed)
        counts.update(refused)
        counts["samples_with_variant"] += bool(chosen)
        counts["usable"] += len(chosen)
        for k, mutant in enumerate(chosen):
            rows.append({"id": sample, "k": k, "seed": seed, "answer": mutant, "code": mutant})
    return pl.DataFrame(rows, schema=VARIANT_COLUMNS), counts


def draw_mutants(code: str, count: int, seed: int) -> tuple[list[str], collections.Counter[str]]:
    """Up to ``count`` mutants drawn without replacement from the usable ones.

    Usable: a program whose bytecode is neither the original's nor that of another one drawn.

    Returns:
        The mutants (normalised), and how many were refused on the way: ``invalid``,
        ``same_bytecode``, ``duplicate``.
    """
    lines = [line + "\n" for line in code.split("\n")]
    candidates = mutants(lines)
    # Taking the first usable ones of a random order is such a draw, and few need be compiled.
    random.Random(seed).shuffle(candidates)
    original = bytecode(code)
    seen = {original}
    chosen: list[str] = []
    refused: collections.Counter[str] = collections.Counter()
    for number, changed in candidates:
        if len(chosen) == count:
            break
        mutant = normalised("".join([*lines[:number], changed, *lines[number + 1 :]]))
        meaning = bytecode(mutant)
        if meaning is None:
            refused["invalid"] += 1
        elif meaning == original:
            refused["same_bytecode"] += 1
        elif meaning in seen:
            refused["duplicate"] += 1
        else:
            seen.add(meaning)
            chosen.append(mutant)
    return chosen, refused


def mutants(lines: list[str]) -> list[tuple[int, str]]:
    """Every change that one of universalmutator's rules makes of one line, valid or not.

    Args:
        lines: of a program, each with the newline that ends it. Those that are longer than
            :data:`LONGEST_LINE` are left as they are.

    Returns:
        The line's number, from 0, and what takes its place.
    """
    from universalmutator import mutator

    short = [line if len(line) <= LONGEST_LINE else "\n" for line in lines]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the rules' names at every call
        changes = mutator.mutants_regexp(short, ruleFiles=RULE_FILES, ignorePatterns=[])
    return [(number - 1, changed) for number, changed, *_ in changes]
