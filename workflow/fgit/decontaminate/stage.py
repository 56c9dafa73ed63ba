"""The stage: data read in parts, searched on all cores, and written as it comes."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fgit.common import files, processes
from fgit.common.code_blocks import main_code, place_of
from fgit.common.dataset_fields import check_template, has_field
from fgit.common.errors import UserError
from fgit.common.progress import bar
from fgit.common.provenance import note_dataset
from fgit.common.subset import subset
from fgit.config import DecontaminateSettings, Turns, misfit
from fgit.decontaminate.chats import BESIDE, samples_of_rows
from fgit.decontaminate.search import MATCH_RULES, REMOVES, TEXT_FIELDS, Match, Search
from fgit.decontaminate.texts import normalise, read_benchmark
from fgit.stage_reports import DecontaminateReport, FoundText, counts_in_words
from fgit.variants import CODE_AT, HISTORY, RECORD_COLUMNS

log = logging.getLogger(__name__)

CLEAN_COLUMNS = {**RECORD_COLUMNS, "code_at": CODE_AT}
TYPES: dict[Any, type[pl.DataType]] = {str: pl.String, int: pl.Int64, bool: pl.Boolean}
MATCH_COLUMNS = {
    name: TYPES.get(field.annotation, pl.Float64) for name, field in FoundText.model_fields.items()
}

# What the report has at most.
EXCERPT = 300  # characters of a matched text, and of the sample where it matches
REMOVED_MATCHES = 200
OTHER_MATCHES = 50
BAD_ROWS = 20

# What one process searches at a time.
SEARCHED_ROWS = 16_000
SEARCHED_CHARACTERS = 40_000_000


def decontaminate(
    data: str,
    benchmarks: Mapping[str, Path],
    out: Path,
    report: Path,
    settings: DecontaminateSettings,
    matches: Path | None = None,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
    split: str = "train",
    limit: int | None = None,
    threads: int = 1,
    turns: Turns | None = None,
) -> None:
    """Write the samples of ``data`` that hold no text of ``benchmarks``.

    The data are never in memory as a whole: with t processes, about t + 1 parts of
    ``SEARCHED_CHARACTERS`` are, and some hundred bytes for each row. (A ``.json`` array is.)

    Args:
        data: a records file (a path or ``package:NAME/file``), or, where no such file exists,
            a dataset on the Hugging Face hub (``ORG/NAME``). Its rows have text fields
            ``instruction`` and ``response``, and may have ``id``, ``language`` and ``tests``; or
            they have a chat (:mod:`fgit.decontaminate.chats`).
        benchmarks: a benchmark's name -> its problem file.
        out: Parquet with String columns id, instruction, response, language and tests, in the
            order of ``data``; the last two may be null. ``history`` has the turns before the
            instruction (:data:`fgit.variants.HISTORY`), null where there are none. ``code_at`` says
            where the response's code is (:data:`fgit.variants.CODE_AT`), so that it is looked for
            once.
        report: :class:`fgit.stage_reports.DecontaminateReport`, with the settings.
        matches: Parquet (:data:`MATCH_COLUMNS`): every match of every rule.
        fields: our name -> the data's name, a path, or a template
            (:func:`fgit.common.dataset_fields.value_of`); ``chat`` names the column of a chat, and
            ``system`` that of a system turn.
        revision: the commit of a dataset on the hub.
        split: the split of a dataset on the hub.
        limit: keep at most this many of the clean samples, chosen by a hash of their ids.
        threads: processes that search; the result is the same.
        turns: which answers of a chat become samples: the last one (None too), or every one.

    Raises:
        UserError: if a file or row cannot be used, an id occurs twice, there is no sample, or
            none is left. Nothing is written then.
    """
    fields = fields or {}
    check_fields(fields, turns)
    by_name = {
        name: read_benchmark(name, path, settings.min_characters)
        for name, path in benchmarks.items()
    }
    if not benchmarks:
        log.warning("no benchmark is named: nothing is looked for in %s", data)

    source, rows, total = open_data(data, revision, split)
    search = functools.partial(
        search_part,
        search=Search(
            [text for benchmark in by_name.values() for text in benchmark.verbatim],
            [text for benchmark in by_name.values() for text in benchmark.texts],
            settings,
        ),
        source=source,
        fields=fields,
        turns=turns or "last",
        settings=settings,
    )
    account = Account(tuple(benchmarks), REMOVES[settings.mode])
    ids = Ids(source)
    with (
        writing_records(out, limit) as write,
        (
            files.writing_parquet(matches, MATCH_COLUMNS)
            if matches
            else contextlib.nullcontext(lambda frame: None)
        ) as write_matches,
        bar(description="decontaminate", total=total, unit="row") as progress,
    ):
        for part in processes.each(search, in_parts(rows), threads):
            if part.bad and settings.on_bad_row != "skip":
                raise UserError(
                    f"{part.bad[0]}. Fix the row, or set on_bad_row: skip to leave such rows out"
                )
            samples = part.samples.with_columns(ids.of(part.samples))
            is_removed, matches_of_part = account.take(part, samples)
            write(samples.filter(~is_removed).select(list(CLEAN_COLUMNS)))
            write_matches(matches_of_part)
            progress.update(part.rows)
        account.check(data, fields)
    summary = account.summary(
        limit,
        exempt_texts=sum(benchmark.exempt for benchmark in by_name.values()),
        unprotected={
            name: benchmark.unprotected
            for name, benchmark in by_name.items()
            if benchmark.unprotected
        },
        benchmarks={
            name: {
                "problems": benchmark.problems,
                "texts": len(benchmark.texts),
                "sha256": files.sha256(benchmarks[name]),
            }
            for name, benchmark in by_name.items()
        },
        **settings.model_dump(mode="json"),
        rule=rule(settings),
        **({"chats": dict(account.chats)} if account.chats else {}),
    )
    summary.write(report)
    log.info("%s", line_of(data, summary))
    if left_out := summary.chats.get("turns_left_out"):
        log.warning(
            "%s: %d turns of chats are in no sample; fields: {chat: COLUMN} keeps what stands "
            "before an answer, and turns: every makes a sample of each answer",
            *(data, left_out),
        )


def rule(settings: DecontaminateSettings) -> str:
    """What the mode removes, in words."""
    if settings.mode == "paper":
        return (
            "A sample is removed if a problem's whole docstring (MBPP: its text; DS-1000: its "
            "prompt) or canonical solution occurs, lower-cased, in its lower-cased instruction "
            "and response (or in a chat's turns before them); of MBPP itself only the problems 11 "
            "to 510 are looked for, and three trivial solutions of HumanEval are not."
        )
    share = f"{settings.ngram_share:.0%}"
    return (
        "A sample is removed if its instruction or its response (or what a chat has before them) "
        "holds a problem's description (its "
        "prose up to the first example or section), docstring or canonical solution, lower-cased "
        f"and without whitespace; or {share} of the {settings.ngram_size}-grams of its words; or, "
        f"whatever names stand in the code, {share} of the {settings.renamed_size}-grams of the "
        f"solution's tokens, if these are more than {settings.renamed_size}. Texts of fewer than "
        f"{settings.min_characters} characters without whitespace are exempt; in their place the "
        "text is taken with the function's head, if that is long enough."
    )


def line_of(data: str, report: DecontaminateReport) -> str:
    """The report in a line, for the log."""
    by_benchmark = ", ".join(f"{n} {count}" for n, count in report.removed_by_benchmark.items())
    return (
        f"{data}: {report.rows} rows, {report.bad_row_count} bad rows, "
        f"{report.removed_count} removed ({by_benchmark or 'no benchmark'}), "
        f"{report.over_limit} over the limit, {report.kept} kept "
        f"({report.duplicates['exact']} duplicates among the clean ones); what the mode "
        f"{report.mode} does not remove but another does: {report.not_removed_count}; "
        f"{report.exempt_texts} trivial texts exempt"
        + (f"; {counts_in_words(report.chats)}" if report.chats else "")
    )


@contextlib.contextmanager
def writing_records(out: Path, limit: int | None) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Yield a function that takes the clean samples; in the end ``limit`` of them are written."""
    with files.writing_parquet(out, CLEAN_COLUMNS) as write:
        if limit is None:
            yield write
            return
        with files.scratch() as folder:
            clean = folder / "clean.parquet"
            with files.writing_parquet(clean, CLEAN_COLUMNS) as keep:
                yield keep
            chosen = subset(pl.read_parquet(clean, columns=["id"])["id"], limit, seed=0)
            start = 0
            for part in files.read_parts(clean, SEARCHED_ROWS):
                write(part.filter(chosen.slice(start, len(part))))
                start += len(part)


