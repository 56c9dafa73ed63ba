"""The report as one HTML page: what it shows, gathered for the template."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from fgit.annotate import SIDES
from fgit.config import Config
from fgit.errors import UserError
from fgit.files import BadRow, read_objects, read_parquet
from fgit.report import audit, failures, figures, templates
from fgit.report.facts import Facts
from fgit.report.scores import Evaluation, Evaluations, short_names
from fgit.report.segments import Pair, code_lines, side_by_side
from fgit.report.tables import Cell, Drawn, reading
from fgit.report.training import Training, median
from fgit.runs import Run, all_runs, evaluations
from fgit.statistics import Comparison

SOURCES = {"generate": "teacher", "mutate": "mutation"}
SHOWN_REMOVED = 200
SHOWN_PAIRS = 8
SPAN_COLUMNS = [f"{side}_{kind}" for side in SIDES for kind in ("lines", "characters")]

Fact = tuple[str, str]  # what it is, and its value


def page(
    config: Config,
    results: Path,
    tables: Mapping[str, Drawn],
    found: Evaluations,
    trainings: Mapping[str, Training],
) -> str:
    """The page as HTML. Whatever comes from a model or from data is escaped.

    Raises:
        UserError: naming the file, if one that is there cannot be read or lacks something.
    """
    runs = all_runs(config)
    names = short_names(runs.values())
    done = list(trainings.values())
    environment = templates.environment()
    environment.filters |= {"hint": hint, "spread": spread}
    sources = [
        (dataset, source, label) for dataset in config.datasets for source, label in SOURCES.items()
    ]
    records = list(read_provenance(config, results))
    return environment.get_template("report.html.jinja").render(
        config=config,
        scored=len(found),
        asked=len(evaluations(config, config.tables)),
        tables=[(drawn, reading(drawn)) for drawn in tables.values()],
        trainings=[training_row(training, names) for training in done],
        untrained=[
            run.name
            for run in runs.values()
            if run.dataset is not None and run.name not in trainings
        ],
        loss_figure=figures.loss_curves(done, names) if done else None,
        weight_figure=figures.weight_curves(done, names),
        held_out_figure=figures.held_out_figure(done, names) if done else None,
        decontamination=each_there(decontamination, results, [(d,) for d in config.datasets]),
        variants=each_there(variants, results, sources),
        audit=audit.section(config, results),
        segments=each_there(segments, results, sources),
        outcomes=[
            outcomes(benchmark, runs, names, found, results)
            for benchmark in dict.fromkeys(benchmark for _, benchmark in found)
        ],
        failures=failures.section(config, found, names),
        environment=environment_of(records),
        provenance=records,
        sides=SIDES,
    )


def each_there(make: Any, results: Path, places: Any) -> list[Any]:
    """What ``make`` finds at each place; a stage that has not run yet gives None, left out."""
    return [made for place in places if (made := make(results, *place)) is not None]


# ------------------------------------------------------------------ cells of a table


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
    return "\n".join(lines) or "not scored yet"


def in_points(found: Comparison) -> str:
    """A difference with its 95 % interval, and the exact test's p."""
    low, high = (f"{100 * end:+.1f}" for end in (found.low, found.high))
    return f"{100 * found.difference:+.1f} points ({low} to {high}), p {found.p:.2g}"


def spread(cell: Cell) -> str:
    """Beneath a number: the interval of one run, or the standard deviation over the seeds."""
    if cell.deviation is not None:
        return f"± {cell.deviation:.1f}"
    if not cell.scores:
        return ""
    low, high = cell.scores[0][1].interval
    return f"{low:.1f} to {high:.1f}"


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


