"""The funnel: from the raw rows of each dataset to what is trained on, each loss with its reason.

It is drawn from the reports of the stages alone (:func:`dataset_lines`, :func:`source_lines`,
:func:`run_lines`: reports in, lines out), ends where the stages have come to, and has to add up.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fgit.common.errors import UserError
from fgit.common.files import existing, write_text
from fgit.common.provenance import provenance_path, read_provenance
from fgit.common.reports import Report
from fgit.config import WEIGHT_ONE, given_to_pairs
from fgit.report.formats import csv_of, escape_markdown, grid
from fgit.report.tables import DASH
from fgit.stage_reports import (
    AnnotateReport,
    DecontaminateReport,
    RunParameters,
    RunSettings,
    SelectReport,
    TrainReport,
)
from fgit.steps import folder_of, output_of

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
LONG_PROMPT = "prompt longer than the maximum length"
TRAINED_WITH = "trained with "
WITHOUT_VARIANT = "no variant"
MARKS_CUT = "marks cut off by the maximum length"
NO_DIFFERENCE = "no marked difference in tokens"
RUN_COLUMNS = {  # what a training can lose, and how a table of runs names it
    HELD_OUT: "held out",
    LONG_PROMPT: "prompt too long",
    WITHOUT_VARIANT: "no variant",
    MARKS_CUT: "marks cut off",
    NO_DIFFERENCE: "no difference",
}
RUN_HEADINGS = ["run", "trained with", SAMPLES, *RUN_COLUMNS.values(), "with weight 1", "as pairs"]
READING = (
    "Lost: what a step leaves out, for this reason; left: what goes on. A training begins with all "
    "records: those without a variant stay in it, with weight 1."
)
RUNS_READING = (
    "Samples = held out + prompt too long + with weight 1 + as pairs; with weight 1 = no variant + "
    "marks cut off + no difference. A training on preferences leaves out samples without a variant."
)


class FunnelLine(NamedTuple):
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


def funnel(results: Path, out: Path | None) -> None:
    """Print the funnel of every dataset and training that lies in a results folder.

    Args:
        out: write it here too, as Markdown (``.md``) or CSV (``.csv``).

    Raises:
        UserError: if there is none, if it does not add up, or if ``out`` has another suffix.
    """
    if out is not None and out.suffix not in (".md", ".csv"):
        raise UserError(f"{out}: a funnel is written as .md or .csv; name such a file")
    reports = f"{folder_of('decontaminate', dataset='*')}/{DecontaminateReport.file}"
    datasets = sorted(path.parent.name for path in existing(results).glob(reports))
    trained = (path.parent for path in results.glob(output_of("train", run="*/*/*/*")))
    runs = sorted(str(folder.relative_to(results / "train")) for folder in trained)
    lines = read_funnel(results, datasets, runs)
    if not lines:
        raise UserError(
            f"{results}: no decontaminate/DATASET/report.json in it; name a results folder, such "
            "as results/quickstart"
        )
    print(funnel_markdown(lines), end="")
    if out is not None:
        write_text(out, funnel_csv(lines) if out.suffix == ".csv" else funnel_markdown(lines))


# ------------------------------------------------------------------ the stages' files


def read_funnel(results: Path, datasets: Iterable[str], runs: Iterable[str]) -> list[FunnelLine]:
    """The lines of these datasets and trainings, as far as they are done.

    Trainings on other datasets or sources are left out.

    Raises:
        UserError: naming the file, if one that is there lacks something, or two do not agree.
    """
    trained: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if (pairs := trained_on(results / folder_of("train", run=run))) is not None:
            trained.setdefault(pairs, []).append(run)
    lines: list[FunnelLine] = []
    for dataset in datasets:
        clean = DecontaminateReport.find(results / folder_of("decontaminate", dataset=dataset))
        if clean is None:
            continue
        lines += dataset_lines(dataset, clean)
        for source in SOURCES:
            place = {"dataset": dataset, "source": source}
            selected = SelectReport.find(results / folder_of("select", **place))
            if selected is None:
                continue
            annotated = AnnotateReport.find(results / folder_of("annotate", **place))
            lines += source_lines(dataset, source, clean, selected, annotated)
            for run in trained.get((dataset, source), ()):
                folder = results / folder_of("train", run=run)
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


def dataset_lines(dataset: str, clean: DecontaminateReport) -> list[FunnelLine]:
    """From the raw rows to the records, by decontaminate's report.

    A row is lost once: a sample that holds texts of several benchmarks, to the first of them.
    """
    more = clean.chats.get("samples", 0) - clean.chats.get("chats", 0)
    losses = [
        *((f"unusable row: {why}", n) for why, n in clean.bad_rows_by_reason.items()),
        *([("further answers of chats", -more)] if more else []),
        *((f"holds a text of {b}", n) for b, n in clean.removed_by_benchmark.items()),
        ("over the config's limit", clean.over_limit),
    ]
    place = (dataset, "", "", "decontaminate")
    lines = list(falling(place, ROWS, clean.rows, losses, RECORDS))
    agree(clean, lines[-1].left, clean, "kept", clean.kept)
    return lines


def source_lines(
    dataset: str,
    source: str,
    clean: DecontaminateReport,
    selected: SelectReport,
    annotated: AnnotateReport | None,
) -> list[FunnelLine]:
    """From the records to the pairs, by the reports of select and, where it has run, annotate."""
    samples, lost = selected.samples, selected.lost
    agree(clean, clean.kept, selected, "samples", samples)
    losses = [(LOST.get(reason, reason.replace("_", " ")), n) for reason, n in lost.items()]
    lines = list(falling((dataset, source, "", "select"), RECORDS, samples, losses, PAIRS))
    pairs = lines[-1].left
    agree(selected, pairs, selected, "with_variant", selected.with_variant)
    if annotated is not None:
        agree(selected, samples, annotated, "samples", annotated.samples)
        agree(selected, pairs, annotated, "pairs", annotated.pairs)
    return lines


def run_lines(
    dataset: str,
    source: str,
    run: str,
    selected: SelectReport,
    metrics: TrainReport,
    settings: RunSettings,
) -> list[FunnelLine]:
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
    losses = [(HELD_OUT, held), (LONG_PROMPT, too_long)]
    lines = list(falling(place, SAMPLES, samples + held, losses))
    trained, paired, cut = lines[-1].left, counts.get("paired", 0), counts.get("marks_cut", 0)
    # Not the count no_difference: it lacks pairs without any mark, which annotate does not write.
    no_difference = trained - no_variant - paired - cut
    if no_difference < 0:
        raise UserError(
            f"{metrics.where}, key 'counts': {trained} samples are trained on, but {no_variant} "
            f"without a variant, {paired} as pairs and {cut} with their marks cut off are "
            f"{trained - no_difference}; run the train stage again"
        )
    given = given_to_pairs(settings.objective, settings.weight, settings.alpha)
    unpaired = [(WITHOUT_VARIANT, no_variant), (MARKS_CUT, cut), (NO_DIFFERENCE, no_difference)]
    if given == WEIGHT_ONE:  # then nothing sets the pairs apart
        losses = []
    elif settings.objective == "dpo":
        losses = unpaired[:1]
    else:
        losses = [(f"{TRAINED_WITH}{WEIGHT_ONE}: {reason}", count) for reason, count in unpaired]
    return [*lines, *falling(place, TRAINED, trained, losses, f"{TRAINED_WITH}{given}")]


def falling(
    place: tuple[str, str, str, str],
    start: str,
    count: int,
    losses: Iterable[tuple[str, int]],
    end: str | None = None,
) -> Iterator[FunnelLine]:
    """What there is at the start, what each loss leaves, and, by its name, what there is then."""
    yield FunnelLine(*place, start, None, count)
    for reason, lost in losses:
        count -= lost
        yield FunnelLine(*place, reason, lost, count)
    if end is not None:
        yield FunnelLine(*place, end, None, count)


def agree(before: Report, left: int, report: Report, key: str, count: int) -> None:
    """Refuse a number that is not what a stage before has left, naming both files."""
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
    low = sum(part.get("no_variant", 0) for part in counts)
    high = low + sum(part.get("prompt_too_long", 0) for part in counts)
    if not low <= without <= high:
        trained = str(low) if low == high else f"{low} to {high}"
        raise UserError(
            f"{metrics.where}: no_variant {trained}, but {selected.where} leaves {without} samples "
            "without a variant, so the funnel does not add up; run the train stage again"
        )


# ------------------------------------------------------------------ from lines to tables


Trainings = dict[str, list[list[FunnelLine]]]  # by source, the lines of each run


def of_datasets(lines: Iterable[FunnelLine]) -> list[tuple[str, list[FunnelLine], Trainings]]:
    """For each dataset: its lines without the trainings', and the trainings'."""
    datasets = []
    for dataset, group in itertools.groupby(lines, lambda line: line.dataset):
        steps: list[FunnelLine] = []
        by_source: Trainings = {}
        for (source, run), part in itertools.groupby(group, lambda line: (line.source, line.run)):
            if run:
                by_source.setdefault(source, []).append(list(part))
            else:
                steps += part
        datasets.append((dataset, steps, by_source))
    return datasets


def training_cells(lines: Sequence[FunnelLine]) -> list[str]:
    """A training's lines as a row under :data:`RUN_HEADINGS`."""
    prefix = f"{TRAINED_WITH}{WEIGHT_ONE}: "
    lost = {line.reason.removeprefix(prefix): line.lost for line in lines if line.lost is not None}
    end = lines[-1]
    weight_one = sum(line.lost or 0 for line in lines if line.reason.startswith(prefix))
    pairs = end.left
    if end.reason == f"{TRAINED_WITH}{WEIGHT_ONE}":
        weight_one, pairs = end.left, 0
    counts = [lines[0].left, *(lost.get(reason) for reason in RUN_COLUMNS), weight_one, pairs]
    texts = [DASH if count is None else str(count) for count in counts]
    return [end.run, end.reason.removeprefix(TRAINED_WITH), *texts]


