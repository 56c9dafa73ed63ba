"""The report as one HTML page: what it shows, gathered for the template."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fgit.annotate import SIDES
from fgit.config import Config
from fgit.lineage import Lineage
from fgit.report import audit, claims, curves, decontamination, failures, figures, funnel
from fgit.report.cells import asked_of, cell_data, cells_of, hint, spread
from fgit.report.environment import all_made, environment_of
from fgit.report.evaluations import Evaluations, short_names
from fgit.report.formats import how_to_read
from fgit.report.funnel import SOURCES
from fgit.report.lineage import chains_of
from fgit.report.outcomes import outcomes
from fgit.report.pairs import segments, untrained_sources
from fgit.report.rendering import decimals, environment, percent, share
from fgit.report.segments import view_of
from fgit.report.tables import Drawn
from fgit.report.training import Training, median
from fgit.report.variants import variants
from fgit.runs import all_runs, evaluations

TOKEN_COUNTS = {  # what training counts of the samples, once they are tokens
    "paired": "pairs",
    "fork_for_response": "no mark in the response",
    "fork_for_variant": "no mark in the variant",
    "no_difference": "no difference",
    "marks_cut": "marks cut off",
    "cut": "response cut",
}


def page(
    config: Config,
    lineage: Lineage,
    tables: Mapping[str, Drawn],
    scores: Evaluations,
    trainings: Mapping[str, Training],
    lines: Sequence[funnel.Line],
    mismatch: str = "",
) -> str:
    """The page as HTML. Whatever comes from a model or from data is escaped.

    Args:
        lineage: of the results folder.
        lines: the funnel's; ``mismatch`` says in its place why it does not add up.

    It loads nothing, and runs one script, which is named by its digest in the page's policy.

    Raises:
        UserError: naming the file, if one that is there cannot be read or lacks something.
    """
    results = lineage.results
    runs = all_runs(config)
    names = short_names(runs.values())
    done = list(trainings.values())
    templates = environment()
    templates.filters |= {"hint": hint, "spread": spread, "asked": asked_of}
    sources = [
        (dataset, source, label) for dataset in config.datasets for source, label in SOURCES.items()
    ]
    made = list(all_made(config, results))
    asked = evaluations(config, config.tables)
    chains = chains_of(lineage, asked)
    view = view_of(done, names, results)
    matrices = [
        outcomes(benchmark, runs, names, scores, results)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in scores)
    ]
    data = chains.data | {
        "cells": {
            f"{name}-{row}-{column}": cell_data(config, line, drawn.columns[column], cell, chains)
            for name, drawn in tables.items()
            for row, line in enumerate(drawn.lines)
            for column, cell in enumerate(line.cells)
        },
        "outcomes": [item["told"] for item in matrices],
        "segments": view.data if view else None,
    }
    script = script_text()
    return templates.get_template("report.html.jinja").render(
        config=config,
        script=Markup(script),
        script_digest=digest_of(script),
        data=Markup(in_script(data)),
        scored=len(scores),
        asked=len(asked),
        failed=sum(cell.status == "failed" for cell in cells_of(tables)),
        tables=[(name, drawn, how_to_read(drawn)) for name, drawn in tables.items()],
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
        outcomes=matrices,
        failures=failures.failures_section(config, scores, names),
        environment=environment_of(made),
        provenance=made,
        sides=SIDES,
    )


def each_there(make: Any, results: Path, places: Any) -> list[Any]:
    """What ``make`` finds at each place; a stage that has not run yet gives None, left out."""
    return [made for place in places if (made := make(results, *place)) is not None]


# ------------------------------------------------------------------ the script and its data


def script_text() -> str:
    path = importlib.resources.files("fgit") / "report/templates" / "report.js"
    return path.read_text(encoding="utf-8")


def digest_of(script: str) -> str:
    """How a page's policy names the one script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def in_script(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def claim_row(claim: claims.Claimed) -> dict[str, str]:
    return {
        "label": claim.label,
        "models": ", ".join(claim.models),
        "ours": claims.improvement_text(claim.ours, "pending"),
        "quoted": claims.improvement_text(claim.quoted, "–"),
        "published": claims.improvement_text(claim.published, "–"),
    }


# ------------------------------------------------------------------ training


def training_row(training: Training, names: Mapping[str, str]) -> dict[str, Any]:
    metrics, settings = training.metrics, training.parameters.values["train"]
    counts = {key: count for key, count in metrics.counts.items() if key != "samples"}
    held_out = metrics.held_out_before, metrics.held_out_after
    mfu = median(training, "mfu")
    return {
        "run": training.run.name,
        "name": names[training.run.name],
        "settings": "\n".join(f"{key}: {value}" for key, value in settings.items()),
        "samples": metrics.counts.get("samples", 0),
        "counted": ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in counts.items()),
        "tokens": [metrics.counts.get(key, 0) for key in TOKEN_COUNTS],
        "steps": len(training.steps),
        "figures": [
            [decimals(means.get(key), 3) for means in held_out]
            for key in ("nll", "p_response", "p_variant")
        ],
        "weighted": percent(median(training, "weighted_tokens")),
        "speed": decimals(median(training, "tokens_per_second"), 0),
        "mfu": "" if mfu is None else f"MFU {percent(mfu)}",
        "moved": f"{metrics.relative_update:.1e}",
        "seconds": f"{metrics.seconds:.0f}",
        "memory": f"{metrics.peak_memory_gb:.1f}",
    }


# ------------------------------------------------------------------ the data's way


def funnel_item(
    dataset: str,
    lines: Sequence[funnel.Line],
    runs: Mapping[str, Sequence[Sequence[funnel.Line]]],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """A dataset's funnel: its steps with bars, and its trainings as rows."""
    rows = lines[0].left
    steps = []
    for before, line in zip([lines[0], *lines], lines, strict=False):
        steps.append(
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
        "lines": steps,
        "runs": [
            (
                SOURCES[source],
                [(run, names[run], cells) for run, *cells in map(funnel.run_row, trainings)],
            )
            for source, trainings in runs.items()
        ],
    }
