"""Figures for a plan, measured in a results folder."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fgit.benchmarks.kinds import kind_of
from fgit.common.errors import UserError
from fgit.common.files import read_json, read_objects
from fgit.config import Config, Estimate, PlanSettings, read_config
from fgit.plan.costs import REFERENCE, parameters_of, program_rate
from fgit.runs import all_runs, train_settings
from fgit.scores import read_summary
from fgit.steps import Step, outputs_of, steps_of, teacher_files


def measured_settings(config: Config, folder: Path) -> PlanSettings:
    """The config's plan, with what the files of a results folder say in place of assumptions.

    Raises:
        UserError: if the folder has no config, or nothing in it could be measured.
    """
    try:
        source = read_config(folder / "config.yaml")
    except UserError as error:
        raise UserError(
            f"--measured {folder}: the config beside its results cannot be read; name the results "
            f"folder of a run with this version. {error}"
        ) from error
    source = source.model_copy(update={"plan": config.plan})
    steps = steps_of(source)
    figures = {
        **measured_training(source, steps, folder),
        **measured_teacher(config, source, steps, folder),
        **measured_evaluation(source, steps, folder),
        **measured_scoring(source, steps, folder),
        **measured_data(steps, folder),
    }
    if not figures:
        raise UserError(
            f"{folder}: nothing in it could be measured; name a results folder whose stages have "
            "run (results/NAME, or results/NAME-pilot)"
        )
    return config.plan.model_copy(
        update={
            name: Estimate(value=float(f"{value:.4g}"), basis="measured", note=f"{folder}: {note}")
            for name, (value, note) in figures.items()
            if value > 0
        }
    )


Measured = Mapping[str, tuple[float, str]]


def written(steps: Iterable[Step], folder: Path, stage: str, name: str) -> list[tuple[Step, Path]]:
    """The files of this name that a stage's steps wrote, as far as they are there."""
    files = [(s, (folder / s.outputs[0]).with_name(name)) for s in steps if s.stage == stage]
    return [(step, file) for step, file in files if file.exists()]


def measured_training(config: Config, done: Sequence[Step], folder: Path) -> Measured:
    """Rates of trainings from steps.jsonl; a training's first step, which compiles, is left out.

    Steps of versions that did not log ``model_tokens_per_second`` are passed by.
    """
    runs = all_runs(config)
    gpus = config.launch.gpus
    fed: dict[str, float] = defaultdict(float)
    samples: dict[str, int] = defaultdict(int)
    work = seconds = 0.0
    trainings, rests = 0, []
    for training, file in written(done, folder, "train", "steps.jsonl"):
        run = runs[training.wildcards["run"]]
        steps = [row for _, row in read_objects(file) if isinstance(row, dict)]
        if not all("model_tokens_per_second" in step for step in steps):
            continue
        trainings += 1
        settings = train_settings(config, run)
        for number, step in enumerate(steps):
            tokens = step["model_tokens_per_second"] * step["seconds"]
            fed[settings.objective] += tokens
            samples[settings.objective] += step["samples"]
            if number > 0 or len(steps) == 1:
                work += tokens * parameters_of(config, run.model) / REFERENCE
                seconds += step["seconds"]
        # DPO's pass over all samples before the first step is work, and no start.
        whole = wall_seconds(folder / training.times)
        if whole is not None and settings.objective != "dpo":
            rests.append(whole - sum(step["seconds"] for step in steps))
    found: dict[str, tuple[float, str]] = {}
    if seconds:
        note = f"{trainings} trainings"
        found["training_tokens_per_second"] = work / seconds / gpus, f"{note}, {gpus} at a time"
    if rests:
        found["start_seconds"] = statistics.fmean(rests), f"what {len(rests)} trainings took more"
    means = {objective: fed[objective] / samples[objective] for objective in fed}
    if sft := means.get("fixed"):
        found["sample_tokens"] = sft, f"{samples['fixed']} samples trained on"
        for objective in ("fgit", "dpo"):
            if objective in means:
                note = f"{samples[objective]} samples trained on"
                found[f"{objective}_tokens"] = means[objective] / sft, note
    return found


