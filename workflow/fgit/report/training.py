"""What the trainings left behind: their figures before and after, and every step."""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

from fgit.runs import Run
from fgit.stage_reports import RunParameters, TrainingStep, TrainReport
from fgit.steps import folder_of


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run."""

    run: Run
    metrics: TrainReport
    steps: list[TrainingStep]
    parameters: RunParameters


def read_trainings(runs: Iterable[Run], results: Path) -> dict[str, Training]:
    """The trainings that are done, by run name, in the runs' order."""
    trainings: dict[str, Training] = {}
    for run in runs:
        folder = results / folder_of("train", run=run.name)
        if run.dataset is not None and (metrics := TrainReport.find(folder)) is not None:
            steps = TrainingStep.read_rows(folder / TrainingStep.file)
            parameters = RunParameters.read(folder / RunParameters.file)
            trainings[run.name] = Training(run, metrics, steps, parameters)
    return trainings


def curve(training: Training, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a logged figure; steps without it are left out."""
    values = [(float(step.step), step.values.get(key)) for step in training.steps]
    points = [(x, float(y)) for x, y in values if isinstance(y, int | float) and math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def median(training: Training, key: str) -> float | None:
    """The median of a logged figure over the steps; None where it is not logged."""
    values = curve(training, key)[1]
    return statistics.median(values) if values else None
