"""The funnel: from the raw rows of each dataset to what is trained on, each loss with its reason.

It is drawn from the reports of the stages alone (:func:`dataset_lines`, :func:`source_lines`,
:func:`run_lines`: reports in, lines out), ends where the stages have come to, and has to add up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import existing, write_text
from fgit.common.provenance import provenance_path, read_provenance
from fgit.common.reports import Report
from fgit.report.formats import csv_of, escape_markdown, grid
from fgit.report.tables import NOTHING
from fgit.stage_reports import (
    AnnotateReport,
    DecontaminateReport,
    RunParameters,
    RunSettings,
    SelectReport,
    TrainReport,
)

SOURCES = {"generate": "teacher", "mutate": "mutation"}  # who made variants, and in words
ROWS, RECORDS, PAIRS, SAMPLES, TRAINED = "rows read", "records", "pairs", "samples", "trained on"
# What select says of the samples that it leaves without a variant.
LOST = {
    "no_code": "no code in the response",
    "no_usable_variant": "no usable variant",
    "same_as_response": "only variants equal to the response",
    "passes_its_tests": "only variants that pass their tests",
}
HELD_OUT = "held out"
TOO_LONG = "prompt longer than the maximum length"
WEIGHT_ONE = "trained with weight 1"
NO_VARIANT = "no variant"
MARKS_CUT = "marks cut off by the maximum length"
NO_DIFFERENCE = "no marked difference in tokens"
RUN_COLUMNS = {  # what a training can lose, and how a table of runs names it
    HELD_OUT: "held out",
    TOO_LONG: "prompt too long",
    NO_VARIANT: "no variant",
    MARKS_CUT: "marks cut off",
    NO_DIFFERENCE: "no difference",
}
READING = (
    "Lost: what a step leaves out, for this reason; left: what goes on. A training begins with all "
    "records: those without a variant stay in it, with weight 1."
)
RUNS_READING = (
    "Samples = held out + prompt too long + with weight 1 + as pairs; with weight 1 = no variant + "
    "marks cut off + no difference. A training on preferences leaves out samples without a variant."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: what a step starts or ends with (``lost`` is None), or what it loses, and why.

    source: who made the variants, empty before there are any. run: empty before training.
    """

    dataset: str
    source: str
    run: str
    step: str
    reason: str
    lost: int | None
    left: int


COLUMNS = [field.name for field in dataclasses.fields(Line)]


def funnel(results: Path, out: Path | None) -> None:
    """Print the funnel of every dataset and training that lies in a results folder.

    Args:
        out: write it here too, as Markdown (``.md``) or CSV (``.csv``).

    Raises:
        UserError: if there is none, if it does not add up, or if ``out`` has another suffix.
    """
    if out is not None and out.suffix not in (".md", ".csv"):
        raise UserError(f"{out}: a funnel is written as .md or .csv; name such a file")
    existing(results)
    lines = read_funnel(results, datasets_in(results), runs_in(results))
    if not lines:
        raise UserError(
            f"{results}: no decontaminate/DATASET/report.json in it; name a results folder, such "
            "as results/quickstart"
        )
    print(to_markdown(lines), end="")
    if out is not None:
        write_text(out, to_csv(lines) if out.suffix == ".csv" else to_markdown(lines))


# ------------------------------------------------------------------ the stages' files


def datasets_in(results: Path) -> list[str]:
    return sorted(path.parent.name for path in results.glob("decontaminate/*/report.json"))


def runs_in(results: Path) -> list[str]:
    found = results.glob("train/*/*/*/*/metrics.json")
    return sorted(str(path.parent.relative_to(results / "train")) for path in found)


def read_funnel(results: Path, datasets: Iterable[str], runs: Iterable[str]) -> list[Line]:
    """The lines of these datasets and trainings, as far as they are done.

    Trainings on other datasets or sources are left out.

    Raises:
        UserError: naming the file, if one that is there lacks something, or two do not agree.
    """
    trained: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if (place := trained_on(results / "train" / run)) is not None:
            trained.setdefault(place, []).append(run)
    lines: list[Line] = []
    for dataset in datasets:
        clean = DecontaminateReport.find(results / "decontaminate" / dataset)
        if clean is None:
            continue
        lines += dataset_lines(dataset, clean)
        for source in SOURCES:
            selected = SelectReport.find(results / "select" / dataset / source)
            if selected is None:
                continue
            annotated = AnnotateReport.find(results / "annotate" / dataset / source)
            lines += source_lines(dataset, source, clean, selected, annotated)
            for run in trained.get((dataset, source), ()):
                folder = results / "train" / run
                metrics = TrainReport.read(folder / TrainReport.file)
                settings = RunParameters.read(folder / RunParameters.file).train
                lines += run_lines(dataset, source, run, selected, metrics, settings)
    return lines


