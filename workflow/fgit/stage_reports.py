"""What the stages report: a class for each JSON file that a later step reads.

Apart from the stages, some of which import torch.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, Field, model_validator

from fgit.common.errors import UserError
from fgit.common.files import write_text
from fgit.common.reports import Bin, Content, Count, Counts, Interval, Number, Report, having

BySide = Annotated[dict[str, Content], having("response", "variant")]
Means = Annotated[dict[str, Number | None], having("mean", "median", "min")]
HeldOut = Annotated[
    dict[str, Number | None],
    having("nll", "p_response", "p_variant", "prefers_response", "weight", or_empty=True),
]


def means(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, median and minimum; None of nothing."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "median": statistics.median(values) if values else None,
        "min": min(values, default=None),
    }


def counts_of(values: Iterable[str]) -> dict[str, int]:
    """How often each value came, in the order of the values."""
    return dict(sorted(Counter(values).items()))


def counts_in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


class FoundText(BaseModel):
    """A benchmark's text in a sample: a row of :data:`fgit.decontaminate.stage.MATCH_COLUMNS`."""

    id: str
    row: Count
    removed: bool
    rule: str
    benchmark: str
    task_id: str
    what: str
    field: str
    position: Count  # in the sample's field as it was given, in characters
    share: Number | None
    text: str  # the benchmark's
    found: str  # what stands at the position


class DecontaminateReport(Report):
    """How many rows came in, were unusable, were removed and kept, by what and why; the first
    matches in samples that were removed, and in those that were not.

    chats: rows that are chats, their answers, the samples of these (of the last, or of every one),
        and turns that are in no sample; empty where no row is one.
    """

    stage = "decontaminate"
    rows: Count
    samples: Count
    bad_row_count: Count
    bad_rows_by_reason: Counts
    chats: Counts = Field(default_factory=dict)
    removed_count: Count
    removed_by_benchmark: Counts
    rules: dict[str, Annotated[Counts, having("matches", "samples", "only")]]
    not_removed_count: Count
    over_limit: Count
    kept: Count
    duplicates: Annotated[Counts, having("exact", "same_text", "same_instruction")]
    removed_matches: Count
    removed: list[FoundText]
    not_removed: list[FoundText]
    exempt_texts: Count
    unprotected: dict[str, list[str]]
    benchmarks: dict[str, Annotated[dict[str, Any], having("problems", "texts")]]
    mode: str
    rule: str


class VariantsReport(Report):
    """What became of the samples, and of the variants that were made of them."""

    samples: Count
    without_code: Count
    samples_with_variant: Count
    usable: Count
    refused: Counts


class GenerateReport(VariantsReport):
    """The teacher's answers, those of all shards."""

    stage = "generate"
    answers: Count
    teacher: str
    backend: str
    temperature: Number
    tokens_per_second: Number | None = None


class ShardReport(GenerateReport):
    """The teacher's answers to one shard of the samples."""

    load_seconds: Number
    seconds: Number
    tokens: Count
    same_text: str | None
    dtype: str
    shards: Count
    shard: Count
    records_sha256: str


class MutateReport(VariantsReport):
    """``mutants_tried`` is how many were compiled until enough were usable; ``refused`` tells why
    some were not."""

    stage = "mutate"
    mutants_tried: Count


class SelectReport(Report):
    """Counts, why samples have no variant (``lost``), the cosine similarities, the responses'
    forms, and, with ``verified``, what the samples' own tests say of the variants."""

    stage = "select"
    samples: Count
    with_variant: Count
    without_variant: Count
    lost: Counts
    forms: Counts
    verified: Annotated[Counts, having("wrong", "not_wrong", "untested")] | None = None
    similarity: Means
    distribution: list[Bin]
    embedder: str


class AnnotateReport(Report):
    """How much differs in the pairs.

    no_difference: pairs without a marked character; without_marked_response and
    without_marked_variant: those without one on that side. changed_lines and changed_characters:
    means; distribution: of the same.
    """

    stage = "annotate"
    samples: Count
    pairs: Count
    no_difference: Count
    without_marked_response: Count
    without_marked_variant: Count
    changed_lines: BySide[Number | None]
    changed_characters: BySide[Number | None]
    distribution: Annotated[
        dict[str, BySide[list[Bin]]], having("changed_lines", "changed_characters")
    ]