def decontamination(results: Path, dataset: str) -> dict[str, Any] | None:
    path = results / "decontaminate" / dataset / "report.json"
    if not path.exists():
        return None
    facts = Facts.read(path, "decontaminate")
    removed = facts.parts("removed")
    columns = ("id", "benchmark", "task_id", "what", "field", "text")
    benchmarks = facts.part("benchmarks")
    looked_for = [
        f"{name} ({benchmarks.part(name).count('problems')} problems, "
        f"{benchmarks.part(name).count('texts')} texts)"
        for name in benchmarks.values
    ]
    return {
        "dataset": dataset,
        "rule": facts.get("rule"),
        "facts": [
            ("samples", str(facts.count("samples"))),
            ("unusable rows", str(facts.count("bad_row_count"))),
            ("removed", str(facts.count("removed_count"))),
            ("over the config's limit", str(facts.count("over_limit"))),
            ("kept", str(facts.count("kept"))),
            ("duplicates among the kept", str(facts.count("duplicates"))),
            ("trivial texts, exempt", str(facts.count("exempt_texts"))),
            ("looked for", ", ".join(looked_for) or "nothing"),
        ],
        "removed": [
            {column: item.get(column) for column in columns} for item in removed[:SHOWN_REMOVED]
        ],
        "more": max(0, len(removed) - SHOWN_REMOVED),
        "path": path.relative_to(results),
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
    selected = selection(results, dataset, source)
    return {
        "dataset": dataset,
        "label": label,
        "facts": facts,
        "reasons": [
            (reason.replace("_", " "), count, share(count, total), 100 * count / max(total, 1))
            for reason, count in rows
        ],
        "selection": selected,
        "histogram": histogram(results, dataset, source) if selected else None,
        "annotation": annotation(results, dataset, source),
    }


def selection(results: Path, dataset: str, source: str) -> list[Fact] | None:
    path = results / "select" / dataset / source / "report.json"
    if not path.exists():
        return None
    facts = Facts.read(path, "select")
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


def annotation(results: Path, dataset: str, source: str) -> list[Fact] | None:
    path = results / "annotate" / dataset / source / "report.json"
    if not path.exists():
        return None
    facts = Facts.read(path, "annotate")
    return [
        ("pairs", str(facts.count("pairs"))),
        *(
            (f"changed {unit} in the {side}, mean", decimals(changed.number_or_none(side), 1))
            for unit in ("lines", "characters")
            for changed in [facts.part(f"changed_{unit}")]
            for side in SIDES
        ),
        ("no change in the response", str(facts.count("without_marked_response"))),
        ("no change in the variant", str(facts.count("without_marked_variant"))),
    ]


def read_pairs(results: Path, dataset: str, source: str) -> pl.DataFrame | None:
    """The samples with a variant and their spans, or None if they are not annotated yet."""
    path = results / "annotate" / dataset / source / "spans.parquet"
    if not path.exists():
        return None
    frame = read_parquet(path)
    needed = ["id", "instruction", *SIDES, "similarity", *SPAN_COLUMNS]
    if missing := [column for column in needed if column not in frame.columns]:
        raise UserError(f"{path}: no column {', '.join(missing)}; run the annotate stage again")
    return frame.filter(pl.col("variant").is_not_null())


def histogram(results: Path, dataset: str, source: str) -> Markup | None:
    frame = read_pairs(results, dataset, source)
    values = [] if frame is None else frame["similarity"].drop_nulls().to_list()
    return figures.similarity_histogram(values, f"{dataset} {source}") if values else None


def segments(results: Path, dataset: str, source: str, label: str) -> dict[str, Any] | None:
    frame = read_pairs(results, dataset, source)
    if frame is None or frame.is_empty():
        return None
    return {
        "dataset": dataset,
        "label": label,
        "total": frame.height,
        "pairs": [
            {
                "id": row["id"],
                "instruction": row["instruction"],
                "similarity": decimals(row["similarity"], 3),
                "lines": lines_of(row),
            }
            for row in frame.head(SHOWN_PAIRS).iter_rows(named=True)
        ],
    }


def lines_of(row: Mapping[str, Any]) -> list[Pair]:
    return side_by_side(
        *(code_lines(row[side], row[f"{side}_lines"], row[f"{side}_characters"]) for side in SIDES)
    )


# ------------------------------------------------------------------ outcomes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A problem's outcome for a run: ``plus`` (passes everything), ``base`` or ``fail``."""

    kind: str
    hint: str


def outcomes(
    benchmark: str,
    runs: Mapping[str, Run],
    names: Mapping[str, str],
    found: Evaluations,
    results: Path,
) -> dict[str, Any]:
    """The matrix of problems and runs of one benchmark."""
    shown = {run: found[run, benchmark] for run in runs if (run, benchmark) in found}
    columns = [outcomes_of(names[run], evaluation) for run, evaluation in shown.items()]
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
    }


def outcomes_of(name: str, evaluation: Evaluation) -> list[Outcome]:
    found = []
    for row in evaluation.outcomes.iter_rows(named=True):
        passed = {tests: row[f"{tests}_pass"] for tests in evaluation.scores}
        kind = "plus" if all(passed.values()) else "base" if passed["base"] else "fail"
        told = "; ".join(
            f"{tests}: {row.get(f'{tests}_status') or ('pass' if value else 'fail')}"
            for tests, value in passed.items()
        )
        found.append(Outcome(kind, f"{row['task_id']}, {name}: {told}"))
    return found


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
    for stage in ("decontaminate", "generate", "mutate"):
        yield from ((stage, f"{dataset}/*.provenance.json") for dataset in config.datasets)
    for name in config.audit.benchmarks:
        yield "audit", f"{name}/*provenance.json"
        yield "audit", f"{name}/generate/*.provenance.json"
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
        "code": distinct(record.code for record in records),
    }


def distinct(texts: Any) -> list[str]:
    """The texts that are not empty, each once, in their order."""
    return [text for text in dict.fromkeys(texts) if text]
