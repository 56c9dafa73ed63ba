"""Joining the shards of a dataset's variants, after seeing that they belong together."""

import collections
import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from fgit.common import files
from fgit.common.errors import UserError
from fgit.config import GenerateSettings
from fgit.stage_reports import GenerateReport, ShardReport
from fgit.variants import ANSWERS, VARIANT_COLUMNS, read_samples

log = logging.getLogger(__name__)

NO_PROMISE = "none"
SUMMED = (
    *("samples", "without_code", "answers", "usable", "samples_with_variant", "tokens"),
    *("load_seconds", "seconds"),
)
OWN = ("shard", "records_sha256")
# A shard may have no sample with code.
SHARD = dataclasses.replace(ANSWERS, empty=True, advice="remove the shard, and make it again")
MAY_DIFFER = {
    *(*SUMMED, *OWN, *GenerateSettings.speed_fields()),
    *("refused", "tokens_per_second", "same_text", "dtype"),
}


def gather(shards: Sequence[Path], records: Path, out: Path, report: Path) -> None:
    """Join the variants of all shards, in the records' order.

    Args:
        shards: what ``fgit generate`` wrote of each, in any order; each report, of the same name
            with the suffix ``.json``, lies beside it.
        records: the records that the shards were made of.
        out: Parquet (:data:`fgit.variants.VARIANT_COLUMNS`), the same as of one shard.
        report: :class:`fgit.stage_reports.GenerateReport`: counts and seconds are sums over the
            shards, so that ``tokens_per_second`` is that of one teacher; ``same_text`` is the
            shards' promise, ``none`` where they differ; ``dtype`` names each that the teacher had
            (with ``auto``, machines may differ).

    Raises:
        UserError: naming the file, if a shard is missing, is there twice, is broken or not what
            its report says, or was made by other settings or of other records; or if no record has
            code, or no answer is usable.
    """
    samples = read_samples(records)
    reports = {files.existing(path): ShardReport.read(path.with_suffix(".json")) for path in shards}
    ordered = sorted(shards, key=lambda path: reports[path].shard)
    check_numbers(ordered, reports)
    first = ordered[0]
    for number, path in enumerate(ordered, start=1):
        check_settings(path, reports[path], first, reports[first])
        rows = samples[rows_of_shard(len(samples), number, len(ordered))]
        if reports[path].records_sha256 != records_digest(rows):
            raise UserError(
                f"{path}: its shard was made of other records than those of {records}; remove it, "
                "and make it again"
            )
        check_answers(path, reports[path], rows["id"])
    summary = summed([reports[path] for path in ordered])
    if not summary.answers:
        raise UserError(f"{records}: none of the {len(samples)} responses has code")
    if not summary.usable:
        raise UserError(
            f"{records}: none of the {summary.answers} answers of the teacher "
            f"{summary.teacher} is usable ({summary.refused}); try a stronger teacher, "
            f"or remove the folder {first.parent} to ask the same one again"
        )
    with files.writing_parquet(out, VARIANT_COLUMNS) as write:
        for path in ordered:
            for part in files.read_parts(path, files.ROW_GROUP, SHARD, others=False):
                write(part)
    summary.write(report)
    log.info("%s", counts_in_lines(summary))


