"""The report as one HTML page: what it shows, gathered for the template."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from fgit.annotate import SIDES
from fgit.config import Config
from fgit.errors import UserError
from fgit.explain import COMPUTING, SHORT
from fgit.files import BadRow, read_objects
from fgit.report import (
    audit,
    chains,
    claims,
    curves,
    decontamination,
    failures,
    figures,
    funnel,
    templates,
)
from fgit.report.chains import Chains
from fgit.report.facts import Facts
from fgit.report.formats import reading
from fgit.report.funnel import SOURCES
from fgit.report.scores import Evaluation, Evaluations, short_names
from fgit.report.segments import Pair, View, code_lines, side_by_side, view_of
from fgit.report.tables import AVERAGE, Cell, Column, Drawn, Line
from fgit.report.training import Training, median
from fgit.runs import Run, all_runs, evaluations, runs_of
from fgit.statistics import Comparison

SHOWN_PAIRS = 8
TOKEN_COUNTS = {  # what training counts of the samples, once they are tokens
    "paired": "pairs",
    "fork_for_response": "no mark in the response",
    "fork_for_variant": "no mark in the variant",
    "no_difference": "no difference",
    "marks_cut": "marks cut off",
    "cut": "response cut",
}
UNITS = ("lines", "characters")
SPAN_COLUMNS = [f"{side}_{unit}" for side in SIDES for unit in UNITS]

Fact = tuple[str, str]  # what it is, and its value


def page(
    config: Config,
    results: Path,
    tables: Mapping[str, Drawn],
    found: Evaluations,
    trainings: Mapping[str, Training],
    lines: Sequence[funnel.Line],
    mismatch: str = "",
) -> str:
    """The page as HTML. Whatever comes from a model or from data is escaped.

    Args:
        lines: the funnel's; ``mismatch`` says in its place why it does not add up.

    It loads nothing, and runs one script, which is named by its digest in the page's policy.

    Raises:
        UserError: naming the file, if one that is there cannot be read or lacks something.
    """
    runs = all_runs(config)
    names = short_names(runs.values())
    done = list(trainings.values())
    environment = templates.environment()
    environment.filters |= {"hint": hint, "spread": spread, "asked": asked_of}
    sources = [
        (dataset, source, label) for dataset in config.datasets for source, label in SOURCES.items()
    ]
    records = list(read_provenance(config, results))
    asked = evaluations(config, config.tables)
    known = chains.chains_of(results, asked)
    view = view_of(done, names, results)
    shown = [
        outcomes(benchmark, runs, names, found, results)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in found)
    ]
    data = known.data | {
        "cells": {
            f"{name}-{row}-{column}": cell_data(config, line, drawn.columns[column], cell, known)
            for name, drawn in tables.items()
            for row, line in enumerate(drawn.lines)
            for column, cell in enumerate(line.cells)
        },
        "outcomes": [item["told"] for item in shown],
        "segments": view.data if view else None,
    }
    script = script_text()
    return environment.get_template("report.html.jinja").render(
        config=config,
        script=Markup(script),
        script_digest=digest_of(script),
        data=Markup(in_script(data)),
        scored=len(found),
        asked=len(asked),
        failed=sum(cell.status == "failed" for cell in cells_of(tables)),
        tables=[(name, drawn, reading(drawn)) for name, drawn in tables.items()],
        curves=[
            (drawn.table.caption, curves.in_page(drawn))
            for drawn in tables.values()
            if drawn.table.figure
        ],
        claims=[claim_row(claim) for claim in claims.claims_of(config, tables)],
        trainings=[training_row(training, names) for training in done],
        untrained=[
            run.name
            for run in runs.values()
            if run.dataset is not None and run.name not in trainings
        ],
        thinned=figures.POINTS if any(len(t.steps) > figures.POINTS for t in done) else None,
        loss_figure=figures.loss_curves(done, names) if done else None,
        weight_figure=figures.weight_curves(done, names),
        held_out_figure=figures.held_out_figure(done, names) if done else None,
        share_figure=figures.share_figure(done, names),
        token_counts=TOKEN_COUNTS.values(),
        funnel=[funnel_item(*part, names) for part in funnel.of_datasets(lines)],
        run_headings=funnel.run_headings(),
        funnel_reading=funnel.reading(lines),
        mismatch=mismatch,
        decontamination=each_there(
            decontamination.section, results, [(d,) for d in config.datasets]
        ),
        variants=each_there(variants, results, sources),
        audit=audit.section(config, results),
        view=view,
        segments=each_there(segments, results, untrained_sources(config, sources, view, runs)),
        outcomes=shown,
        failures=failures.section(config, found, names),
        environment=environment_of(records),
        provenance=records,
        sides=SIDES,
    )


def each_there(make: Any, results: Path, places: Any) -> list[Any]:
    """What ``make`` finds at each place; a stage that has not run yet gives None, left out."""
    return [made for place in places if (made := make(results, *place)) is not None]


# ------------------------------------------------------------------ the script and its data


def script_text() -> str:
    path = importlib.resources.files("fgit") / "report_templates" / "report.js"
    return path.read_text(encoding="utf-8")


def digest_of(script: str) -> str:
    """How a page's policy names the one script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def in_script(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ------------------------------------------------------------------ cells of a table