# ------------------------------------------------------------------ reading, in parts

Rows = Sequence[tuple[int, bytes | Mapping[str, Any] | files.BadRow]]


def open_data(
    data: str, revision: str | None, split: str
) -> tuple[str, Iterable[tuple[int, Any]], int | None]:
    """The name of the data for messages, their numbered rows, and how many if that is known.

    Raises:
        UserError: if there is neither a file nor a dataset of that name.
    """
    path = files.resolve(data)
    if path.is_file():
        return str(path), files.raw_rows(path), None
    is_file_name = path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".parquet"))
    if path.exists() or is_file_name or not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        raise UserError(
            f"{data}: no such file; name a records file (.jsonl, .jsonl.gz, .json, .parquet) "
            f"or a dataset on the hub as ORG/NAME (looked in {Path.cwd()})"
        )
    rows = load_from_hub(data, revision, split)
    return f"{data} (hub, split {split})", enumerate(rows, start=1), len(rows)


def load_from_hub(name: str, revision: str | None, split: str) -> Any:
    """A split of a dataset on the Hugging Face hub.

    Raises:
        UserError: if it cannot be reached, or has no such revision or split.
    """
    from fgit.cluster.hub import load_dataset

    try:
        dataset = load_dataset(name, revision=revision, split=split)
    except UserError:
        raise
    except Exception as error:  # the network libraries beneath it raise errors of their own
        raise UserError(
            f"{name}: no such file here, and the dataset of this name (revision "
            f"{revision or 'not pinned'}, split {split!r}) could not be loaded from the Hugging "
            f"Face hub: {error}. Check name, revision and split; on a machine without network, "
            "run fgit fetch --config CONFIG where there is one (same HF_HOME), or name a file"
        ) from error
    note_dataset(name, revision, dataset)
    return dataset