def measured_teacher(
    config: Config, source: Config, steps: Iterable[Step], folder: Path
) -> Measured:
    """The teacher's rate, if it was the one that is planned for, and the length of its answers."""
    tokens = seconds = answers = 0.0
    planned_for = {config.generate.teacher, *teacher_files(config, f"{folder}/")}
    for _, file in written(steps, folder, "gather", "report.json"):
        report = read_json(file)
        if report.get("teacher") in planned_for and report.get("tokens"):
            tokens += report["tokens"]
            answers += report["answers"]
            gpus = report["tensor_parallel"] if report["backend"] == "vllm" else 1
            seconds += report["seconds"] * gpus
    if not tokens:
        return {}
    found = {"answer_tokens": (tokens / answers, f"{answers:.0f} answers")}
    if seconds and source.generate.backend == config.generate.backend != "openai":
        found["teacher_tokens_per_second"] = tokens / seconds, f"{answers:.0f} answers"
    return found


def measured_evaluation(config: Config, steps: Iterable[Step], folder: Path) -> Measured:
    """Rates of evaluations from the lengths of solutions and the seconds of the jobs.

    The seconds hold the loading too, which the plan counts by itself, so the rate is the slope of
    seconds over tokens; where the jobs do not allow that, none is given.
    """
    runs = all_runs(config)
    points: list[tuple[float, float]] = []
    tokens = solutions = chat_solutions = chat_problems = 0.0
    for step, file in written(steps, folder, "evaluate", "samples.jsonl"):
        model = runs[step.wildcards["run"]].model
        if not kind_of(config.benchmarks[step.wildcards["benchmark"]].kind).programs:
            continue
        rows = lengths(file)
        again = lengths(file.with_name("samples_one_bos.jsonl"))
        wrote = sum(rows) + sum(again)
        tokens += wrote
        solutions += len(rows) + len(again)
        if config.models[model].mode == "chat":
            chat_problems += len(rows)
            chat_solutions += len(rows) + len(again)
        seconds = wall_seconds(folder / step.times)
        if seconds is not None:
            points.append((wrote * parameters_of(config, model) / REFERENCE, seconds))
    if not solutions:
        return {}
    found = {"solution_tokens": (tokens / solutions, f"{solutions:.0f} solutions")}
    if chat_problems:
        found["askings"] = chat_solutions / chat_problems, f"{chat_problems:.0f} problems"
    if len({work for work, _ in points}) > 2:
        line = statistics.linear_regression(*zip(*points, strict=True))
        if line.slope > 0 and line.intercept >= 0:
            note = f"{len(points)} jobs, without loading"
            found["evaluation_tokens_per_second"] = 1 / line.slope, note
    return found


def measured_scoring(config: Config, steps: Iterable[Step], folder: Path) -> Measured:
    """Core-seconds of a program, from the scores."""
    spent: dict[str, float] = defaultdict(float)
    programs: dict[str, int] = defaultdict(int)
    for step, file in written(steps, folder, "score", "summary.json"):
        benchmark = config.benchmarks[step.wildcards["benchmark"]]
        summary = read_summary(file.parent)
        if (
            not kind_of(benchmark.kind).programs
            or summary.part_of is not None  # it has the whole's seconds
            or summary.seconds is None
            or summary.threads is None
        ):
            continue
        evaluated = outputs_of("evaluate", **step.wildcards) if step.rule == "score" else ()
        again = [tokens for place in evaluated[1:] for tokens in lengths(folder / place)]
        rate = program_rate(benchmark)
        spent[rate] += summary.seconds * summary.threads
        programs[rate] += summary.n + len(again)
    return {name: (spent[name] / programs[name], f"{programs[name]} programs") for name in spent}


def measured_data(steps: Sequence[Step], folder: Path) -> Measured:
    """Rates of the stages without a model, from jobs that took a minute: less is mostly start."""
    found: dict[str, tuple[float, str]] = {}
    for stage in ("decontaminate", "mutate", "annotate"):
        samples = core_seconds = 0.0
        for step, file in written(steps, folder, stage, "report.json"):
            seconds = wall_seconds(folder / step.times, "cpu_time")
            if seconds is not None and seconds >= 60:
                samples += read_json(file)["samples"]
                core_seconds += seconds
        if core_seconds:
            found[f"{stage}_per_second"] = samples / core_seconds, f"{samples:.0f} samples"
    return found


def lengths(file: Path) -> list[int]:
    """Tokens of each solution in a file of samples; none if it is not there."""
    if not file.exists():
        return []
    rows = (row for _, row in read_objects(file))
    return [row["tokens"] for row in rows if isinstance(row, dict) and "tokens" in row]


def wall_seconds(file: Path, column: str = "s") -> float | None:
    """Seconds of a job, as Snakemake measured them; None where it did not."""
    if not file.exists():
        return None
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        return float(rows[-1][column])
    except (IndexError, KeyError, ValueError):
        return None