def cells_of(tables: Mapping[str, Drawn]) -> Iterator[Cell]:
    """Every number of the tables, averages not among them."""
    for drawn in tables.values():
        for line in drawn.lines:
            for column, cell in zip(drawn.columns, line.cells, strict=True):
                if column.kind != AVERAGE:
                    yield cell


def cell_data(
    config: Config, line: Line, column: Column, cell: Cell, known: Chains
) -> dict[str, Any]:
    """What the panel says of a number beyond its hint: JSON-like."""
    return {
        "text": cell.marked,
        "value": cell.mean,
        "published": cell.published,
        "chains": [
            (run.name, key)
            for run in runs_of(config, line.row)
            if (key := chains.key_of(run.name, column.benchmark)) in known.chains
        ],
    }


def hint(cell: Cell) -> str:
    """What a cell's number rests on: problems solved and 95 % interval, for each seed.

    Then how it differs from the row that it builds on, and from the other rows of its model.
    """
    lines = []
    for seed, score in cell.scores:
        low, high = score.interval
        text = f"{score.passed} of {score.n} problems; 95 % interval {low:.1f} to {high:.1f}"
        lines.append(text if len(cell.scores) == 1 else f"seed {seed}: {text}")
    if cell.difference is not None:
        lines.append(f"against its base model: {in_points(cell.difference)}")
    lines += [f"against {name}: {in_points(found)}" for name, found in cell.others]
    if not cell.scores:
        lines.append(without_scores(cell))
    if cell.published is not None:
        lines.append(f"published: {cell.published:.1f}{from_published(cell)}")
    return "\n".join(lines)


def from_published(cell: Cell) -> str:
    """By how much ours differs from the published number."""
    if cell.mean is None or cell.published is None:
        return ""
    return f"; ours is {cell.mean - cell.published:+.1f} points from it"


def without_scores(cell: Cell) -> str:
    """Why a cell has no scores of its own."""
    if cell.mean is not None:
        return "mean over the columns"
    if cell.status == "failed":
        return "failed" + (f": see {cell.log}" if cell.log else "")
    return "quoted, not run" if cell.status == "quoted" else "not scored yet"


def in_points(found: Comparison) -> str:
    """A difference with its 95 % interval, and the exact test's p."""
    low, high = (f"{100 * end:+.1f}" for end in (found.low, found.high))
    return f"{100 * found.difference:+.1f} points ({low} to {high}), p {found.p:.2g}"


def asked_of(column: Column, drawn: Drawn) -> int | None:
    """How many problems a column's scores are of; None while nothing is scored."""
    found = (line.n.get(column.benchmark) for line in drawn.lines)
    return next((n for n in found if n is not None), None)


def spread(cell: Cell) -> str:
    """Beneath a number: the interval of one run, or the standard deviation over the seeds."""
    if cell.deviation is not None:
        return f"± {cell.deviation:.1f}"
    if not cell.scores:
        return ""
    low, high = cell.scores[0][1].interval
    return f"{low:.1f} to {high:.1f}"