def check_fields(fields: Mapping[str, str], turns: str | None) -> None:
    if reason := misfit(fields, turns):
        raise UserError(reason)
    for ours, theirs in fields.items():
        try:
            check_template(theirs)
        except ValueError as error:
            raise UserError(f"field {ours}: {error}") from error


def in_parts(rows: Iterable[tuple[int, Any]]) -> Iterator[Rows]:
    """The rows, so many at a time as one process takes."""
    part: list[tuple[int, Any]] = []
    size = 0
    for number, row in rows:
        part.append((number, row))
        size += row_size(row)
        if len(part) == SEARCHED_ROWS or size >= SEARCHED_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def row_size(row: Any) -> int:
    """About how many characters a row has."""
    if isinstance(row, bytes):
        return len(row)
    if isinstance(row, Mapping):
        return sum(map(row_size, row.values()))
    if isinstance(row, list):
        return sum(map(row_size, row))
    return len(row) if isinstance(row, str) else 0


# ------------------------------------------------------------------ one part


@dataclasses.dataclass(frozen=True)
class Searched:
    """A part of the rows: the samples that can be used, and what each holds.

    samples: row (Int64), id, instruction, response, language, tests (String), code_at, history.
    matches: of each sample. digests: UInt64 columns by which duplicates are counted.
    chats: counts of chats (:func:`fgit.decontaminate.chats.samples_of_rows`).
    absent: fields that are named, and that no row has.
    """

    rows: int
    bad: list[files.BadRow]
    samples: pl.DataFrame
    matches: list[list[Match]]
    digests: pl.DataFrame
    chats: Counter[str]
    absent: set[str]


