"""What the trainings left behind: their figures before and after, and every step."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fgit.annotate import SIDES
from fgit.common.errors import UserError
from fgit.common.files import BadRow, read_objects
from fgit.report.facts import Facts
from fgit.runs import Run


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Means over the held-out samples; None where there are none, or none with a weight."""

    nll: float | None  # per response token
    p_response: float | None
    p_variant: float | None
    prefers_response: float | None  # share of the samples
    weight: float | None


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run."""

    run: Run
    before: HeldOut
    after: HeldOut
    steps: list[dict[str, Any]]  # each with step and loss, and what else the loop logged
    counts: dict[str, int]  # what became of the samples
    # By side, pairs by the share of their tokens that is marked, in equal bins from 0 to 1; None
    # where it was not counted.
    marked_share: dict[str, list[int]] | None
    seconds: float
    peak_memory_gb: float
    relative_update: float
    parameters: dict[str, Any]  # run.yaml


def read_trainings(runs: Iterable[Run], results: Path) -> dict[str, Training]:
    """The trainings that are done, by run name, in the runs' order."""
    found: dict[str, Training] = {}
    for run in runs:
        folder = results / "train" / run.name
        if run.dataset is not None and (folder / "metrics.json").exists():
            found[run.name] = read_training(run, folder)
    return found


def read_training(run: Run, folder: Path) -> Training:
    """One training's files.

    Raises:
        UserError: naming the file, if one is missing or broken.
    """
    metrics = Facts.read(folder / "metrics.json", "train")
    return Training(
        run=run,
        before=held_out(metrics.part("held_out_before")),
        after=held_out(metrics.part("held_out_after")),
        steps=read_steps(folder / "steps.jsonl"),
        counts=metrics.counts("counts"),
        marked_share=marked_share(metrics),
        seconds=metrics.number("seconds"),
        peak_memory_gb=metrics.number("peak_memory_gb"),
        relative_update=metrics.number("relative_update"),
        parameters=read_parameters(folder / "run.yaml"),
    )


def held_out(facts: Facts) -> HeldOut:
    if not facts.values:  # no samples were held out
        return HeldOut(*[None] * len(dataclasses.fields(HeldOut)))
    return HeldOut(
        **{field.name: facts.number_or_none(field.name) for field in dataclasses.fields(HeldOut)}
    )


def marked_share(metrics: Facts) -> dict[str, list[int]] | None:
    if metrics.values.get("marked_share") is None:
        return None
    found, shares = metrics.part("marked_share"), {}
    for side in SIDES:
        counts = found.get(side)
        if not isinstance(counts, list) or not counts or not all(type(n) is int for n in counts):
            raise found.wrong(side, f"not a list of counts but {counts!r:.60}")
        shares[side] = counts
    return shares


def read_steps(path: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for number, row in read_objects(path):
        if isinstance(row, BadRow):
            raise UserError(f"{row}. Run the train stage again")
        for key in ("step", "loss"):
            value = row.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(
                    f"{path}, row {number}: {key!r} is {value!r:.60}, not a number; "
                    "run the train stage again"
                )
        steps.append(row)
    return steps


def read_parameters(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the train stage again") from error
    if not isinstance(values, dict) or not isinstance(values.get("train"), dict):
        raise UserError(f"{path}: no key 'train' in it; run the train stage again")
    return values


def curve(training: Training, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a logged figure; steps without it are left out."""
    points = [
        (float(step["step"]), float(step[key]))
        for step in training.steps
        if isinstance(step.get(key), int | float) and math.isfinite(step[key])
    ]
    return [x for x, _ in points], [y for _, y in points]


def median(training: Training, key: str) -> float | None:
    """The median of a logged figure over the steps; None where it is not logged."""
    values = curve(training, key)[1]
    return statistics.median(values) if values else None