def description(line: FunnelLine) -> str:
    """What a line is, in words: a loss, or what there is."""
    return line.reason if line.lost is not None else f"= {line.reason}"


def funnel_markdown(lines: Sequence[FunnelLine]) -> str:
    """A table for each dataset, and one for the trainings on each source of its variants."""
    parts = ["Funnel: from raw rows to training pairs"]
    for dataset, steps, runs in of_datasets(lines):
        rows = []
        for line in steps:
            lost = "" if line.lost is None else str(line.lost)
            reason = escape_markdown(description(line))
            rows.append([line.source or DASH, line.step, reason, lost, str(line.left)])
        title = f"## {escape_markdown(dataset)}"
        parts += [title, grid(["variants", "step", "reason", "lost", "left"], rows, 3)]
        for source, trainings in runs.items():
            rows = [list(map(escape_markdown, training_cells(run))) for run in trainings]
            parts += [
                f"{title}: trainings on the variants of {source}",
                grid(RUN_HEADINGS, rows, 2),
            ]
    return "\n\n".join([*parts, *reading(lines)]) + "\n"


def reading(lines: Sequence[FunnelLine]) -> list[str]:
    """Paragraphs on how to read the tables."""
    if not lines:
        return ["No dataset is decontaminated yet."]
    return [READING, RUNS_READING] if any(line.run for line in lines) else [READING]


def funnel_csv(lines: Sequence[FunnelLine]) -> str:
    """One row for each line; ``lost`` is empty where a step starts or ends."""
    return csv_of([line._asdict() for line in lines], FunnelLine._fields)


def write_funnel(folder: Path, lines: Sequence[FunnelLine], mismatch: UserError | None) -> None:
    """Write ``funnel.md`` and ``funnel.csv``; the former may say why the lines do not add up."""
    markdown = funnel_markdown(lines) if mismatch is None else f"{mismatch}\n"
    write_text(folder / "funnel.md", markdown)
    write_text(folder / "funnel.csv", funnel_csv(lines))
