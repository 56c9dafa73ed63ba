"""The report as one HTML page: what it shows, gathered for the template."""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fgit.config import Config
from fgit.lineage import Lineage
from fgit.report import claims, curves, failures, figures, funnel
from fgit.report.audit import audit_section
from fgit.report.cells import cell_data, column_size, hint, spread
from fgit.report.decontamination import decontamination_section
from fgit.report.environment import environment_of, read_jobs
from fgit.report.evaluations import Evaluations, short_names
from fgit.report.first_pairs import pairs_section, untrained_sources
from fgit.report.formats import how_to_read
from fgit.report.funnel import SOURCES
from fgit.report.lineage import chains_of
from fgit.report.outcomes import outcome_matrix
from fgit.report.rendering import decimals, page_templates, percent, share
from fgit.report.segments import view_of
from fgit.report.tables import Drawn
from fgit.report.training import Training, median
from fgit.report.variants import variants_section
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
    lines: Sequence[funnel.FunnelLine],
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
    templates = page_templates()
    templates.filters |= {"hint": hint, "spread": spread, "column_size": column_size}
    sources = [
        (dataset, source, label) for dataset in config.datasets for source, label in SOURCES.items()
    ]
    jobs = list(read_jobs(config, lineage))
    wanted = evaluations(config, config.tables)
    chains = chains_of(lineage, wanted)
    view = view_of(done, names, results)
    matrices = [
        outcome_matrix(benchmark, runs, names, scores, results)
        for benchmark in dict.fromkeys(benchmark for _, benchmark in scores)
    ]
    measured = [
        cell
        for drawn in tables.values()
        for line in drawn.lines
        for _, cell in drawn.measured(line)
    ]
    data = chains | {
        "cells": {
            f"{name}-{row}-{column}": cell_data(
                config, line, drawn.columns[column], cell, chains["chains"]
            )
            for name, drawn in tables.items()
            for row, line in enumerate(drawn.lines)
            for column, cell in enumerate(line.cells)
        },
        "outcomes": [matrix["statuses"] for matrix in matrices],
        "segments": view.data if view else None,
    }
    template_files = importlib.resources.files("fgit") / "report/templates"
    script = (template_files / "report.js").read_text(encoding="utf-8")
    return templates.get_template("report.html.jinja").render(
        config=config,
        script=Markup(script),
        script_digest=policy_digest(script),
        data=Markup(in_script(data)),
        scored=len(scores),
        wanted=len(wanted),
        failed=sum(cell.status == "failed" for cell in measured),
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
        run_headings=funnel.RUN_HEADINGS,
        funnel_reading=funnel.reading(lines),
        mismatch=mismatch,
        decontamination=present(
            decontamination_section(results, dataset) for dataset in config.datasets
        ),
        variants=present(variants_section(results, *source) for source in sources),
        audit=audit_section(config, results),
        view=view,
        segments=present(
            pairs_section(results, *source)
            for source in untrained_sources(config, sources, view, runs)
        ),
        outcomes=matrices,
        failures=failures.failures_section(config, scores, names),
        environment=environment_of(jobs),
        jobs=jobs,
    )


def present(sections: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The sections that there are: of a stage that has not run yet there is none."""
    return [section for section in sections if section is not None]


# ------------------------------------------------------------------ the script and its data


def policy_digest(script: str) -> str:
    """How a page's policy names the one script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def in_script(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def claim_row(claim: claims.Claimed) -> dict[str, str]:
    return {
        "label": claim.claim.label,
        "models": ", ".join(claim.models),
        "ours": claims.improvement_text(claim.ours, "pending"),
        "quoted": claims.improvement_text(claim.quoted, "–"),
        "published": claims.improvement_text(claim.claim.published, "–"),
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
        "used": percent(metrics.used_share),
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
    lines: Sequence[funnel.FunnelLine],
    runs: Mapping[str, Sequence[Sequence[funnel.FunnelLine]]],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """A dataset's funnel: its steps with bars, and its trainings as rows."""
    rows = lines[0].left
    return {
        "dataset": dataset,
        "lines": [
            {
                "heading": SOURCES[line.source] if line.source != before.source else None,
                "step": line.step,
                "what": funnel.description(line),
                "lost": "" if line.lost is None else str(line.lost),
                "left": line.left,
                "share": share(line.left, rows),
                "percent": 100 * line.left / max(rows, 1),
            }
            for before, line in zip([lines[0], *lines], lines, strict=False)
        ],
        "runs": [
            (
                SOURCES[source],
                [(run, names[run], cells) for run, *cells in map(funnel.training_cells, trainings)],
            )
            for source, trainings in runs.items()
        ],
    }