def trained_on(folder: Path) -> tuple[str, str] | None:
    """Dataset and source of the pairs that a training read; None if it has not ended."""
    path = provenance_path(folder)
    if not path.exists():
        return None
    spans = read_provenance(path).inputs.get("spans")
    if spans is None:
        raise UserError(f"{path}: no input 'spans'; run the train stage again")
    *_, dataset, source, _ = ("", "", *Path(spans.path).parts)
    return dataset, source


# ------------------------------------------------------------------ from reports to lines


def dataset_lines(dataset: str, clean: DecontaminateReport) -> list[Line]:
    """From the raw rows to the records, by decontaminate's report.

    A row is lost once: a sample that holds texts of several benchmarks, to the first of them.
    """
    losses = [
        *((f"unusable row: {why}", n) for why, n in clean.bad_rows_by_reason.items()),
        *((f"holds a text of {b}", n) for b, n in clean.removed_by_benchmark.items()),
        ("over the config's limit", clean.over_limit),
    ]
    place = (dataset, "", "", "decontaminate")
    lines = list(falling(place, ROWS, clean.rows, losses))
    agree(clean, lines[-1].left, clean, "kept", clean.kept)
    return [*lines, Line(*place, RECORDS, None, lines[-1].left)]


def source_lines(
    dataset: str,
    source: str,
    clean: DecontaminateReport,
    selected: SelectReport,
    annotated: AnnotateReport | None,
) -> list[Line]:
    """From the records to the pairs, by the reports of select and, where it has run, annotate."""
    samples, lost = selected.samples, selected.lost
    agree(clean, clean.kept, selected, "samples", samples)
    losses = [(LOST.get(reason, reason.replace("_", " ")), n) for reason, n in lost.items()]
    place = (dataset, source, "", "select")
    lines = list(falling(place, RECORDS, samples, losses))
    pairs = lines[-1].left
    agree(selected, pairs, selected, "with_variant", selected.with_variant)
    if annotated is not None:
        agree(selected, samples, annotated, "samples", annotated.samples)
        agree(selected, pairs, annotated, "pairs", annotated.pairs)
    return [*lines, Line(*place, PAIRS, None, pairs)]


def run_lines(
    dataset: str,
    source: str,
    run: str,
    selected: SelectReport,
    metrics: TrainReport,
    settings: RunSettings,
) -> list[Line]:
    """From the records to what a training did with them.

    It begins with the records and not with the pairs, since samples without a variant are trained
    on too; with DPO, which has no use for them, they are left out.
    """
    counts, held_out = metrics.counts, metrics.held_out_counts
    samples, held = counts.get("samples", 0), held_out.get("samples", 0)
    agree(selected, selected.samples, metrics, "samples, held out or not", samples + held)
    too_long, no_variant = counts.get("prompt_too_long", 0), counts.get("no_variant", 0)
    check_without_variant(selected, metrics)
    place = (dataset, source, run, "train")
    losses = [(HELD_OUT, held), (TOO_LONG, too_long)]
    lines = list(falling(place, SAMPLES, samples + held, losses))
    trained, paired, cut = lines[-1].left, counts.get("paired", 0), counts.get("marks_cut", 0)
    # Not the count no_difference: of a tokenizer that makes two texts the same, it has pairs too.
    no_difference = trained - no_variant - paired - cut
    if no_difference < 0:
        raise UserError(
            f"{metrics.where}, key 'counts': {trained} samples are trained on, but {no_variant} "
            f"without a variant, {paired} as pairs and {cut} with their marks cut off are "
            f"{trained - no_difference}; run the train stage again"
        )
    end = f"trained with {trained_with(settings)}"
    unpaired = [(NO_VARIANT, no_variant), (MARKS_CUT, cut), (NO_DIFFERENCE, no_difference)]
    if end == WEIGHT_ONE:  # then nothing sets the pairs apart
        losses = []
    elif settings.objective == "dpo":
        losses = unpaired[:1]
    else:
        losses = [(f"{WEIGHT_ONE}: {reason}", count) for reason, count in unpaired]
    lines += falling(place, TRAINED, trained, losses)
    return [*lines, Line(*place, end, None, lines[-1].left)]


def trained_with(settings: RunSettings) -> str:
    """What a training gives its pairs."""
    if settings.objective == "fixed":
        return f"weight {settings.weight:g}"
    return "a preference" if settings.objective == "dpo" else "a dynamic weight"


def falling(
    place: tuple[str, str, str, str], start: str, count: int, losses: Iterable[tuple[str, int]]
) -> Iterator[Line]:
    """What there is at the start, and what is left behind each loss."""
    yield Line(*place, start, None, count)
    for reason, lost in losses:
        count -= lost
        yield Line(*place, reason, lost, count)