def search_part(
    rows: Rows,
    *,
    search: Search,
    source: str,
    fields: Mapping[str, str],
    turns: Turns,
    settings: DecontaminateSettings,
) -> Searched:
    chats: Counter[str] = Counter()
    absent = set(fields)
    parsed = noting(files.parsed(source, rows), fields, absent)
    renamed = "chat" in fields or "system" in fields  # then the rows have our names
    samples, bad = files.read_records(
        source,
        ("instruction", "response"),
        (*BESIDE, "history") if renamed else BESIDE,
        rows=samples_of_rows(parsed, source, fields, turns, chats),
        fields=None if renamed else fields,
        on_bad_row="skip",
    )
    samples = with_history(samples)
    length = pl.sum_horizontal(pl.col(name).str.len_chars() for name in TEXT_FIELDS)
    too_long = samples.select("row", length=length).filter(
        pl.col("length") > settings.max_characters
    )
    if len(too_long):
        samples = samples.filter(length <= settings.max_characters)
        bad += [
            files.BadRow(
                source,
                row,
                f"instruction and response{' and history' if renamed else ''} have "
                f"{characters:,} characters, and max_characters is {settings.max_characters:,}",
                "too long",
            )
            for row, characters in too_long.iter_rows()
        ]
        bad.sort(key=lambda row: row.row)
    texts = [samples[name].to_list() for name in TEXT_FIELDS]
    normalised = [list(map(normalise, of_field)) for of_field in texts]
    places = [place_of(main_code(response)) for response in texts[1]]
    return Searched(
        rows=len(rows),
        bad=bad,
        samples=samples.with_columns(pl.Series("code_at", places, dtype=CODE_AT)),
        matches=search.matches(texts, normalised),
        chats=chats,
        absent=absent,
        digests=samples.select(
            exact=pl.concat_str(TEXT_FIELDS, separator="\0").hash(),
            same_text=pl.concat_str(
                *(pl.Series(column, dtype=pl.String) for column in normalised), separator="\0"
            ).hash(),
            same_instruction=pl.concat_str("instruction", "history_text", separator="\0").hash(),
        ),
    )


def noting(
    rows: Iterable[tuple[int, Any]], fields: Mapping[str, str], absent: set[str]
) -> Iterator[tuple[int, Any]]:
    """The rows as they are; those of our names of which one has the field, if as null, are removed
    from ``absent``."""
    for number, row in rows:
        if absent and not isinstance(row, files.BadRow):
            absent -= {ours for ours in absent if has_field(row, fields[ours])}
        yield number, row


def with_history(samples: pl.DataFrame) -> pl.DataFrame:
    """Samples with ``history`` (JSON, if there is any) as :data:`HISTORY`, and its text.

    ``history_text`` is all that its turns say, a blank line between two; empty without history.
    """
    if "history" not in samples.columns:
        return samples.with_columns(history=pl.lit(None, HISTORY), history_text=pl.lit(""))
    history = samples["history"].str.json_decode(HISTORY)
    contents = pl.col("history").list.eval(pl.element().struct.field("content")).list.join("\n\n")
    return samples.with_columns(history).with_columns(history_text=contents.fill_null(""))


