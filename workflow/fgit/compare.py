"""Comparing two scored runs on the same problems: which differences mean something.

The statistics are those of :mod:`fgit.common.statistics`; several folders on a side are seeds of
one run.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgit.benchmarks.kinds import kind_of
from fgit.common.errors import UserError
from fgit.common.files import existing, write_json
from fgit.common.statistics import Floats, compare_paired, over_seeds, paired_bootstrap
from fgit.scores import Evaluation, Score, metric_of, read_evaluation

log = logging.getLogger(__name__)

# What a verdict may depend on besides the program.
CONDITIONS = ("sandbox", "settings", "versions")
NAMED = 5  # task_ids in an error
GAP = "gap"


def compare(a: Sequence[Path], b: Sequence[Path], out: Path) -> None:
    """Compare two runs, print a table, and write the same to ``out`` as JSON.

    Keys: a, b (the folders), benchmark, n, problems_sha256, sandbox, and ``metrics``, named as in
    ``results.parquet``. A metric has

    * a and b: values (one a seed), mean, deviation (over the seeds, n - 1; null for one) and
      interval (95 %: the score's own for one seed, a bootstrap over the problems for several);
    * n, difference (a less b) and interval (95 %, paired bootstrap over the problems);
    * p: of the exact test (:func:`fgit.common.statistics.sign_flip`; McNemar's for one seed each);
      only_a and only_b: the task_ids that every seed of one side solves and no seed of the other.
      A gap has none of the three.

    Shares are fractions; a gap is a difference of probabilities, over the pairs of code that all
    folders could compare.

    Args:
        a, b: score folders, as the score stage writes them; several are seeds.

    Raises:
        UserError: naming the folders, if one is not a score folder, or if they were not scored on
            the same problems.
    """
    sides = align(read_side("a", a), read_side("b", b))
    first = sides["a"][0]
    result = {
        **{side: [str(seed.folder) for seed in seeds] for side, seeds in sides.items()},
        "benchmark": first.kind,
        "n": first.outcomes.height,
        "problems_sha256": first.summary.problems_sha256,
        "sandbox": {
            side: [seed.summary.sandbox for seed in seeds] for side, seeds in sides.items()
        },
        "metrics": compare_metrics(sides["a"], sides["b"]),
    }
    write_json(out, result)
    print(comparison_text(result))


# ------------------------------------------------------------------ reading


def read_side(side: str, folders: Sequence[Path]) -> list[Evaluation]:
    """The score folders of one run, one a seed."""
    seeds: list[Evaluation] = []
    for folder in folders:
        for name in ("summary.json", "outcomes.parquet"):
            if not (existing(folder) / name).is_file():
                raise UserError(
                    f"--{side}: {folder} is not a score folder (there is no {name} in it); name a "
                    "folder that fgit score wrote, such as results/NAME/score/RUN/BENCHMARK"
                )
        if folder.resolve() in {seed.folder.resolve() for seed in seeds}:
            raise UserError(f"--{side}: {folder} is named twice; each folder is another seed")
        seeds.append(read_evaluation(folder))
    return seeds


def align(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Both sides with their outcomes in one order of the problems.

    Raises:
        UserError: naming two folders, if they are not of the same problems.
    """
    order = a[0].outcomes.select("task_id")

    def in_order(seed: Evaluation) -> Evaluation:
        check_comparable(a[0], seed)
        outcomes = order.join(seed.outcomes, on="task_id", how="left", maintain_order="left")
        return dataclasses.replace(seed, outcomes=outcomes)

    return {"a": [in_order(seed) for seed in a], "b": [in_order(seed) for seed in b]}


def check_comparable(first: Evaluation, second: Evaluation) -> None:
    """Refuse two score folders that are not of the same problems; warn of other conditions."""
    folder, other = first.folder, second.folder
    both = f"{folder} and {other} cannot be compared"
    if first.kind != second.kind:
        raise UserError(f"{both}: benchmarks of kind {first.kind} and {second.kind}")
    tasks, others = (set(seed.outcomes["task_id"]) for seed in (first, second))
    if tasks != others:
        differing = [
            f"{len(only)} only in {where} ({some(sorted(only))})"
            for where, only in ((folder, tasks - others), (other, others - tasks))
            if only
        ]
        raise UserError(f"{both}: not the same problems: {'; '.join(differing)}")
    if first.summary.problems_sha256 != second.summary.problems_sha256:
        raise UserError(
            f"{both}: the problems have the same names but come from other files, of SHA-256 "
            f"{first.summary.problems_sha256} and {second.summary.problems_sha256}; "
            "score both on one file"
        )
    if list(first.scores) != list(second.scores):
        raise UserError(f"{both}: only one of them has a score on the plus tests; score it again")
    a, b = first.summary, second.summary
    if keys := ", ".join(key for key in CONDITIONS if getattr(a, key) != getattr(b, key)):
        log.warning(
            "%s and %s were not scored alike: their summary.json differ in %s", folder, other, keys
        )


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


# ------------------------------------------------------------------ comparing


def compare_metrics(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> dict[str, Any]:
    """Every metric that both sides have, compared; the evaluations' problems are in one order."""
    metrics: dict[str, Any] = {}
    tasks = a[0].outcomes["task_id"]
    for tests in a[0].scores:
        solved = [np.array([seed.solved(tests) for seed in side]) for side in (a, b)]
        comparison = compare_paired(solved[0], solved[1])
        metrics[metric_of(a[0].kind, tests)] = {
            "a": side_figures(solved[0], [seed.scores[tests] for seed in a]),
            "b": side_figures(solved[1], [seed.scores[tests] for seed in b]),
            "n": comparison.n,
            "difference": comparison.difference,
            "interval": [comparison.low, comparison.high],
            "p": comparison.p,
            "only_a": tasks[comparison.only_a].to_list(),
            "only_b": tasks[comparison.only_b].to_list(),
        }
    if not kind_of(a[0].kind).programs:
        gaps = [np.array([seed.gaps for seed in side]) for side in (a, b)]
        compared = np.isfinite(np.concatenate(gaps)).all(axis=0)
        if compared.any():
            gaps = [side[:, compared] for side in gaps]
            difference, low, high = paired_bootstrap(*(side.mean(axis=0) for side in gaps))
            metrics[GAP] = {
                "a": side_figures(gaps[0]),
                "b": side_figures(gaps[1]),
                "n": int(compared.sum()),
                "difference": difference,
                "interval": [low, high],
            }
    return metrics


def side_figures(values: Floats, scores: Sequence[Score] = ()) -> dict[str, Any]:
    """One side of a metric.

    Args:
        values: of each seed and problem, shape (seeds, problems).
        scores: of each seed, for shares; one seed's has the interval.
    """
    by_seed = values.mean(axis=1).tolist()
    mean, deviation = over_seeds(by_seed)
    if len(scores) == 1:
        interval = [scores[0].low, scores[0].high]
    else:
        over_problems = values.mean(axis=0)
        interval = list(paired_bootstrap(over_problems, np.zeros_like(over_problems))[1:])
    return {"values": by_seed, "mean": mean, "deviation": deviation, "interval": interval}


# ------------------------------------------------------------------ printing


def comparison_text(result: Mapping[str, Any]) -> str:
    """The result for reading: a table of the metrics, and the problems that one side solves."""
    lines = [f"{side}: {' '.join(result[side])}" for side in ("a", "b")]
    digest = result["problems_sha256"][:8]
    lines += [f"{result['benchmark']}: {result['n']} problems, sha256 {digest}…", ""]
    heading = ["", "a", "b", "a - b", "only a", "only b", "p"]
    rows = [heading, *(metric_row(name, metric) for name, metric in result["metrics"].items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    lines += [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    several = any(len(result[side]) > 1 for side in ("a", "b"))
    lines += [
        "",
        "In percent, with 95 % intervals; a gap is a difference of probabilities. p: exact "
        + ("sign-flip test of the problems' means over the seeds." if several else "McNemar test."),
    ]
    if several:
        lines.append(
            "±: standard deviation over the seeds; intervals of several seeds and of a - b are "
            "over the problems. Only a: by every seed of a, and by none of b."
        )
    for name, metric in result["metrics"].items():
        lines += [
            f"{name}, only {side}: {', '.join(metric[f'only_{side}'])}"
            for side in ("a", "b")
            if metric.get(f"only_{side}")
        ]
    return "\n".join(lines)


def metric_row(name: str, metric: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    scale, digits = (1, 4) if name == GAP else (100, 1)

    def number(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign}.{digits}f}"

    def between(interval: Sequence[float], sign: str = "") -> str:
        return f"({number(interval[0], sign)} to {number(interval[1], sign)})"

    sides = []
    for side in (metric["a"], metric["b"]):
        deviation = "" if side["deviation"] is None else f" ± {number(side['deviation'])}"
        sides.append(f"{number(side['mean'])}{deviation} {between(side['interval'])}")
    difference = f"{number(metric['difference'], '+')} {between(metric['interval'], '+')}"
    if name == GAP:
        return [f"{name} (n = {metric['n']})", *sides, difference, "", "", ""]
    counts = [str(len(metric[f"only_{side}"])) for side in ("a", "b")]
    return [name, *sides, difference, *counts, f"{metric['p']:.3g}"]