def agree(before: Report, left: int, report: Report, key: str, count: int) -> None:
    """Refuse a number that is not what a stage before has left.

    Raises:
        UserError: naming both files and numbers.
    """
    if count != left:
        raise UserError(
            f"{report.where}: {key} {count}, but {before.where} leaves {left}, so the funnel does "
            f"not add up; run the {report.stage} stage again"
        )


def check_without_variant(selected: SelectReport, metrics: TrainReport) -> None:
    """Whether a training had as many samples without a variant as select left so.

    Of samples whose prompt is too long, a training does not count whether they have one.
    """
    without = selected.samples - selected.with_variant
    counts = metrics.counts, metrics.held_out_counts
    low = sum(counted.get("no_variant", 0) for counted in counts)
    high = low + sum(counted.get("prompt_too_long", 0) for counted in counts)
    if not low <= without <= high:
        told = str(low) if low == high else f"{low} to {high}"
        raise UserError(
            f"{metrics.where}: no_variant {told}, but {selected.where} leaves {without} samples "
            "without a variant, so the funnel does not add up; run the train stage again"
        )


# ------------------------------------------------------------------ from lines to tables


def of_datasets(lines: Iterable[Line]) -> list[tuple[str, list[Line], dict[str, list[list[Line]]]]]:
    """For each dataset: its lines without the trainings', and the trainings' by source and run."""
    found = []
    for dataset, group in itertools.groupby(lines, lambda line: line.dataset):
        all_lines = list(group)
        runs: dict[tuple[str, str], list[Line]] = {}
        for line in all_lines:
            if line.run:
                runs.setdefault((line.source, line.run), []).append(line)
        by_source: dict[str, list[list[Line]]] = {}
        for (source, _), run in runs.items():
            by_source.setdefault(source, []).append(run)
        found.append((dataset, [line for line in all_lines if not line.run], by_source))
    return found


def run_headings() -> list[str]:
    return ["run", "trained with", SAMPLES, *RUN_COLUMNS.values(), "with weight 1", "as pairs"]


def run_row(lines: Sequence[Line]) -> list[str]:
    """A training's lines as a row under :func:`run_headings`."""
    prefix = f"{WEIGHT_ONE}: "
    lost = {line.reason.removeprefix(prefix): line.lost for line in lines if line.lost is not None}
    end = lines[-1]
    weight_one = sum(line.lost or 0 for line in lines if line.reason.startswith(prefix))
    pairs = end.left
    if end.reason == WEIGHT_ONE:
        weight_one, pairs = end.left, 0
    counts = [lines[0].left, *(lost.get(reason) for reason in RUN_COLUMNS), weight_one, pairs]
    texts = [NOTHING if count is None else str(count) for count in counts]
    return [end.run, end.reason.removeprefix("trained with "), *texts]


def shown(line: Line) -> str:
    """What a line is, as it is read: a loss, or what there is."""
    return line.reason if line.lost is not None else f"= {line.reason}"


def to_markdown(lines: Sequence[Line]) -> str:
    """A table for each dataset, and one for the trainings on each source of its variants."""
    parts = ["Funnel: from raw rows to training pairs"]
    for dataset, steps, runs in of_datasets(lines):
        rows = [
            [
                line.source or NOTHING,
                line.step,
                escape_markdown(shown(line)),
                "" if line.lost is None else str(line.lost),
                str(line.left),
            ]
            for line in steps
        ]
        parts += [
            f"## {escape_markdown(dataset)}",
            grid(["variants", "step", "reason", "lost", "left"], rows, 3),
        ]
        for source, trainings in runs.items():
            table = [list(map(escape_markdown, run_row(run))) for run in trainings]
            parts += [
                f"## {escape_markdown(dataset)}: trainings on the variants of {source}",
                grid(run_headings(), table, 2),
            ]
    return "\n\n".join([*parts, *reading(lines)]) + "\n"


def reading(lines: Sequence[Line]) -> list[str]:
    """Paragraphs on how to read the tables."""
    if not lines:
        return ["No dataset is decontaminated yet."]
    return [READING, RUNS_READING] if any(line.run for line in lines) else [READING]


def to_csv(lines: Sequence[Line]) -> str:
    """One row for each line; ``lost`` is empty where a step starts or ends."""
    if not lines:
        return ",".join(COLUMNS) + "\n"
    return csv_of(
        [
            {
                name: "" if value is None else str(value)
                for name, value in dataclasses.asdict(line).items()
            }
            for line in lines
        ]
    )


def write_funnel(folder: Path, lines: Sequence[Line], mismatch: UserError | None) -> None:
    """Write ``funnel.md``, which says in place of the lines why they do not add up, and
    ``funnel.csv``."""
    write_text(folder / "funnel.md", to_markdown(lines) if mismatch is None else f"{mismatch}\n")
    write_text(folder / "funnel.csv", to_csv(lines))
