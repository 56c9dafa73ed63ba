"""Decontaminate: leave out the samples that hold a benchmark's text (section III-B1).

A sample is removed where a benchmark's problem description or canonical solution occurs in its
instruction or in its response, case and whitespace aside. The parts are one function each: a
problem gives texts (:func:`problem_texts`), a text is normalised (:func:`normalise`), and many
texts are looked for at once (:func:`find`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit import files, processes
from fgit.benchmarks import check_pair, continuations, problem_rows
from fgit.config import DecontaminateSettings
from fgit.errors import UserError
from fgit.provenance import note_dataset
from fgit.subset import subset

log = logging.getLogger(__name__)

REQUIRED = ("instruction", "response")
OPTIONAL = ("id", "language", "tests")
COLUMNS = ("id", "instruction", "response", "language", "tests")

SHOWN_CHARACTERS = 300  # of a matched text in the report
SHOWN_BAD_ROWS = 20

PART = 8000  # samples that are searched at a time
FEW = 20_000  # samples for which starting processes would cost more than it saves

# The fields by which a benchmark's format is known, the first that fits; all hold text.
BIGCODEBENCH = ("complete_prompt", "canonical_solution", "entry_point")
HUMANEVAL = ("prompt", "canonical_solution", "entry_point")  # HumanEval+ and MBPP+ too
MBPP = ("text", "code")
PAIRS = ("prompt", "correct", "incorrect")

FUNCTION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
DOCSTRING = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
EXAMPLE = r">>>|(?:\bfor\s+)?\bexamples?\b|^[ \t]*assert\b"
SECTION = (
    r"^[ \t]*(?:parameters?|args|returns?|requirements?|raises?|notes?|constants?|functionality)"
    r"[ \t]*:"
)
LITERAL = r"""(?:["'\[({\d-]|True\b|False\b|None\b)"""


@dataclasses.dataclass(frozen=True)
class BenchmarkText:
    """A text that must not be in the data; ``what`` is ``description`` or ``solution``."""

    benchmark: str
    task_id: str
    what: str
    text: str


@dataclasses.dataclass(frozen=True)
class Match:
    """A benchmark's text in a sample's ``field``, from the character ``position`` on."""

    source: BenchmarkText
    field: str
    position: int


def decontaminate(
    data: str,
    benchmarks: Mapping[str, Path],
    out: Path,
    report: Path,
    settings: DecontaminateSettings,
    *,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
    split: str = "train",
    limit: int | None = None,
    threads: int = 1,
) -> None:
    """Write the samples of ``data`` that hold no text of ``benchmarks``.

    Args:
        data: a records file (a path or ``package:NAME/file``), or, where no such file exists,
            a dataset on the Hugging Face hub (``ORG/NAME``). Its rows have text fields
            ``instruction`` and ``response``, and may have ``id``, ``language`` and ``tests``.
        benchmarks: a benchmark's name -> its problem file.
        out: Parquet with String columns id, instruction, response, language and tests, in the
            order of ``data``; the last two may be null.
        report: JSON: how many samples came in, were unusable, were removed and kept, and for
            every removed sample the benchmark, task and text that it holds. An entry's position
            counts characters in the sample's field as it was given.
        fields: our name -> the data's name, where they differ.
        revision: the commit of a dataset on the hub.
        split: the split of a dataset on the hub.
        limit: keep at most this many of the clean samples, chosen by a hash of their ids.
        threads: processes that search; the result is the same.

    Raises:
        UserError: if a file or row cannot be used, an id occurs twice, there is no sample, or
            none is left. Nothing is written then.
    """
    texts: list[BenchmarkText] = []
    exempt = 0
    summaries: dict[str, dict[str, Any]] = {}
    for name, path in benchmarks.items():
        problems, found = read_benchmark(name, path)
        searched = [item for item in found if len(normalise(item.text)) >= settings.min_characters]
        exempt += len(found) - len(searched)
        texts += searched
        summaries[name] = {
            "problems": problems,
            "texts": len(searched),
            "sha256": files.sha256(path),
        }
    if not benchmarks:
        log.warning("no benchmark is named: nothing is looked for in %s", data)

    samples, bad = read_samples(data, settings.on_bad_row, fields, revision, split)
    if samples.is_empty():
        raise UserError(
            f"{data}: no usable sample ({len(bad)} bad rows{f', first: {bad[0]}' if bad else ''}); "
            "name a file or dataset that has some"
        )
    samples = samples.with_columns(identify(samples, data))
    matches = find_matches(samples, texts, threads)
    kept = samples.filter(pl.Series([not found for found in matches]))
    if kept.is_empty():
        raise UserError(
            f"{data}: all {len(samples)} samples hold a text of {', '.join(benchmarks)}, so "
            "nothing is left to train on; is a benchmark itself named as the data?"
        )

    clean = len(kept)
    if limit is not None:
        kept = kept.filter(subset(kept["id"], limit, seed=0))
    duplicates = len(kept) - kept.select(REQUIRED).n_unique()
    removed = [
        {
            "id": sample_id,
            "row": row,
            "benchmark": match.source.benchmark,
            "task_id": match.source.task_id,
            "what": match.source.what,
            "field": match.field,
            "text": match.source.text[:SHOWN_CHARACTERS],
            "position": match.position,
        }
        for sample_id, row, found in zip(samples["id"], samples["row"], matches, strict=True)
        for match in found
    ]
    removed_count = len(samples) - clean
    summary = {
        "samples": len(samples) + len(bad),
        "bad_rows": [str(row) for row in bad[:SHOWN_BAD_ROWS]],
        "bad_row_count": len(bad),
        "removed": removed,
        "removed_count": removed_count,
        "over_limit": clean - len(kept),
        "kept": len(kept),
        "duplicates": duplicates,
        "exempt_texts": exempt,
        "benchmarks": summaries,
        "rule": (
            "A sample is removed if a problem's description (its prose up to the first example or "
            "section) or canonical solution, lower-cased and without whitespace, occurs in its "
            "instruction or its response, each taken likewise; texts of fewer than "
            f"{settings.min_characters} characters without whitespace are exempt."
        ),
    }
    files.write_parquet(out, kept.select(COLUMNS))
    files.write_json(report, summary)

    by_benchmark = Counter(
        name for found in matches for name in {match.source.benchmark for match in found}
    )
    log.info(
        "%s: %d samples, %d removed (%s), %d over the limit, %d kept (%d duplicates), "
        "%d bad rows, %d trivial texts exempt",
        data,
        summary["samples"],
        removed_count,
        ", ".join(f"{name} {by_benchmark[name]}" for name in benchmarks) or "no benchmark",
        clean - len(kept),
        len(kept),
        duplicates,
        len(bad),
        exempt,
    )


# ------------------------------------------------------------------ the benchmarks


def read_benchmark(name: str, path: Path) -> tuple[int, list[BenchmarkText]]:
    """How many problems a problem file holds, and their texts.

    Raises:
        UserError: naming file and row, if a row is not a problem of a known benchmark.
    """
    problems = 0
    texts: list[BenchmarkText] = []
    for number, row in problem_rows(path):
        problem = row if isinstance(row, files.BadRow) else check_problem(path, number, row)
        if isinstance(problem, files.BadRow):
            raise UserError(
                f"{problem}. Benchmark {name!r} must be a problem file of HumanEval, MBPP, "
                "EvalPlus or BigCodeBench, or of pairs"
            )
        problems += 1
        texts += [
            BenchmarkText(name, problem["task_id"], what, text)
            for what, text in problem_texts(problem).items()
        ]
    if not problems:
        raise UserError(f"{path}: no problem in it; fetch the file of benchmark {name!r} again")
    return problems, texts


def check_problem(path: Path, number: int, row: Mapping[str, Any]) -> dict[str, Any] | files.BadRow:
    """The fields of a problem of a known benchmark, all text."""
    if "task_id" in row and all(name in row for name in PAIRS):
        pair = check_pair(f"{path}, row {number}", row)
        heads = FUNCTION.findall(pair["prompt"])  # helpers may stand before what is asked for
        return {
            "task_id": pair["task_id"],
            "prompt": pair["prompt"],
            "entry_point": heads[-1] if heads else "",
            "canonical_solution": continuations(pair)[0],
        }
    for names in (BIGCODEBENCH, HUMANEVAL, MBPP):
        if "task_id" in row and all(name in row for name in names):
            # MBPP numbers its tasks.
            values = {name: row[name] for name in names} | {"task_id": str(row["task_id"])}
            same = {name: name for name in values}
            return files.check_row(path, number, values, list(values), [], same, empty=())
    return files.BadRow(
        str(path), number, f"not a problem of a known benchmark (its fields: {', '.join(row)})"
    )


def problem_texts(problem: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a problem that must not be in the data: ``description`` and ``solution``.

    The description is the prose of the docstring, up to the first example; BigCodeBench's ends
    at the first section (Parameters, Returns, ...) too. MBPP's is its text.
    """
    if "text" in problem:
        description, solution = problem["text"], problem["code"]
    else:
        prompt = problem.get("complete_prompt") or problem["prompt"]
        end = f"{EXAMPLE}|{SECTION}" if "complete_prompt" in problem else EXAMPLE
        description = prose(docstring(prompt, problem["entry_point"]), problem["entry_point"], end)
        solution = problem["canonical_solution"]
    return {"description": description.strip(), "solution": solution.strip()}


def docstring(prompt: str, entry_point: str) -> str:
    """The source of the docstring of ``entry_point``; the whole prompt if it has none.

    The source and not the value, since that is what stands in a sample's code. Helpers may stand
    before the function, with docstrings of their own.
    """
    function = re.search(
        rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", prompt, re.MULTILINE
    )
    match = DOCSTRING.search(prompt, function.start() if function else 0)
    return match[2] if match else prompt


def prose(text: str, entry_point: str, end: str) -> str:
    """The part of a docstring before the first match of ``end``.

    Some docstrings have no heading over their examples, only lines with a call of the function;
    such a call has a literal argument (``f(n) = ...`` may be the definition that is asked for).
    """
    call = rf"^[ \t]*{re.escape(entry_point)}\([ \t]*{LITERAL}"
    match = re.search(f"{end}|{call}", text, re.IGNORECASE | re.MULTILINE)
    return text[: match.start()] if match else text


# ------------------------------------------------------------------ the samples


def read_samples(
    data: str,
    on_bad_row: str,
    fields: Mapping[str, str] | None,
    revision: str | None,
    split: str,
) -> tuple[pl.DataFrame, list[files.BadRow]]:
    """The rows of a records file or of a dataset on the hub, as :func:`files.read_records`."""
    path = files.resolve(data)
    if path.is_file():
        return files.read_records(path, REQUIRED, OPTIONAL, fields=fields, on_bad_row=on_bad_row)
    is_file_name = path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".parquet"))
    if path.exists() or is_file_name or not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        raise UserError(
            f"{data}: no such file; name a records file (.jsonl, .jsonl.gz, .json, .parquet) "
            f"or a dataset on the hub as ORG/NAME (looked in {Path.cwd()})"
        )
    rows = enumerate(load_from_hub(data, revision, split), start=1)
    source = f"{data} (hub, split {split})"
    return files.check_rows(rows, source, REQUIRED, OPTIONAL, fields=fields, on_bad_row=on_bad_row)


def load_from_hub(name: str, revision: str | None, split: str) -> Any:
    """A split of a dataset on the Hugging Face hub.

    Raises:
        UserError: if it cannot be reached, or has no such revision or split.
    """
    from fgit.hub import load_dataset

    try:
        found = load_dataset(name, revision=revision, split=split)
    except UserError:
        raise
    except Exception as error:  # the network libraries beneath it raise errors of their own
        raise UserError(
            f"{name}: no such file here, and the dataset of this name (revision "
            f"{revision or 'not pinned'}, split {split!r}) could not be loaded from the Hugging "
            f"Face hub: {error}. Check name, revision and split; on a machine without network, "
            "run fgit fetch --config CONFIG where there is one (same HF_HOME), or name a file"
        ) from error
    note_dataset(name, revision, found)
    return found


def identify(samples: pl.DataFrame, source: str) -> pl.Series:
    """Ids (String): the given one, else one from the content, the same wherever the row stands.

    Raises:
        UserError: if two rows give the same id.
    """
    first_row: dict[str, int] = {}
    for row, given in zip(samples["row"], samples["id"], strict=True):
        if given and given in first_row:
            raise UserError(
                f"{source}: rows {first_row[given]} and {row} have the same id {given!r}; "
                "give each row an id of its own, or leave the field out"
            )
        if given:
            first_row[given] = row
    taken = set(first_row)
    copies: Counter[str] = Counter()
    ids = []
    for identifier, instruction, response in samples.select("id", *REQUIRED).iter_rows():
        if not identifier:
            digest = hashlib.sha256(f"{instruction}\0{response}".encode()).hexdigest()[:16]
            copies[digest] += 1
            identifier = digest if copies[digest] == 1 else f"{digest}-{copies[digest]}"
            while identifier in taken:
                copies[digest] += 1
                identifier = f"{digest}-{copies[digest]}"
            taken.add(identifier)
        ids.append(identifier)
    return pl.Series("id", ids, dtype=pl.String)


# ------------------------------------------------------------------ the search


def normalise(text: str) -> str:
    """Lower case, without whitespace; each character alone gives its part of the result."""
    # str.lower is the same for each character alone but for the capital sigma, whose lower case
    # depends on its neighbours, and these differ between a text and a sample that holds it.
    return "".join(text.split()).replace("Σ", "σ").lower()


def original_position(text: str, offset: int) -> int:
    """Where in ``text`` the character ``offset`` of ``normalise(text)`` comes from."""
    for position, character in enumerate(text):
        if not character.isspace():
            offset -= len(character.lower())
            if offset < 0:
                return position
    return len(text)


def find(texts: Sequence[str], patterns: Sequence[str]) -> list[list[str]]:
    """For each text, those of ``patterns`` that occur in it, by one pass of Aho-Corasick."""
    if not patterns:  # polars refuses to search for nothing
        return [[] for _ in texts]
    found = pl.select(
        pl.lit(pl.Series(texts, dtype=pl.String)).str.extract_many(list(patterns), overlapping=True)
    )
    return [list(dict.fromkeys(row)) for row in found.to_series()]


def find_matches(
    samples: pl.DataFrame, texts: Sequence[BenchmarkText], threads: int = 1
) -> list[list[Match]]:
    """For each sample, the benchmark texts that it holds, each once and where it occurs first.

    A part of the samples is searched at a time, so that only the parts in work are there in
    normalised form too.
    """
    sources: dict[str, list[BenchmarkText]] = {}
    for text in texts:
        sources.setdefault(normalise(text.text), []).append(text)
    fields = samples.select(REQUIRED)
    parts = [fields.slice(start, PART) for start in range(0, len(fields), PART)]
    search = functools.partial(matches_in, sources=sources)
    workers = min(threads, len(parts)) if len(samples) >= FEW else 1
    found = processes.each(search, parts, workers)
    return [matches for part in found for matches in part]


def matches_in(
    samples: pl.DataFrame, sources: Mapping[str, Sequence[BenchmarkText]]
) -> list[list[Match]]:
    """:func:`find_matches` of one part; ``sources`` are the texts, by their normalised form."""
    originals = [text for field in REQUIRED for text in samples[field]]
    normalised = [normalise(text) for text in originals]
    matches: list[dict[BenchmarkText, Match]] = [{} for _ in range(len(samples))]
    for index, found in enumerate(find(normalised, list(sources))):  # once: it prepares the texts
        field, row = REQUIRED[index // len(samples)], index % len(samples)
        for pattern in found:
            position = original_position(originals[index], normalised[index].index(pattern))
            for source in sources[pattern]:
                matches[row].setdefault(source, Match(source, field, position))
    return [list(found.values()) for found in matches]
