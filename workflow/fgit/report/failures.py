"""The failures of the runs: figures, and what one run solves and another does not, side by side.

The analysis is :mod:`fgit.failures.analysis`; here it is gathered for the report's section and for
the page of ``fgit failures``.
"""

from __future__ import annotations

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
from fgit.report.rendering import environment
from fgit.report.segments import Pair, code_lines, side_by_side
from fgit.runs import BASE, Run, all_runs
from fgit.scores import Evaluation

SHOWN = 20  # problems of each comparison of two runs
SHOWN_IN_ALL = 400  # on the report's page
SHOWN_ALONE = 2000  # on the page of one benchmark's failures
LONGEST = 10_000  # characters of a program that is shown

Figure = tuple[str, str]  # in words, and what it rests on


# ------------------------------------------------------------------ the report's section


def failures_section(
    config: Config, scores: Evaluations, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The failures of each benchmark that is scored, for the template.

    Left out are pairs of code, which are no programs that fail, and a benchmark that is a part of
    another one shown.
    """
    scored = dict.fromkeys(benchmark for _, benchmark in scores)
    benchmarks = [
        benchmark
        for benchmark in scored
        if kind_of(config.benchmarks[benchmark].kind).programs
        and config.benchmarks[benchmark].part_of not in scored
    ]
    items, gaps = [], {}
    for benchmark in benchmarks:
        mine = {run: e for (run, where), e in scores.items() if where == benchmark}
        items.append(benchmark_item(config, benchmark, mine, names))
        gaps[benchmark] = items[-1].pop("gaps")
    every = [gap for benchmark in benchmarks for pair in gaps[benchmark] for gap in pair]
    each = shown_each(every, SHOWN_IN_ALL)
    for item in items:
        item["views"] = [
            view(gap, each) for pair in gaps[item["benchmark"]] for gap in pair if len(gap.problems)
        ]
    return items


def benchmark_item(
    config: Config, benchmark: str, mine: Mapping[str, Evaluation], names: Mapping[str, str]
) -> dict[str, Any]:
    """One benchmark's figures; ``gaps`` has, for each pair of runs compared, both directions."""
    tests = "plus" if all("plus" in e.scores for e in mine.values()) else "base"
    canonical, without = canonical_programs(config.benchmarks[benchmark].kind, mine)
    programs = {run: RunPrograms.of(e.outcomes, tests) for run, e in mine.items()}
    passing = distinct_passing(canonical, programs)
    frames = {run: analyse(p.failing, passing) for run, p in programs.items()}
    pairs = [
        [
            OneSided(names[a], names[b], sides, solved_only_by(*sides, frames[b]))
            for a, b in ((run, other), (other, run))
            for sides in [(programs[a], programs[b])]
        ]
        for run, other in compared(config, list(mine))
    ]
    return {
        "benchmark": benchmark,
        "tests": tests,
        "without_canonical": without,
        "runs": [run_row(names[run], failure_figures(frame)) for run, frame in frames.items()],
        "pairs": [[gap_row(gap.solver, gap.other, gap.figures) for gap in pair] for pair in pairs],
        "gaps": pairs,
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
    kind: Any, mine: Mapping[str, Evaluation]
) -> tuple[dict[str, str], str | None]:
    """The canonical solutions from the problem file that the scores name; or why there are none.

    Left out are those that failed where one of the runs was scored.
    """
    tried: dict[str, None] = {}
    for evaluation in mine.values():
        path = evaluation.summary.problems
        if path is None or path in tried:
            continue
        tried[path] = None
        if Path(path).is_file() and problems_digest(path) == evaluation.summary.problems_sha256:
            truths = [e.summary.ground_truth for e in mine.values()]
            broken = {task for truth in truths if truth for task in truth.failing}
            return {
                task: programs_of(kind).canonical(row)
                for task, row in read_problems(kind, path).items()
                if task not in broken
            }, None
    if not tried:
        return {}, "the scores do not say which problem file they used"
    return {}, f"the problem file of the scores is not there any more: {', '.join(tried)}"


# ------------------------------------------------------------------ the page of one benchmark


def standalone(figures: Mapping[str, Any], gaps: Sequence[OneSided]) -> str:
    """The page of ``fgit failures``; whatever comes from a model is escaped.

    Args:
        figures: as they stand in summary.json.
        gaps: of every ordered pair of runs.
    """
    rows = {(gap.solver, gap.other): gap_row(gap.solver, gap.other, gap.figures) for gap in gaps}
    each = shown_each(gaps, SHOWN_ALONE, SHOWN_ALONE)
    item = {
        "benchmark": figures["benchmark"],
        "tests": figures["tests"],
        "without_canonical": None,
        "runs": [run_row(name, figure) for name, figure in figures["runs"].items()],
        "pairs": [[rows[a, b], rows[b, a]] for a, b in itertools.combinations(figures["runs"], 2)],
        "views": [view(gap, each) for gap in gaps if len(gap.problems)],
    }
    return environment().get_template("failures.html.jinja").render(item=item)


def as_markdown(figures: Mapping[str, Any]) -> str:
    """The figures as two tables: the runs, and the pairs of runs."""
    runs = [
        [
            row["name"],
            row["failures"],
            in_a_line(row["few_places"]),
            in_a_line(row["few_lines"]),
            row["aside"],
        ]
        for row in (run_row(name, figure) for name, figure in figures["runs"].items())
    ]
    text = grid(
        ["run", "failures", f"≤ {BOUND} places, largely correct", f"≤ {BOUND} lines", "among them"],
        runs,
        1,
    )
    pairs = [gap_row(figure["solved_by"], figure["not_by"], figure) for figure in figures["pairs"]]
    if not pairs:
        return text
    return f"{text}\n\n" + grid(
        ["solved by", "not by", "problems", f"≤ {BOUND} lines to its program", "to the nearest"],
        [
            [
                p["solver"],
                p["other"],
                p["problems"],
                *map(in_a_line, (p["few_lines"], p["nearest"])),
            ]
            for p in pairs
        ],
        2,
    )


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
    return {
        "name": name,
        "failures": str(figures["failures"]),
        "few_places": figure_of(figures["few_places_largely_correct"]),
        "few_lines": figure_of(figures["few_lines"]),
        "any_places": figure_of(figures["few_places"]),
        "aside": ", ".join(
            f"{statuses[status]} {text}" for status, text in names.items() if statuses[status]
        )
        or "–",
    }


def gap_row(solver: str, other: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "solver": solver,
        "other": other,
        "problems": str(figures["problems"]),
        "few_lines": figure_of(figures["few_lines"]),
        "nearest": figure_of(figures["few_lines_nearest"]),
    }


def figure_of(share: Mapping[str, Any]) -> Figure:
    """A share, and what it rests on: part, whole and 95 % interval."""
    if share["share"] is None:
        return "–", ""
    low, high = (100 * bound for bound in share["interval"])
    rests_on = f"{share['n']} of {share['of']}; {low:.0f} to {high:.0f}"
    return f"{100 * share['share']:.1f} %", rests_on


def in_a_line(figure: Figure) -> str:
    return f"{figure[0]} ({figure[1]})" if figure[1] else figure[0]


def shown_each(gaps: Sequence[OneSided], in_all: int, most: int = SHOWN) -> int:
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
            {"task_id": row["task_id"], "told": distance_text(row)}
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
    parts = [f"{counted(row['lines'], 'line')} in {counted(row['places'], 'place')}"]
    if row["status"] == UNPARSABLE:
        parts.append("no Python, compared as text")
    if row["nearest_lines"] < row["lines"]:
        parts.append(f"nearest: {row['nearest_source']}, {counted(row['nearest_lines'], 'line')}")
    return "; ".join(parts)


def counted(count: int, what: str) -> str:
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
