"""The failures of the runs: figures, and what one run solves and another does not, side by side.

The analysis is :mod:`fgit.failures.analysis`; here it is gathered for the report's section and for
the page of ``fgit failures``.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgit.annotate import segments_in
from fgit.benchmarks.kinds import kind_of, programs_of
from fgit.benchmarks.problems import problems_digest, read_problems
from fgit.config import Config
from fgit.failures.analysis import (
    BLANK,
    BOUND,
    EQUAL,
    UNKNOWN,
    UNPARSABLE,
    OneSided,
    RunPrograms,
    analyse,
    changes,
    distinct_passing,
    failure_figures,
    solved_only_by,
)
from fgit.report.evaluations import Evaluations
from fgit.report.formats import grid
from fgit.report.rendering import page_templates
from fgit.report.segments import Pair, code_lines, side_by_side
from fgit.runs import BASE, Run, all_runs
from fgit.scores import Evaluation

MOST = 20  # problems that are shown of each comparison of two runs
MOST_IN_REPORT = 400  # of all comparisons on the report's page
MOST_ALONE = 2000  # on the page of one benchmark's failures
LONGEST = 10_000  # characters of a program that is shown

ShareText = tuple[str, str]  # in words, and what it rests on


# ------------------------------------------------------------------ the report's section


def failures_section(
    config: Config, scores: Evaluations, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The failures of each benchmark that is scored, for the template.

    Left out are pairs of code, which are no programs that fail, and a benchmark that is a part of
    another one shown.
    """
    by_benchmark: dict[str, dict[str, Evaluation]] = {}
    for (run, benchmark), evaluation in scores.items():
        by_benchmark.setdefault(benchmark, {})[run] = evaluation
    items = [
        benchmark_item(config, benchmark, by_run, names)
        for benchmark, by_run in by_benchmark.items()
        if kind_of(config.benchmarks[benchmark].kind).programs
        and config.benchmarks[benchmark].part_of not in by_benchmark
    ]
    most = most_of_each([gap for item in items for gap in item["gaps"]], MOST_IN_REPORT)
    for item in items:
        item["views"] = [view(gap, most) for gap in item.pop("gaps") if len(gap.problems)]
    return items


def benchmark_item(
    config: Config, benchmark: str, by_run: Mapping[str, Evaluation], names: Mapping[str, str]
) -> dict[str, Any]:
    """One benchmark's figures; ``gaps`` has, for each pair of runs compared, both directions."""
    tests = "plus" if all("plus" in e.scores for e in by_run.values()) else "base"
    canonical, without = canonical_programs(config.benchmarks[benchmark].kind, by_run)
    programs = {run: RunPrograms.of(e.outcomes, tests) for run, e in by_run.items()}
    passing = distinct_passing(canonical, programs)
    frames = {run: analyse(p.failing, passing) for run, p in programs.items()}
    gaps = [
        OneSided(names[a], names[b], sides, solved_only_by(*sides, frames[b]))
        for run, other in compared(config, list(by_run))
        for a, b in ((run, other), (other, run))
        for sides in [(programs[a], programs[b])]
    ]
    rows = [gap_row(gap.solver, gap.other, gap.figures) for gap in gaps]
    return {
        "benchmark": benchmark,
        "tests": tests,
        "without_canonical": without,
        "runs": [run_row(names[run], failure_figures(frame)) for run, frame in frames.items()],
        "pairs": list(zip(rows[::2], rows[1::2], strict=True)),
        "gaps": gaps,
    }