class TrainReport(Report):
    """A training's figures: ``metrics.json``.

    counts: of the samples, as :func:`fgit.train.examples.examples` gives them.
    used, used_share: how many of them the objective can use, and their share
        (:func:`fgit.train.examples.is_used`); None in reports of older versions.
    held_out_before, held_out_after: means over the held-out samples, nll per response token; empty
        where there are none, None where none has a weight.
    marked_share: pairs by the share of their tokens that is marked, in equal bins from 0 to 1.
    """

    stage = "train"
    file = "metrics.json"
    counts: Counts
    held_out_counts: Counts
    used: Count | None = None
    used_share: Number | None = None
    marked_share: BySide[list[Count]] | None = None
    held_out_before: HeldOut
    held_out_after: HeldOut
    seconds: Number
    peak_memory_gb: Number
    relative_update: Number


class TrainingStep(Report):
    """A row of ``steps.jsonl``; ``values`` has what else the loop logged."""

    stage = "train"
    file = "steps.jsonl"
    step: Number
    loss: Number


class RunSettings(BaseModel):
    objective: str
    weight: Number
    alpha: Number


class RunParameters(Report):
    """Every parameter of a training: ``run.yaml``."""

    stage = "train"
    file = "run.yaml"
    train: RunSettings

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            message = f"{path}: cannot be read ({error}); run the train stage again"
            raise UserError(message) from error
        return cls.of(path, values)


class SegmentSide(BaseModel):
    """One side of a pair; the lists are of equal length, and the last token ends the turn.

    tokens: the text of each; together, the text of the side. Of tokens that share a character (its
        bytes) the first has it, the others have no text.
    line, token: the masks, 0 or 1; the hybrid mask is their sum.
    marks: h as trained: with the token at the fork where it stands for an empty side, and 0 behind
        the cut. For DPO, 1 from the fork on.
    kept: how many tokens were trained on. cut: whether that is not all of them.
    """

    tokens: list[str]
    line: list[Count]
    token: list[Count]
    marks: list[Count]
    kept: Count

    @model_validator(mode="after")
    def check_masks(self) -> Self:
        for mask in (self.line, self.token, self.marks):
            if len(mask) != len(self.tokens) or not {*mask} <= {0, 1, 2}:
                raise ValueError("the masks are of 0, 1 and 2, one for each token")
        return self


class SegmentEpoch(BaseModel):
    """An epoch of a pair; None for objectives without a dynamic weight."""

    epoch: Count
    weight: Number | None
    p_response: Number | None
    p_variant: Number | None


class SegmentPair(BaseModel):
    id: str
    instruction: str
    response: SegmentSide
    variant: SegmentSide
    epochs: list[SegmentEpoch]


class SegmentsReport(Report):
    """The first pairs as training saw them, token by token.

    weight: of the marked tokens; None where it is dynamic or there is none.
    """

    stage = "train"
    file = "segments.json"
    objective: str
    granularity: str
    weight: Number | None
    samples: list[SegmentPair]

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.values, ensure_ascii=False, separators=(",", ":")))


class Sample(Report):
    """A row of ``samples.jsonl``: a solution of a problem."""

    stage = "evaluate"
    file = "samples.jsonl"
    tokens: Count
    truncated: bool | None = None


class Failing(BaseModel):
    """How many of n fail, their share, and its 95 % Wilson interval; None of nothing."""

    n: Count
    fail: Count
    share: Number | None
    interval: Interval | None


# Of all answers, as the paper counts, of the usable ones, and of the selected one of each problem.
FailingOf = Annotated[dict[str, Failing], having("all", "usable", "selected")]


class AuditReport(Report):
    """The shares of the variants that fail, and their cosine to the canonical code.

    incorrect: ``plus`` counts who fails the base or the plus tests, as EvalPlus does; None without
        such tests. The intervals take the answers to one problem as independent.
    """

    stage = "audit"
    file = "audit.json"
    benchmark: str
    canonical_fails: list[str]
    incorrect: Annotated[dict[str, FailingOf | None], having("base", "plus")]
    similarity: Annotated[dict[str, Means], having("usable", "selected")]


class Agreement(BaseModel):
    """How far two readers agree on a question.

    table: counts by the first and the second reader's answer, such as ``yes/no``.
    agreement: the share on which they agree. kappa: None where it is not defined.
    disagreements: the numbers of the pairs.
    """

    table: Counts
    agreement: Number
    kappa: Number | None
    interval: Interval | None  # 95 %
    yes: Annotated[dict[str, Number], having("first", "second", "both")]  # shares
    disagreements: list[str]


class KappaReport(Report):
    """The agreement of two readers; ``both`` is similar and incorrect, which the paper counts."""

    stage = "audit kappa"
    file = "kappa.json"
    n: Count
    readers: list[str]
    incorrect: Agreement
    similar: Agreement
    both: Agreement