class Ids:
    """Ids of samples: the data's own, else one of the content, wherever the row stands."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.row_of: dict[str, int] = {}
        self.copies: Counter[str] = Counter()

    def of(self, samples: pl.DataFrame) -> pl.Series:
        """The ids (String) of the next samples.

        Raises:
            UserError: if two rows have the same id.
        """
        ids = []
        columns = samples.select("row", "id", *TEXT_FIELDS)
        for row, own, instruction, response, history in columns.iter_rows():
            if own in self.row_of:
                raise UserError(
                    f"{self.source}: rows {self.row_of[own]} and {row} have the same id "
                    f"{own!r}; give each row an id of its own, or leave the field out"
                )
            texts = (instruction, response, history) if history else (instruction, response)
            identifier = own if own and own.strip() else self.of_content(*texts)
            self.row_of[identifier] = row
            ids.append(identifier)
        return pl.Series("id", ids, dtype=pl.String)

    def of_content(self, *texts: str) -> str:
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        while True:
            self.copies[digest] += 1
            copy = self.copies[digest]
            identifier = digest if copy == 1 else f"{digest}-{copy}"
            if identifier not in self.row_of:
                return identifier


# ------------------------------------------------------------------ the account


class Account:
    """What became of all rows, part by part.

    Args:
        benchmarks: their names; a removed sample is counted under the first whose text it holds.
        removes: the rules by which samples are removed.
    """

    def __init__(self, benchmarks: Sequence[str], removes: Container[str]) -> None:
        self.removes = removes
        self.rows = self.samples = self.removed = self.not_removed = 0
        self.bad: list[str] = []
        self.bad_by_kind: Counter[str] = Counter()
        self.by_benchmark = dict.fromkeys(benchmarks, 0)
        self.rules = {name: Counter(matches=0, samples=0, only=0) for name in MATCH_RULES}
        self.removed_matches = 0
        self.chats: Counter[str] = Counter()
        self.absent: set[str] | None = None
        self.first_removed: list[dict[str, Any]] = []
        self.first_not_removed: list[dict[str, Any]] = []
        self.digests: list[pl.DataFrame] = []

    def take(self, part: Searched, samples: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
        """Count a part.

        Args:
            samples: those of the part, all with ids.

        Returns:
            Which samples are removed (Boolean), and the part's matches (:data:`MATCH_COLUMNS`).
        """
        self.rows += part.rows
        self.samples += len(samples)
        self.bad += [str(row) for row in part.bad[: BAD_ROWS - len(self.bad)]]
        self.bad_by_kind.update(row.kind for row in part.bad)
        self.chats.update(part.chats)
        self.absent = part.absent if self.absent is None else self.absent & part.absent
        removed = [any(match.rule in self.removes for match in held) for held in part.matches]
        rows: list[dict[str, Any]] = []
        for number, (held, is_removed) in enumerate(zip(part.matches, removed, strict=True)):
            if not held:
                continue
            self.count(held, is_removed)
            sample = samples.row(number, named=True)
            rows += (match_row(sample, match, is_removed) for match in held)
        for first, most, is_removed in (
            (self.first_removed, REMOVED_MATCHES, True),
            (self.first_not_removed, OTHER_MATCHES, False),
        ):
            first += [row for row in rows if row["removed"] is is_removed][: most - len(first)]
        mask = pl.Series(removed, dtype=pl.Boolean)
        self.digests.append(part.digests.filter(~mask))
        return mask, pl.DataFrame(rows, schema=MATCH_COLUMNS)

    def count(self, held: Sequence[Match], removed: bool) -> None:
        """Count the matches of one sample."""
        by_rule = Counter(match.rule for match in held)
        for rule, matches in by_rule.items():
            self.rules[rule].update(matches=matches, samples=1, only=len(by_rule) == 1)
        if not removed:
            self.not_removed += 1
            return
        self.removed += 1
        self.removed_matches += len(held)
        names = {match.source.benchmark for match in held if match.rule in self.removes}
        self.by_benchmark[next(name for name in self.by_benchmark if name in names)] += 1

    def check(self, data: str, fields: Mapping[str, str]) -> None:
        """Refuse data of which nothing can be used, of which nothing is left, or that have nothing
        in a field that is named.

        Raises:
            UserError: saying why.
        """
        if not self.samples:
            first = f", first: {self.bad[0]}" if self.bad else ""
            raise UserError(
                f"{data}: no usable sample ({self.bad_by_kind.total()} bad rows{first}); "
                "name a file or dataset that has some"
            )
        if self.absent:
            names = ", ".join(f"{fields[ours]!r} (our {ours})" for ours in sorted(self.absent))
            raise UserError(
                f"{data}: no row has the field {names}; correct fields, or leave it out"
            )
        if self.removed == self.samples:
            raise UserError(
                f"{data}: all {self.samples} samples hold a text of "
                f"{', '.join(self.by_benchmark)}, so nothing is left to train on; is a benchmark "
                "itself named as the data?"
            )

    def summary(self, limit: int | None, **others: Any) -> DecontaminateReport:
        """The report; ``others`` are what it says beside the rows."""
        clean = self.samples - self.removed
        kept = clean if limit is None else min(clean, limit)
        digests = pl.concat(self.digests)
        return DecontaminateReport(
            rows=self.rows,
            samples=self.samples,
            bad_row_count=self.bad_by_kind.total(),
            bad_rows_by_reason=dict(self.bad_by_kind.most_common()),
            bad_rows=self.bad,
            removed_count=self.removed,
            removed_by_benchmark=self.by_benchmark,
            rules={name: dict(counts) for name, counts in self.rules.items()},
            not_removed_count=self.not_removed,
            over_limit=clean - kept,
            kept=kept,
            duplicates={name: len(digests) - digests[name].n_unique() for name in digests.columns},
            removed_matches=self.removed_matches,
            removed=self.first_removed,
            not_removed=self.first_not_removed,
            **others,
        )


def match_row(sample: Mapping[str, Any], match: Match, removed: bool) -> dict[str, Any]:
    """A match as a row of :data:`MATCH_COLUMNS`."""
    text = sample[match.field]
    return {
        "id": sample["id"],
        "row": sample["row"],
        "removed": removed,
        "rule": match.rule,
        "benchmark": match.source.benchmark,
        "task_id": match.source.task_id,
        "what": match.source.what,
        "field": match.field.removesuffix("_text"),
        "position": match.position,
        "share": match.share,
        "text": match.source.text[:EXCERPT],
        "found": text[match.position : match.position + EXCERPT],
    }