def compared(config: Config, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each trained run with its base model, and with standard SFT on the same data and seed."""
    runs = all_runs(config)
    sft = [
        method
        for method in config.methods
        if (settings := config.resolve(method)).objective == "fixed" and settings.weight == 1
    ]
    for name in names:
        run = runs[name]
        if run.dataset is None:
            continue
        others = [Run(run.model, None, BASE, None).name]
        if run.method not in sft:
            others += [dataclasses.replace(run, method=method).name for method in sft]
        yield from ((name, other) for other in others if other in names)


def canonical_programs(
    kind: Any, by_run: Mapping[str, Evaluation]
) -> tuple[dict[str, str], str | None]:
    """The canonical solutions from the problem file that the scores name; or why there are none.

    Left out are those that failed where one of the runs was scored.
    """
    summaries = [evaluation.summary for evaluation in by_run.values()]
    files: dict[str, str] = {}
    for score in summaries:
        if score.problems is not None:
            files.setdefault(score.problems, score.problems_sha256)
    for path, sha256 in files.items():
        if Path(path).is_file() and problems_digest(path) == sha256:
            truths = [score.ground_truth for score in summaries if score.ground_truth]
            broken = {task for truth in truths for task in truth.failing}
            return {
                task: programs_of(kind).canonical(row)
                for task, row in read_problems(kind, path).items()
                if task not in broken
            }, None
    if not files:
        return {}, "the scores do not say which problem file they used"
    return {}, f"the problem file of the scores is not there any more: {', '.join(files)}"


# ------------------------------------------------------------------ the page of one benchmark


def standalone(figures: Mapping[str, Any], gaps: Sequence[OneSided]) -> str:
    """The page of ``fgit failures``; whatever comes from a model is escaped.

    Args:
        figures: as they stand in summary.json.
        gaps: of every ordered pair of runs.
    """
    rows = {(gap.solver, gap.other): gap_row(gap.solver, gap.other, gap.figures) for gap in gaps}
    most = most_of_each(gaps, MOST_ALONE, MOST_ALONE)
    item = {
        "benchmark": figures["benchmark"],
        "tests": figures["tests"],
        "without_canonical": None,
        "runs": [run_row(name, figure) for name, figure in figures["runs"].items()],
        "pairs": [[rows[a, b], rows[b, a]] for a, b in itertools.combinations(figures["runs"], 2)],
        "views": [view(gap, most) for gap in gaps if len(gap.problems)],
    }
    return page_templates().get_template("failures.html.jinja").render(item=item)


def as_markdown(figures: Mapping[str, Any]) -> str:
    """The figures as two tables: the runs, and the pairs of runs."""
    rows = [run_row(name, figure) for name, figure in figures["runs"].items()]
    runs = grid(
        ["run", "failures", f"≤ {BOUND} places, largely correct", f"≤ {BOUND} lines", "among them"],
        [
            [r["name"], r["failures"], *in_lines(r["few_places"], r["few_lines"]), r["aside"]]
            for r in rows
        ],
        1,
    )
    rows = [gap_row(figure["solved_by"], figure["not_by"], figure) for figure in figures["pairs"]]
    if not rows:
        return runs
    pairs = grid(
        ["solved by", "not by", "problems", f"≤ {BOUND} lines to its program", "to the nearest"],
        [
            [r["solver"], r["other"], r["problems"], *in_lines(r["few_lines"], r["nearest"])]
            for r in rows
        ],
        2,
    )
    return f"{runs}\n\n{pairs}"


def in_lines(*figures: ShareText) -> list[str]:
    return [f"{text} ({rests_on})" if rests_on else text for text, rests_on in figures]


# ------------------------------------------------------------------ rows and views


def run_row(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A run's figures as the tables show them."""
    names = {
        UNPARSABLE: "not Python",
        EQUAL: "same as a passing one",
        BLANK: "empty",
        UNKNOWN: "no passing program known",
    }
    statuses = figures["statuses"]
    aside = [f"{statuses[status]} {text}" for status, text in names.items() if statuses[status]]
    return {
        "name": name,
        "failures": str(figures["failures"]),
        "few_places": figure_of(figures["few_places_largely_correct"]),
        "few_lines": figure_of(figures["few_lines"]),
        "any_places": figure_of(figures["few_places"]),
        "aside": ", ".join(aside) or "–",
    }


def gap_row(solver: str, other: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "solver": solver,
        "other": other,
        "problems": str(figures["problems"]),
        "few_lines": figure_of(figures["few_lines"]),
        "nearest": figure_of(figures["few_lines_nearest"]),
    }


def figure_of(share: Mapping[str, Any]) -> ShareText:
    """A share, and what it rests on: part, whole and 95 % interval."""
    if share["share"] is None:
        return "–", ""
    low, high = (100 * bound for bound in share["interval"])
    rests_on = f"{share['n']} of {share['of']}; {low:.0f} to {high:.0f}"
    return f"{100 * share['share']:.1f} %", rests_on


def most_of_each(gaps: Sequence[OneSided], in_all: int, most: int = MOST) -> int:
    """How many problems of each comparison are shown, so that the page stays within bounds."""
    with_problems = sum(1 for gap in gaps if len(gap.problems))
    return max(1, min(most, in_all // max(1, with_problems)))


def view(gap: OneSided, most: int) -> dict[str, Any]:
    """The problems of a comparison with both programs, the nearest to each other first."""
    solver, other = gap.programs
    rows = gap.problems.sort("lines", "places", nulls_last=True, maintain_order=True)
    return {
        "solver": gap.solver,
        "other": gap.other,
        "total": rows.height,
        "problems": [
            {"task_id": row["task_id"], "distance": distance_text(row)}
            | compared_lines(other.failing[row["task_id"]], solver.passing[row["task_id"]])
            for row in rows.head(most).iter_rows(named=True)
        ],
    }


def distance_text(row: Mapping[str, Any]) -> str:
    """How far apart the two programs are, in words."""
    if row["status"] == BLANK:
        return "an empty answer"
    if row["status"] == EQUAL:
        return "nothing that acts differs: the verdict has other reasons"
    parts = [f"{count_text(row['lines'], 'line')} in {count_text(row['places'], 'place')}"]
    if row["status"] == UNPARSABLE:
        parts.append("no Python, compared as text")
    if row["nearest_lines"] < row["lines"]:
        lines = count_text(row["nearest_lines"], "line")
        parts.append(f"nearest: {row['nearest_source']}, {lines}")
    return "; ".join(parts)


def count_text(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def compared_lines(wrong: str, right: str) -> dict[str, list[Pair] | None]:
    """Both programs as they are compared, what differs marked; None if they are too long."""
    if max(len(wrong), len(right)) > LONGEST:
        return {"lines": None}
    edit = changes(wrong, right)
    before, after = "\n".join(edit.before), "\n".join(edit.after)
    marks = segments_in(before, after, edit.blocks)
    return {
        "lines": side_by_side(
            code_lines(before, marks.response_lines, marks.response_characters),
            code_lines(after, marks.variant_lines, marks.variant_characters),
        )
    }