def rows_of_shard(count: int, shard: int, shards: int) -> slice:
    """The rows of ``count`` that belong to a shard (from 1): contiguous, as many as others' ± 1."""
    return slice((shard - 1) * count // shards, shard * count // shards)


def records_digest(samples: pl.DataFrame) -> str:
    """Of all of the records that variants are made of."""
    digest = hashlib.sha256()
    columns = samples.select("id", "instruction", "response", "language", "history")
    for *texts, history in columns.iter_rows():
        digest.update(json.dumps([*texts, history] if history else texts).encode())
    return digest.hexdigest()


def one_promise(promises: Iterable[str | None]) -> str | None:
    """The promise of equal text that all of them have; None for given answers."""
    distinct = set(promises)
    return distinct.pop() if len(distinct) == 1 else NO_PROMISE if distinct else None


# ------------------------------------------------------------------ the shards' reports


def check_numbers(ordered: Sequence[Path], reports: Mapping[Path, ShardReport]) -> None:
    """Each shard once, and none missing."""
    first = ordered[0]
    shards = reports[first].shards
    for path in ordered:
        if reports[path].shards != shards:
            raise UserError(
                f"{path}: one of {reports[path].shards} shards, but {first} is one of {shards}; "
                "give the shards of one number"
            )
    for before, path in itertools.pairwise(ordered):
        if reports[before].shard == reports[path].shard:
            raise UserError(
                f"{path}: shard {reports[path].shard} of {shards}, which {before} is too; give "
                "each once"
            )
    numbers = {reports[path].shard for path in ordered}
    if missing := [str(number) for number in range(1, shards + 1) if number not in numbers]:
        raise UserError(
            f"{first.parent}: of {shards} shards, {', '.join(missing[:10])}"
            f"{f' and {len(missing) - 10} more' if len(missing) > 10 else ''} "
            "not given; make them with fgit generate --shard, and give all"
        )


def check_answers(path: Path, report: ShardReport, ids: pl.Series) -> None:
    """As many answers as the report says, to the shard's own records."""
    answers = files.scan_parquet(path, SHARD).select("id", usable=pl.col("code").is_not_null())
    with files.readable(path, SHARD):
        frame = answers.collect()
    counts = {"answers": len(frame), "usable": frame["usable"].sum()}
    for name, count in counts.items():
        if (said := getattr(report, name)) != count:
            raise UserError(
                f"{path}: its report says {name} {said}, but it has {count}; {SHARD.advice}"
            )
    others = frame.filter(~pl.col("id").is_in(ids.implode()))
    if len(others):
        raise UserError(
            f"{path}: an answer to {others['id'][0]!r}, which is not among the shard's records; "
            f"{SHARD.advice}"
        )


def check_settings(path: Path, report: ShardReport, first: Path, other: ShardReport) -> None:
    """Both by the same settings."""
    for key in sorted((report.values.keys() | other.values.keys()) - MAY_DIFFER):
        value, expected = report.values.get(key), other.values.get(key)
        if value != expected:
            raise UserError(
                f"{path}: made with {key} {value!r}, but {first} with {expected!r}; make all "
                "shards with the same settings"
            )


def summed(reports: Sequence[ShardReport]) -> GenerateReport:
    """One report of all shards."""
    values = {name: value for name, value in reports[0].values.items() if name not in OWN}
    for name in SUMMED:
        values[name] = sum(getattr(report, name) for report in reports)
    seconds = values["seconds"] = round(values["seconds"], 3)
    refused: collections.Counter[str] = collections.Counter()
    for report in reports:
        refused.update(report.refused)
    return GenerateReport(
        **values
        | {
            "load_seconds": round(values["load_seconds"], 3),
            "refused": dict(refused.most_common()),
            "tokens_per_second": round(values["tokens"] / seconds, 1) if seconds > 0 else None,
            "same_text": one_promise(
                report.same_text for report in reports if report.same_text is not None
            ),
            "dtype": " and ".join(dict.fromkeys(report.dtype for report in reports)),
        }
    )


def counts_in_lines(report: GenerateReport) -> str:
    lines = [
        ("samples", report.samples),
        ("  without code", report.without_code),
        ("  with a variant", report.samples_with_variant),
        ("answers", report.answers),
        ("  usable", report.usable),
        *((f"  {reason}", count) for reason, count in report.refused.items()),
        ("tokens/s", report.tokens_per_second or 0),
    ]
    return "\n".join(
        ["What the teacher gave:", *(f"  {name:<20}{value:>10}" for name, value in lines)]
    )