def claim_row(claim: claims.Claimed) -> dict[str, str]:
    return {
        "label": claim.label,
        "models": ", ".join(claim.models),
        "ours": claims.percent(claim.ours, "pending"),
        "quoted": claims.percent(claim.quoted, "–"),
        "published": claims.percent(claim.published, "–"),
    }


# ------------------------------------------------------------------ training


def training_row(training: Training, names: Mapping[str, str]) -> dict[str, Any]:
    settings = training.parameters["train"]
    counts = {key: count for key, count in training.counts.items() if key != "samples"}
    mfu = median(training, "mfu")
    return {
        "run": training.run.name,
        "name": names[training.run.name],
        "settings": "\n".join(f"{key}: {value}" for key, value in settings.items()),
        "samples": training.counts.get("samples", 0),
        "counted": ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in counts.items()),
        "tokens": [training.counts.get(key, 0) for key in TOKEN_COUNTS],
        "steps": len(training.steps),
        "figures": [
            [decimals(getattr(figures, key), 3) for figures in (training.before, training.after)]
            for key in ("nll", "p_response", "p_variant")
        ],
        "weighted": percent(median(training, "weighted_tokens")),
        "speed": decimals(median(training, "tokens_per_second"), 0),
        "mfu": "" if mfu is None else f"MFU {percent(mfu)}",
        "moved": f"{training.relative_update:.1e}",
        "seconds": f"{training.seconds:.0f}",
        "memory": f"{training.peak_memory_gb:.1f}",
    }


def decimals(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def share(part: int, whole: int) -> str:
    return percent(part / whole if whole else None)


# ------------------------------------------------------------------ the data's way


def funnel_item(
    dataset: str,
    lines: Sequence[funnel.Line],
    runs: Mapping[str, Sequence[Sequence[funnel.Line]]],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """A dataset's funnel: its steps with bars, and its trainings as rows."""
    rows = lines[0].left
    found = []
    for before, line in zip([lines[0], *lines], lines, strict=False):
        found.append(
            {
                "heading": SOURCES[line.source] if line.source != before.source else None,
                "step": line.step,
                "what": funnel.shown(line),
                "lost": "" if line.lost is None else str(line.lost),
                "left": line.left,
                "share": share(line.left, rows),
                "percent": 100 * line.left / max(rows, 1),
            }
        )
    return {
        "dataset": dataset,
        "lines": found,
        "runs": [
            (
                SOURCES[source],
                [(run, names[run], cells) for run, *cells in map(funnel.run_row, trainings)],
            )
            for source, trainings in runs.items()
        ],
    }


def variants(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    """What became of a source's variants: made, selected, annotated."""
    path = results / source / dataset / "report.json"
    if not path.exists():
        return None
    made = Facts.read(path, source)
    total = made.count("answers" if source == "generate" else "mutants_tried")
    if source == "generate":
        facts = [
            ("teacher", f"{made.get('teacher')} ({made.get('backend')})"),
            ("temperature", str(made.number("temperature"))),
            ("answers", str(total)),
        ]
    else:
        facts = [("mutants looked at", str(total))]
    facts += [
        ("samples", str(made.count("samples"))),
        ("with a usable variant", str(made.count("samples_with_variant"))),
        ("without code", str(made.count("without_code"))),
    ]
    usable = made.count("usable")
    rows = [("usable", usable), *made.counts("refused").items()]
    selected = read_facts(results, "select", dataset, source)
    annotated = read_facts(results, "annotate", dataset, source)
    return {
        "dataset": dataset,
        "label": label,
        "facts": facts,
        "reasons": [
            (reason.replace("_", " "), count, share(count, total), 100 * count / max(total, 1))
            for reason, count in rows
        ],
        "selection": selected and selection(selected),
        "histogram": selected and histogram(selected, f"{dataset} {source}"),
        "annotation": annotated and annotation(annotated),
        "changed": annotated and changed(annotated, f"{dataset} {source}"),
    }


def read_facts(results: Path, stage: str, dataset: str, source: str) -> Facts | None:
    """A stage's report; None if it has not run yet."""
    path = results / stage / dataset / source / "report.json"
    return Facts.read(path, stage) if path.exists() else None


def selection(facts: Facts) -> list[Fact]:
    similarity = facts.part("similarity")
    return [
        ("embedder", str(facts.get("embedder"))),
        ("samples with a variant", str(facts.count("with_variant"))),
        ("samples without", str(facts.count("without_variant"))),
        *verification(facts),
        *(
            (f"{key} cosine", decimals(similarity.number_or_none(key), 3))
            for key in ("mean", "median", "min")
        ),
    ]


def verification(selected: Facts) -> list[Fact]:
    """What the samples' own tests say of the variants, if only wrong ones were wanted."""
    if selected.values.get("verified") is None:
        return []
    shown = selected.part("verified")
    return [
        ("variants shown to be wrong by tests", str(shown.count("wrong"))),
        ("left out, since they pass them", str(shown.count("not_wrong"))),
        ("untested", str(shown.count("untested"))),
    ]


def annotation(facts: Facts) -> list[Fact]:
    return [
        ("pairs", str(facts.count("pairs"))),
        *(
            (f"changed {unit} in the {side}, mean", decimals(changed.number_or_none(side), 1))
            for unit in UNITS
            for changed in [facts.part(f"changed_{unit}")]
            for side in SIDES
        ),
        ("pairs without a difference", str(facts.count("no_difference"))),
        ("no change in the response", str(facts.count("without_marked_response"))),
        ("no change in the variant", str(facts.count("without_marked_variant"))),
    ]


def histogram(facts: Facts, salt: str) -> Markup | None:
    bins = facts.bins("distribution")
    return figures.similarity_histogram(bins, salt) if counted(bins) else None


def changed(facts: Facts, salt: str) -> Markup | None:
    """How much differs in a pair; None if there is no pair."""
    distribution = facts.part("distribution")
    found = {
        unit: {side: part.bins(side) for side in SIDES}
        for unit in UNITS
        for part in [distribution.part(f"changed_{unit}")]
    }
    filled = any(counted(bins) for sides in found.values() for bins in sides.values())
    return figures.changed_figure(found, salt) if filled else None


def counted(bins: figures.Bins) -> int:
    return sum(count for _, _, count in bins)


def first_pairs(results: Path, dataset: str, source: str) -> pl.DataFrame | None:
    """The first samples with a variant and their spans; None if they are not annotated yet.

    Only as many rows are read as that takes: all of them, texts included, would fill the memory.
    """
    path = results / "annotate" / dataset / source / "spans.parquet"
    if not path.exists():
        return None
    needed = ["id", "instruction", *SIDES, "similarity", *SPAN_COLUMNS]
    try:
        frame = pl.scan_parquet(path, glob=False)
        names = frame.collect_schema().names()
        if missing := [column for column in needed if column not in names]:
            raise UserError(f"{path}: no column {', '.join(missing)}; run the annotate stage again")
        # The similarity is null where the variant is, and a number is read sooner than a text.
        is_pair = pl.col("similarity").is_not_null()
        places = frame.select(pl.arg_where(is_pair)).head(SHOWN_PAIRS).collect().to_series()
        rows = places[-1] + 1 if len(places) else 0
        return frame.select(needed).head(rows).filter(is_pair).collect()
    except pl.exceptions.ComputeError as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({error}); run the annotate stage again"
        ) from error


def untrained_sources(
    config: Config,
    sources: Collection[tuple[str, str, str]],
    view: View | None,
    runs: Mapping[str, Run],
) -> list[tuple[str, str, str]]:
    """The datasets and sources of which no training shows what it saw."""
    shown = [runs[run["run"]] for run in view.data["runs"]] if view else []
    trained = {(run.dataset, config.resolve(run.method).variants) for run in shown}
    return [item for item in sources if item[:2] not in trained]


def segments(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    frame = first_pairs(results, dataset, source)
    annotated = read_facts(results, "annotate", dataset, source)
    if frame is None or frame.is_empty() or annotated is None:
        return None
    return {
        "dataset": dataset,
        "label": label,
        "total": annotated.count("pairs"),
        "pairs": [
            {
                "id": row["id"],
                "instruction": row["instruction"],
                "similarity": decimals(row["similarity"], 3),
                "lines": lines_of(row),
            }
            for row in frame.iter_rows(named=True)
        ],
    }


def lines_of(row: Mapping[str, Any]) -> list[Pair]:
    return side_by_side(
        *(code_lines(row[side], row[f"{side}_lines"], row[f"{side}_characters"]) for side in SIDES)
    )


# ------------------------------------------------------------------ outcomes


def outcomes(
    benchmark: str,
    runs: Mapping[str, Run],
    names: Mapping[str, str],
    found: Evaluations,
    results: Path,
) -> dict[str, Any]:
    """The matrix of problems and runs of one benchmark."""
    shown = {run: found[run, benchmark] for run in runs if (run, benchmark) in found}
    columns = [kinds(evaluation) for evaluation in shown.values()]
    letters: dict[str, str] = {}
    tasks = next(iter(shown.values())).outcomes["task_id"].to_list()
    return {
        "benchmark": benchmark,
        "runs": [{"name": names[run], "run": run} for run in shown],
        "has_plus": "plus" in next(iter(shown.values())).scores,
        "rows": list(zip(tasks, zip(*columns, strict=True), strict=True)),
        "totals": [
            (f"{tests} tests", [evaluation.scores[tests].passed for evaluation in shown.values()])
            for tests in next(iter(shown.values())).scores
        ],
        "scorers": distinct(scorer(evaluation.summary) for evaluation in shown.values()),
        "answers": answers(benchmark, shown, names, results),
        "told": {
            "runs": [statuses(evaluation, letters) for evaluation in shown.values()],
            "letters": {letter: status for status, letter in letters.items()},
        },
    }


def kinds(evaluation: Evaluation) -> list[str]:
    """Each problem's outcome: ``plus`` (passes everything), ``base`` or ``fail``."""
    found = []
    for row in evaluation.outcomes.iter_rows(named=True):
        passed = {tests: row[f"{tests}_pass"] for tests in evaluation.scores}
        found.append("plus" if all(passed.values()) else "base" if passed["base"] else "fail")
    return found


def statuses(evaluation: Evaluation, letters: dict[str, str]) -> dict[str, str]:
    """Each problem's status by tests, a letter each; new statuses get the next letter."""
    return {
        tests: "".join(
            letters.setdefault(
                row.get(f"{tests}_status") or ("pass" if row[f"{tests}_pass"] else "fail"),
                chr(ord("a") + len(letters)),
            )
            for row in evaluation.outcomes.iter_rows(named=True)
        )
        for tests in evaluation.scores
    }


def scorer(summary: Facts) -> str:
    """What ran the tests, as far as the summary says so."""
    versions = summary.values.get("versions") or {}
    parts = [f"{name} {version}" for name, version in versions.items()]
    sandbox = summary.values.get("sandbox")
    return ", ".join([*parts, *([f"sandbox {sandbox}"] if sandbox else [])])


def answers(
    benchmark: str, shown: Mapping[str, Evaluation], names: Mapping[str, str], results: Path
) -> list[dict[str, Any]]:
    """How long each run's answers are, and how many met the length limit."""
    found = []
    for run in shown:
        path = results / "evaluate" / run / benchmark / "samples.jsonl"
        if not path.exists():  # one's own samples may have been scored
            continue
        tokens, cut = [], 0
        for _, row in read_objects(path):
            if isinstance(row, BadRow):
                raise UserError(f"{row}. Run the evaluate stage again")
            tokens.append(Facts.of(path, "evaluate", row).count("tokens"))
            cut += bool(row.get("truncated"))
        if tokens:
            mean = f"{sum(tokens) / len(tokens):.0f}"
            found.append({"name": names[run], "tokens": mean, "cut": cut, "n": len(tokens)})
    return found


# ------------------------------------------------------------------ provenance


@dataclasses.dataclass(frozen=True)
class Record:
    """What made one result, from its provenance file."""

    stage: str
    what: str
    started: str
    seconds: float
    code: str
    outputs: list[Fact]  # path and digest
    command: str
    packages: dict[str, str]
    hardware: str
    precision: str  # what its numbers were computed in, in words; empty if they do not depend on it


def read_provenance(config: Config, results: Path) -> Iterator[Record]:
    """The provenance files of what the config asks for, in the order of the stages."""
    for stage, pattern in provenance_places(config):
        for path in sorted(results.glob(f"{stage}/{pattern}")):
            yield read_record(stage, path, results)


def provenance_places(config: Config) -> Iterator[tuple[str, str]]:
    for name in config.models:
        yield "fetch", f"models/{name}/provenance.json"
    for name in config.benchmarks:
        yield "fetch", f"benchmarks/{name}.jsonl.provenance.json"
        yield "fetch", f"benchmarks/{name}.first-*.jsonl.provenance.json"
    for stage in ("decontaminate", "generate", "mutate"):
        yield from ((stage, f"{dataset}/*.provenance.json") for dataset in config.datasets)
    for name in config.datasets:
        yield "generate", f"{name}/shards/*.provenance.json"
    for name in config.audit.benchmarks:
        yield "audit", f"{name}/*provenance.json"
        yield "audit", f"{name}/generate/*.provenance.json"
    for name in config.datasets:
        yield "audit", f"sheets/{name}/*provenance.json"
    for name in config.benchmarks:
        yield "score", f"canonical/{name}/provenance.json"
    for stage in ("verify", "select", "annotate"):
        for dataset, source in itertools.product(config.datasets, SOURCES):
            yield stage, f"{dataset}/{source}/*.provenance.json"
    for run in all_runs(config):
        yield "train", f"{run}/provenance.json"
    for run, benchmark in evaluations(config, config.tables):
        yield "evaluate", f"{run}/{benchmark}/*.provenance.json"
    for run, benchmark in evaluations(config, config.tables):
        yield "score", f"{run}/{benchmark}/provenance.json"


def read_record(stage: str, path: Path, results: Path) -> Record:
    facts = Facts.read(path, stage)
    code = facts.part("code")
    commit = code.get("commit")
    command = facts.get("command")
    hardware = facts.part("hardware")
    settings = facts.values.get("settings") or {}  # layout 1 had none of some stages
    name = settings.get(COMPUTING.get(stage, ""))
    gpus = hardware.get("gpus")
    return Record(
        stage=stage,
        what=str(path.parent.relative_to(results / stage)),
        started=str(facts.get("started")),
        seconds=facts.number("seconds"),
        code=f"{code.get('version')}, "
        + (f"commit {commit[:10]}" if commit else f"sources {str(code.get('sources_sha256'))[:10]}")
        + (", changed since" if code.get("changed") else ""),
        outputs=[(name, str(digest)) for name, digest in facts.part("outputs").values.items()],
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        packages={name: str(version) for name, version in facts.part("packages").values.items()},
        hardware=f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
        + (f", {', '.join(map(str, gpus))}" if gpus else ", no GPU")
        + f"; {hardware.get('system')}",
        precision=f"{stage} in {SHORT[name]}" if name in SHORT else "",
    )


def environment_of(records: list[Record]) -> dict[str, list[Any]]:
    """Each package's versions, and the machines and code versions that took part."""
    packages: dict[str, list[str]] = {}
    for record in records:
        for name, version in record.packages.items():
            found = packages.setdefault(name, [])
            if version not in found:
                found.append(version)
    return {
        "packages": [(name, ", ".join(versions)) for name, versions in packages.items()],
        "hardware": distinct(record.hardware for record in records),
        "precision": distinct(record.precision for record in records),
        "code": distinct(record.code for record in records),
    }


def distinct(texts: Any) -> list[str]:
    """The texts that are not empty, each once, in their order."""
    return [text for text in dict.fromkeys(texts) if text]
